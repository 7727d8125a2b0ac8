/* A child, or a thread, with a namespace of its own (CASE[0]). */
#define _GNU_SOURCE
#include "protocol.h"
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

static const struct {
    const char *name;
    int flag;
} kinds[] = {{"mnt", CLONE_NEWNS},
             {"net", CLONE_NEWNET},        {"user", CLONE_NEWUSER},     {"cgroup", CLONE_NEWCGROUP},
             {"pid_for_children", CLONE_NEWPID}, {"time_for_children", 0x80}};

static int ready[2];

static void *be_apart(void *argv)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, ((char **)argv)[2]))
            expect("unshared", !unshare(kinds[i].flag));
    expect("ready", write(ready[1], "", 1) == 1);
    wait_along(argv);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int status;
    char byte;
    expect("pipe", !pipe(ready));
    if (argc > 3)
        pthread_create(&thread, NULL, be_apart, argv);
    else if (!fork()) {
        be_apart(argv);
        exit(0);
    }
    expect("set up", read(ready[0], &byte, 1) == 1);
    wait_for_go(argv);
    if (argc > 3)
        pthread_join(thread, NULL);
    else
        expect("status", wait(&status) > 0 && status == 0);
    return finish();
}
