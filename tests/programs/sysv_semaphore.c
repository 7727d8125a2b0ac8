/* System V semaphores: values, owners, last users, what is undone at the end of two processes, one that waits.
 *
 * Case `mine`: a parent and a child. Case `unused`: a set that nobody has used yet, whose number of semaphores is
 * more than one call of semop(2) takes. The id goes to the file `ids`, so that the driver can remove the set. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/ipc.h>
#include <sched.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include "protocol.h"

enum { COUNT = 6, MANY = 700 };

static int change(int set, int number, int by, int flags)
{
    struct sembuf operation = {number, by, flags};
    return semop(set, &operation, 1);
}

static int value(int set, int number) { return semctl(set, number, GETVAL); }

static void note(int set)
{
    FILE *ids = fopen("ids", "a");
    expect("set", set >= 0 && fprintf(ids, "%d\n", set) > 0 && !fclose(ids));
}

static int unused(char **argv)
{
    struct semid_ds state;
    int set = semget(IPC_PRIVATE, MANY, 0640);
    note(set);
    wait_for_go(argv);
    expect("set", semctl(set, 0, IPC_STAT, &state) == 0 && state.sem_nsems == MANY);
    expect("mode", (state.sem_perm.mode & 0777) == 0640 && state.sem_perm.__key == IPC_PRIVATE);
    for (int i = 0; i < MANY; i++)
        expect("unused", value(set, i) == 0 && semctl(set, i, GETPID) == 0);
    semctl(set, 0, IPC_RMID);
    return finish();
}

int main(int argc, char **argv)
{
    int status;
    struct semid_ds state;
    be_apart_if_asked(argc, argv);
    if (!strcmp(argv[2], "unused"))
        return unused(argv);
    key_t key = 0x52500000 | (getpid() & 0xffff);
    int set = semget(key, COUNT, IPC_CREAT | IPC_EXCL | 0660);
    note(set);
    state.sem_perm.uid = 1234;
    state.sem_perm.gid = 4321;
    state.sem_perm.mode = 0604;
    expect("owner", semctl(set, 0, IPC_SET, &state) == 0);
    expect("values", !change(set, 0, 32767, 0) && !change(set, 1, 7, 0) && !change(set, 2, 40, 0));
    expect("undo", !change(set, 1, -3, SEM_UNDO) && !change(set, 0, -32767, SEM_UNDO) && !change(set, 2, 9, SEM_UNDO));
    pid_t child = fork();
    if (!child) {
        change(set, 1, -1, SEM_UNDO); /* each has its own to undo */
        change(set, 3, 1, 0);
        if (change(set, 4, -1, 0)) /* waits until the parent has seen go */
            _exit(3);
        _exit(value(set, 5) == 17 ? 0 : 4);
    }
    while (value(set, 3) != 1)
        usleep(1000);
    while (semctl(set, 4, GETNCNT) != 1)
        usleep(1000);
    change(set, 2, 1, 0);
    wait_for_go(argv);
    expect("key", semget(key, 0, 0) == set && semctl(set, 0, IPC_STAT, &state) == 0);
    expect("owner", state.sem_perm.uid == 1234 && state.sem_perm.gid == 4321 && (state.sem_perm.mode & 0777) == 0604);
    expect("values", value(set, 0) == 0 && value(set, 1) == 3 && value(set, 2) == 50 && value(set, 3) == 1);
    expect("users", semctl(set, 0, GETPID) == getpid() && semctl(set, 1, GETPID) == child);
    expect("users", semctl(set, 3, GETPID) == child && semctl(set, 5, GETPID) == 0);
    while (semctl(set, 4, GETNCNT) != 1)
        usleep(1000);
    expect("let go", !change(set, 5, 17, 0) && !change(set, 4, 1, 0));
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    expect("undone by the child's end", value(set, 1) == 4);
    child = fork();
    if (!child) { /* it has nothing to undo; its parent's stays */
        _exit(0);
    }
    expect("child", waitpid(child, &status, 0) == child && value(set, 0) == 0);
    child = fork();
    if (!child)
        _exit(execl("/bin/sh", "sh", "-c", "exit 0", NULL));
    waitpid(child, &status, 0);
    expect("undone by ours", unshare(0x40000) == 0); /* CLONE_SYSVSEM: as an end would */
    expect("undone", value(set, 0) == 32767 && value(set, 1) == 7 && value(set, 2) == 41);
    semctl(set, 0, IPC_RMID);
    return finish();
}
