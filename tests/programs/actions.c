/* The action of each signal: a handler, ignored, the default; in three processes, so that each signal has had all. */
#include "protocol.h"
#include <signal.h>
#include <sys/wait.h>

static void handle(int number) {}

static void (*const kinds[])(int) = {handle, SIG_DFL, SIG_IGN};

static int can_be_set(int number)
{
    return number != SIGKILL && number != SIGSTOP && (number < 32 || number >= SIGRTMIN);
}

static void set_all(int first)
{
    for (int number = 1; number <= SIGRTMAX; number++)
        if (can_be_set(number))
            signal(number, kinds[(number + first) % 3]);
}

static void check_all(int first)
{
    struct sigaction found;
    for (int number = 1; number <= SIGRTMAX; number++)
        if (can_be_set(number)) {
            expect("read", !sigaction(number, NULL, &found));
            if (found.sa_handler != kinds[(number + first) % 3])
                fprintf(stderr, "signal %d, process %d:\n", number, first);
            expect("action", found.sa_handler == kinds[(number + first) % 3]);
        }
}

int main(int argc, char **argv)
{
    int status;
    for (int first = 1; first < 3; first++)
        if (!fork()) {
            set_all(first + 1);
            wait_along(argv);
            check_all(first + 1);
            _exit(7);
        }
    set_all(1); /* SIGCHLD: a handler */
    wait_for_go(argv);
    check_all(1);
    for (int child = 0; child < 2; child++)
        expect("child", wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    return finish();
}
