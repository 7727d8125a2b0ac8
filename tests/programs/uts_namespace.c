/* A process with a UTS namespace of its own, a thread and a child that share it, a thread that has another one. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include "protocol.h"

static char machine[65];

static void settle(const char *host, const char *domain)
{
    expect("unshare", !unshare(CLONE_NEWUTS));
    expect("names", !sethostname(host, strlen(host)) && !setdomainname(domain, strlen(domain)));
}

static void look(const char *host, const char *domain)
{
    struct utsname found;
    expect(host, !uname(&found) && !strcmp(found.nodename, host) && !strcmp(found.domainname, domain));
}

static int ready[2], complete[2];

static void *apart(void *argv)
{
    settle("apart", "");
    expect("ready", write(ready[1], "", 1) == 1);
    wait_along(argv);
    look("apart", "");
    return NULL;
}

static void *along(void *argv)
{
    expect("ready", write(ready[1], "", 1) == 1);
    wait_along(argv);
    look("island", "example.invalid");
    return NULL;
}

static void island(char **argv)
{
    pthread_t one, two;
    char byte;
    settle("island", "example.invalid");
    pthread_create(&one, NULL, along, argv);
    pthread_create(&two, NULL, apart, argv);
    expect("threads", read(ready[0], &byte, 1) + read(ready[0], &byte, 1) == 2);
    pid_t child = fork();
    if (!child) {
        expect("complete", write(complete[1], "", 1) == 1);
        wait_along(argv);
        while (gethostname(machine, sizeof machine) || strcmp(machine, "renamed"))
            usleep(1000);
        exit(0);
    }
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    look("island", "example.invalid");
    int status;
    sethostname("renamed", 7);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    exit(0);
}

int main(int argc, char **argv)
{
    int status;
    char byte;
    expect("set up", !gethostname(machine, sizeof machine) && !pipe(ready) && !pipe(complete));
    pid_t child = fork();
    if (!child)
        island(argv);
    expect("set up", read(complete[0], &byte, 1) == 1);
    wait_for_go(argv);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    char now[65];
    expect("machine", !gethostname(now, sizeof now) && !strcmp(now, machine));
    return finish();
}
