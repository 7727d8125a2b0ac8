/* Two process groups under one parent: kill(0) reaches only the sender's own (220). */
#include "protocol.h"
#include <signal.h>
#include <sys/wait.h>

static volatile int signals;

static void count(int number) { signals++; }

static void member(char **argv, int sends)
{
    wait_along(argv);
    if (sends)
        kill(0, SIGUSR1);
    for (int i = 0; !signals && i < 30000; i++)
        usleep(1000);
    exit(signals);
}

int main(int argc, char **argv)
{
    pid_t pids[4], group = 0;
    int status;
    signal(SIGUSR1, count);
    for (int i = 0; i < 4; i++) {
        if (i == 2)
            group = 0;
        if (!(pids[i] = fork())) {
            setpgid(0, group);
            member(argv, i == 1);
        }
        setpgid(pids[i], group);
        group = group ? group : pids[i];
    }
    wait_for_go(argv);
    for (int i = 0; i < 4; i++)
        expect("group", getpgid(pids[i]) == pids[i & 2]);
    for (int i = 0; i < 2; i++) {
        waitpid(pids[i], &status, 0);
        expect("one signal in the sender's group", WIFEXITED(status) && WEXITSTATUS(status) == 1);
    }
    usleep(20000);
    for (int i = 2; i < 4; i++) {
        kill(pids[i], SIGTERM);
        waitpid(pids[i], &status, 0);
        expect("none in the other", WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    }
    expect("none here", signals == 0);
    return finish();
}
