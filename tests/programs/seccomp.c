/* Filters and strict mode (CASE[0]) in a child; after go they still hold, in their order. */
#define _GNU_SOURCE
#include "protocol.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int start[2];

static void forbid(int call, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    expect("filter", !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

/* Only read and write, whatever we do inside meanwhile. */
static void forbid_nearly_all(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    expect("filter", !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static void be_filtered(int ready)
{
    char byte;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    forbid(SYS_getppid, 71);
    forbid(SYS_getppid, 72); /* with equal actions the newest filter wins */
    forbid(SYS_sched_yield, 73);
    expect("ready", write(ready, "", 1) == 1);
    expect("start", read(start[0], &byte, 1) == 1);
    expect("older filter", syscall(SYS_getppid) == -1 && errno == 72);
    expect("newer filter", syscall(SYS_sched_yield) == -1 && errno == 73);
    exit(0);
}

static void be_strict(int ready)
{
    char byte;
    expect("strict", !prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    write(ready, "", 1);
    read(start[0], &byte, 1);
    syscall(SYS_getpid); /* deadly */
    syscall(SYS_exit, 5);
}

static void be_caged(int ready)
{
    char byte;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    forbid_nearly_all();
    write(ready, "", 1);
    read(start[0], &byte, 1);
    syscall(SYS_getpid); /* deadly */
    syscall(SYS_exit_group, 5);
}

int main(int argc, char **argv)
{
    int ready[2], status;
    char byte;
    expect("pipes", !pipe(start) && !pipe(ready));
    pid_t child = fork();
    if (!child) {
        if (!strcmp(argv[2], "filters"))
            be_filtered(ready[1]);
        else if (!strcmp(argv[2], "strict"))
            be_strict(ready[1]);
        else
            be_caged(ready[1]);
    }
    expect("set up", read(ready[0], &byte, 1) == 1);
    wait_for_go(argv);
    expect("started", write(start[1], "", 1) == 1);
    expect("end", waitpid(child, &status, 0) == child);
    if (!strcmp(argv[2], "filters"))
        expect("status", status == 0);
    else if (!strcmp(argv[2], "strict"))
        expect("killed", WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    else
        expect("killed", WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    return finish();
}
