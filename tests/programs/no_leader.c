/* A process whose main thread has ended; two others go on, with a descriptor and a child. */
#define _GNU_SOURCE
#include "protocol.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static char **arguments;
static int ends[2];
static pid_t child;

static void *help(void *number)
{
    wait_along(arguments);
    expect("written", write(ends[1], number, 4) == 4);
    return NULL;
}

static void *go_on(void *helper)
{
    char text[4];
    int status;
    siginfo_t info;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    usleep(20000); /* the leader ends */
    wait_for_go(arguments);
    expect("not the leader", syscall(SYS_gettid) != getpid());
    expect("read", read(ends[0], text, 4) == 4 && !memcmp(text, "here", 4));
    pthread_join(*(pthread_t *)helper, NULL);
    expect("the process's signal", sigwaitinfo(&set, &info) == SIGUSR1 && info.si_code == SI_USER);
    expect("child", waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
    exit(finish());
}

int main(int argc, char **argv)
{
    static pthread_t helper, other;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGUSR1);
    arguments = argv;
    expect("pipe", !pipe(ends));
    if (!(child = fork())) {
        wait_along(argv);
        exit(3);
    }
    pthread_create(&helper, NULL, help, "here");
    pthread_create(&other, NULL, go_on, &helper);
    pthread_exit(NULL);
}
