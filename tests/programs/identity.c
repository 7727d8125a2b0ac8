/* A child that changes who it is and what it may (CASE[0]), and finds itself the same after go; its parent stays root,
 * for the child may not look for the go file. */
#define _GNU_SOURCE
#include "protocol.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define STATUS_LINES                                                                               \
    "Name Umask Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Cpus_allowed SigBlk " \
    "THP_enabled "

struct text {
    size_t length;
    char bytes[1 << 16];
};

static void add(struct text *text, const char *name, long value)
{
    text->length += sprintf(text->bytes + text->length, "%s %ld\n", name, value);
}

static void add_file(struct text *text, const char *path, int filter)
{
    char line[4096], word[64];
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "%60[^:]", word);
        strcat(word, " ");
        if (!filter || strstr(STATUS_LINES, word))
            text->length += sprintf(text->bytes + text->length, "%s", line);
    }
    if (file)
        fclose(file);
}

/* What this thread can see of itself. */
static void describe(struct text *text)
{
    char path[64], attributes[64] = {0};
    pid_t tid = syscall(SYS_gettid);
    int value = 0;
    text->length = 0;
    sprintf(path, "/proc/self/task/%d/status", tid);
    add_file(text, path, 1);
    add_file(text, "/proc/self/limits", 0);
    add_file(text, "/proc/self/cgroup", 0);
    add_file(text, "/proc/self/oom_score_adj", 0);
    add(text, "personality", personality(0xffffffff));
    add(text, "nice", getpriority(PRIO_PROCESS, tid));
    add(text, "io priority", syscall(SYS_ioprio_get, 1, tid));
    add(text, "scheduler", syscall(SYS_sched_getattr, tid, attributes, sizeof attributes, 0));
    for (int i = 4; i < 40; i += 4)
        add(text, "attribute", *(int *)(attributes + i));
    add(text, "securebits", prctl(PR_GET_SECUREBITS));
    add(text, "dumpable", prctl(PR_GET_DUMPABLE));
    add(text, "keepcaps", prctl(PR_GET_KEEPCAPS));
    add(text, "timer slack", prctl(PR_GET_TIMERSLACK));
    add(text, "thp", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    add(text, "subreaper", prctl(PR_GET_CHILD_SUBREAPER, &value) + value);
    add(text, "death signal", prctl(PR_GET_PDEATHSIG, &value) + value);
    add(text, "no new privileges", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    add(text, "memory denies", prctl(65 + 1, 0, 0, 0, 0));
    add(text, "io flusher", prctl(58, 0, 0, 0, 0));
    add(text, "membarrier", syscall(SYS_membarrier, 1 << 9, 0, 0));
    add(text, "root", access("/marker of the new root", F_OK));
    add(text, "cwd", syscall(SYS_getcwd, path, sizeof path) > 0 ? strlen(path) : -errno);
}

static void set_capabilities(unsigned effective, unsigned permitted, unsigned inheritable)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{effective, permitted, inheritable}};
    expect("capset", !syscall(SYS_capset, &header, data));
}

static void be_settled(void)
{
    struct rlimit files = {300, 400}, core = {0, 4096};
    cpu_set_t one;
    int score = open("/proc/self/oom_score_adj", O_WRONLY);
    expect("score", write(score, "321", 3) == 3);
    close(score);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    umask(0137);
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_CORE, &core);
    expect("nice", !setpriority(PRIO_PROCESS, 0, 7));
    expect("affinity", !sched_setaffinity(0, sizeof one, &one));
    expect("io priority", !syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6));
    expect("batch", !sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &(struct sched_param){0}));
    personality(ADDR_NO_RANDOMIZE | 0x0100000);
    prctl(PR_SET_TIMERSLACK, 123456);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGUSR2);
    prctl(57, 1, 0, 0, 0);
    expect("membarrier", !syscall(SYS_membarrier, 1 << 4, 0, 0));
    expect("name", !prctl(PR_SET_NAME, "a (new) name"));
}

