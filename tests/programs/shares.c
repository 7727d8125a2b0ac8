/* A child that shares memory, descriptors or directories with its parent (CASE[0]), or a thread that does not. */
#define _GNU_SOURCE
#include "protocol.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

static char stack[65536];
static volatile int is_set;

static int child(void *argv)
{
    is_set = 1;
    while (access(((char **)argv)[1], F_OK))
        usleep(5000);
    return 0;
}

static void *unshare_files(void *argv)
{
    expect("unshared", !unshare(CLONE_FILES));
    child(argv);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int status, flags = !strcmp(argv[2], "memory") ? CLONE_VM : !strcmp(argv[2], "files") ? CLONE_FILES : CLONE_FS;
    if (!strcmp(argv[2], "thread"))
        pthread_create(&thread, NULL, unshare_files, argv);
    else
        expect("child", clone(child, stack + sizeof stack, flags | SIGCHLD, argv) > 0);
    while (!is_set && (!strcmp(argv[2], "thread") || !strcmp(argv[2], "memory")))
        usleep(1000);
    wait_for_go(argv);
    if (!strcmp(argv[2], "thread"))
        pthread_join(thread, NULL);
    else
        expect("status", wait(&status) > 0 && status == 0);
    return finish();
}
