/* A process with an IPC namespace of its own, limits changed; a thread and a child in it, a thread in yet another.
 * With argv[2]: an object of that kind is where only a thread is. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include "protocol.h"

static int ready[2], complete[2];

static void limit(const char *value)
{
    int fd = open("/proc/sys/kernel/msgmnb", O_WRONLY);
    expect("limit", write(fd, value, strlen(value)) == (ssize_t)strlen(value));
    close(fd);
}

static void look(const char *what, int wanted)
{
    struct msginfo info;
    expect(what, msgctl(0, IPC_INFO, (struct msqid_ds *)&info) >= 0 && info.msgmnb == wanted);
}

static void make(const char *kind)
{
    int made = !strcmp(kind, "shm") ? shmget(1, 1, IPC_CREAT) : !strcmp(kind, "sem") ? semget(1, 1, IPC_CREAT)
             : !strcmp(kind, "msg") ? msgget(1, IPC_CREAT) : mq_open("/queue", O_CREAT | O_RDWR, 0600, NULL);
    expect(kind, made >= 0);
}

static void *apart(void *arguments)
{
    char **argv = arguments;
    expect("unshare", !unshare(CLONE_NEWIPC));
    if (argv[2])
        make(argv[2]);
    expect("ready", write(ready[1], "", 1) == 1);
    wait_along(argv);
    look("another one", 16384);
    return NULL;
}

static void island(char **argv)
{
    pthread_t thread;
    char byte;
    int status;
    expect("unshare", !unshare(CLONE_NEWIPC));
    limit("12345");
    pthread_create(&thread, NULL, apart, argv);
    expect("thread", read(ready[0], &byte, 1) == 1);
    pid_t child = fork();
    if (!child) {
        expect("complete", write(complete[1], "", 1) == 1);
        wait_along(argv);
        while (msgget(7, 0) < 0)
            usleep(1000);
        exit(0);
    }
    wait_along(argv);
    look("limit", 12345);
    int queue = msgget(7, IPC_CREAT | 0600);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    pthread_join(thread, NULL);
    msgctl(queue, IPC_RMID, NULL);
    exit(0);
}

int main(int argc, char **argv)
{
    int status;
    char byte;
    expect("pipes", !pipe(ready) && !pipe(complete));
    pid_t child = fork();
    if (!child)
        island(argv);
    expect("set up", read(complete[0], &byte, 1) == 1);
    wait_for_go(argv);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    expect("machine", msgget(7, 0) < 0);
    return finish();
}
