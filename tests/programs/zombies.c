/* Children that have ended while their parent has yet to wait for them: exit statuses, signals, and no signal more. */
#define _GNU_SOURCE
#include "protocol.h"
#include <signal.h>
#include <sys/wait.h>

static pid_t end_with(int status, int number)
{
    siginfo_t info;
    pid_t pid = fork();
    if (!pid) {
        signal(SIGTERM, SIG_DFL);
        if (number)
            raise(number);
        _exit(status);
    }
    expect("ended", !waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    return pid;
}

int main(int argc, char **argv)
{
    sigset_t set;
    siginfo_t info;
    pid_t pids[3];
    int status, is_pending = !strcmp(argv[2], "pending");
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pids[0] = end_with(7, 0);
    pids[1] = end_with(0, 0);
    pids[2] = end_with(0, SIGTERM);
    if (!is_pending)
        expect("SIGCHLD", sigwaitinfo(&set, &info) == SIGCHLD);
    wait_for_go(argv);
    sigpending(&set);
    expect("SIGCHLD waits", sigismember(&set, SIGCHLD) == is_pending);
    if (is_pending)
        expect("of the first", sigwaitinfo(&set, &info) == SIGCHLD && info.si_pid == pids[0]);
    expect("first", waitpid(pids[0], &status, 0) == pids[0] && status == 7 << 8);
    expect("third", waitpid(pids[2], &status, 0) == pids[2] && status == SIGTERM);
    expect("second", waitpid(-1, &status, 0) == pids[1] && status == 0);
    expect("no more", waitpid(-1, &status, 0) == -1);
    return finish();
}
