/* So many signals wait, queued and blocked. */
#include "protocol.h"
#include <signal.h>

int main(int argc, char **argv)
{
    sigset_t set;
    union sigval value = {.sival_int = 7};
    siginfo_t info;
    int count = atoi(argv[2]);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 5);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < count; i++)
        expect("queued", !sigqueue(getpid(), SIGRTMIN + 5, value));
    wait_for_go(argv);
    for (int i = 0; i < count; i++)
        expect("taken", sigwaitinfo(&set, &info) == SIGRTMIN + 5 && info.si_value.sival_int == 7);
    return finish();
}