static void be_user(void)
{
    gid_t groups[] = {7, 9, 100000};
    expect("groups", !setgroups(3, groups));
    expect("gids", !setresgid(11, 12, 13));
    setfsgid(14);
    prctl(PR_SET_KEEPCAPS, 1);
    expect("uids", !setresuid(21, 22, 23));
    setfsuid(24);
    prctl(PR_SET_DUMPABLE, 1);
    prctl(PR_SET_PDEATHSIG, SIGUSR2);
}

static void be_nobody(void)
{
    expect("groups", !setgroups(0, NULL));
    expect("gid", !setgid(65534));
    expect("uid", !setuid(65534)); /* not dumpable then */
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static void be_capable(void)
{
    unsigned some = 1 << CAP_CHOWN | 1 << CAP_NET_ADMIN | 1 << CAP_KILL | 1 << CAP_SETPCAP;
    prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT);
    prctl(PR_CAPBSET_DROP, CAP_AUDIT_READ);
    expect("securebits", !prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS));
    expect("user", !setresuid(1000, 1000, 1000));
    set_capabilities(some & ~(1 << CAP_KILL), some, 1 << CAP_CHOWN | 1 << CAP_NET_ADMIN);
    expect("ambient", !prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
}

static void be_in_a_new_root(void)
{
    expect("directories", !mkdir("root", 0755) && !mkdir("root/inner", 0755) && !mkdir("root/proc", 0755));
    close(open("root/marker of the new root", O_CREAT | O_WRONLY, 0600));
    expect("chroot", !chroot("root") && !chdir("/inner"));
}

static void be_in_a_removed_directory(void)
{
    expect("directory", !mkdir("gone", 0755) && !chdir("gone") && !rmdir("../gone"));
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {{"settings", be_settled}, {"user", be_user}, {"nobody", be_nobody},
             {"capabilities", be_capable}, {"chroot", be_in_a_new_root}, {"removed", be_in_a_removed_directory}};

static int start[2], ready[2];
static pthread_barrier_t changed;

static void be_the_same(void (*change)(void))
{
    static __thread struct text before, after;
    char byte = 0;
    change();
    pthread_barrier_wait(&changed); /* they share what prctl(PR_GET_DUMPABLE) tells */
    describe(&before);
    expect("ready", write(ready[1], &byte, 1) == 1);
    expect("start", read(start[0], &byte, 1) == 1);
    describe(&after);
    if (after.length != before.length || memcmp(after.bytes, before.bytes, after.length)) {
        char *old = before.bytes, *new = after.bytes;
        before.length = 0;
        for (; *old == *new; old++, new++)
            if (*old == '\n')
                before.length = old + 1 - before.bytes;
        old = before.bytes + before.length;
        new = after.bytes + before.length;
        fprintf(stderr, "%.*s is now %.*s\n", (int)strcspn(old, "\n"), old, (int)strcspn(new, "\n"), new);
        exit(1);
    }
}

static void be_raw_user(void) { syscall(SYS_setresuid, 31, 32, 33); }
static void be_raw_group(void) { syscall(SYS_setresgid, 41, 42, 43); }
static void stay(void) {}

static void *other(void *change)
{
    be_the_same(change);
    return NULL;
}

int main(int argc, char **argv)
{
    int status, count = !strcmp(argv[2], "threads") ? 3 : 1;
    char byte = 0;
    expect("pipes", !pipe(start) && !pipe(ready));
    pid_t child = fork();
    if (!child) {
        pthread_barrier_init(&changed, NULL, count);
        pthread_t threads[2];
        if (count == 3) {
            pthread_create(&threads[0], NULL, other, be_raw_user);
            pthread_create(&threads[1], NULL, other, be_raw_group);
            be_the_same(stay);
            pthread_join(threads[0], NULL);
            pthread_join(threads[1], NULL);
        } else
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
                if (!strcmp(argv[2], cases[i].name))
                    be_the_same(cases[i].run);
        exit(0);
    }
    for (int i = 0; i < count; i++)
        expect("set up", read(ready[0], &byte, 1) == 1);
    wait_for_go(argv);
    for (int i = 0; i < count; i++)
        expect("started", write(start[1], &byte, 1) == 1);
    expect("status", waitpid(child, &status, 0) == child && status == 0);
    return finish();
}
