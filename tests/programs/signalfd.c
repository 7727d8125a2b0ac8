/* A signalfd with signals that wait, each with the word its sender gave; shared by dup. */
#include <signal.h>
#include <sys/signalfd.h>
#include "protocol.h"

int main(int argc, char **argv)
{
    sigset_t mask;
    struct signalfd_siginfo info;
    int words[] = {5, 6, 7};

    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGRTMAX);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int fd = dup(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
    for (int i = 0; i < 3; i++)
        sigqueue(getpid(), SIGRTMAX, (union sigval){.sival_int = words[i]});
    wait_for_go(argv);
    for (int i = 0; i < 3; i++) {
        expect("record", read(fd, &info, sizeof info) == sizeof info);
        expect("signal", (int)info.ssi_signo == SIGRTMAX && info.ssi_int == words[i]);
        expect("sender", (int)info.ssi_pid == getpid());
    }
    expect("no more", read(fd, &info, sizeof info) < 0);
    kill(getpid(), SIGTERM);
    expect("new one", read(fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGTERM);
    return finish();
}
