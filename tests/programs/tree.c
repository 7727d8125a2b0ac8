/* A parent and five children with a pipe from each to each; after go each sends its number to all others, and
 * each child ends with a status of its own that the parent reaps (211, 214). */
#include "protocol.h"
#include <signal.h>
#include <sys/wait.h>

enum { COUNT = 6 };
static int ends[COUNT][COUNT][2];

static void exchange(int self)
{
    int token;
    for (int i = 0; i < COUNT; i++)
        if (i != self)
            expect("sent", write(ends[self][i][1], &self, sizeof self) == sizeof self);
    for (int i = 0; i < COUNT; i++)
        if (i != self) {
            expect("read", read(ends[i][self][0], &token, sizeof token) == sizeof token);
            expect("who", token == i);
        }
}

static void child(int self, pid_t parent, char **argv)
{
    pid_t pid = getpid();
    wait_along(argv);
    expect("number", getpid() == pid);
    expect("parent", getppid() == parent);
    exchange(self);
    if (self == 3)
        raise(SIGTERM);
    exit(40 + self);
}

int main(int argc, char **argv)
{
    pid_t pids[COUNT];
    int status;
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++)
            expect("pipe", pipe(ends[i][j]) == 0);
    for (int i = 1; i < COUNT; i++)
        if (!(pids[i] = fork()))
            child(i, getppid(), argv);
    wait_for_go(argv);
    exchange(0);
    for (int i = COUNT - 1; i; i--) {
        expect("reaped", waitpid(pids[i], &status, 0) == pids[i]);
        if (i == 3)
            expect("signal", WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
        else
            expect("status", WIFEXITED(status) && WEXITSTATUS(status) == 40 + i);
    }
    expect("no other child", wait(&status) == -1);
    return finish();
}
