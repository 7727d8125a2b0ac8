/* Orphans that the program took in, by CASE[0]: of a session whose leader has ended, or lives elsewhere in the tree; of
 * a group whose leader has ended. */
#include "protocol.h"
#include <sys/prctl.h>
#include <sys/wait.h>

static int report[2];

static void be_orphan(char **argv, pid_t parent, pid_t session, pid_t group)
{
    pid_t pid = getpid();
    while (getppid() != parent)
        usleep(1000);
    expect("reported", write(report[1], &pid, sizeof pid) == sizeof pid);
    wait_along(argv);
    expect("number", getpid() == pid);
    expect("parent", getppid() == parent);
    expect("session", getsid(0) == session);
    expect("group", getpgrp() == group);
    exit(9);
}

int main(int argc, char **argv)
{
    int leader_stays = !strcmp(argv[2], "elsewhere"), only_group = !strcmp(argv[2], "group");
    int status;
    pid_t top = getpid(), orphan, leader;
    expect("pipe", !pipe(report));
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (!(leader = fork())) {
        leader = getpid();
        pid_t session = only_group ? top : leader;
        expect("leads", only_group ? !setpgid(0, 0) : setsid() == leader);
        if (!leader_stays) {
            if (fork())
                _exit(0);
            be_orphan(argv, top, session, leader);
        }
        pid_t between = fork();
        if (!between) {
            if (fork())
                _exit(0);
            be_orphan(argv, top, session, leader);
        }
        waitpid(between, &status, 0);
        expect("reported", write(report[1], &leader, sizeof leader) == sizeof leader);
        wait_along(argv);
        exit(8);
    }
    expect("orphan", read(report[0], &orphan, sizeof orphan) == sizeof orphan);
    if (leader_stays) {
        pid_t first = orphan;
        expect("leader", read(report[0], &orphan, sizeof orphan) == sizeof orphan);
        orphan = orphan == leader ? first : orphan;
    } else
        expect("the leader", waitpid(leader, &status, 0) == leader);
    wait_for_go(argv);
    expect("status", waitpid(orphan, &status, 0) == orphan && WEXITSTATUS(status) == 9);
    if (leader_stays)
        expect("status", waitpid(leader, &status, 0) == leader && WEXITSTATUS(status) == 8);
    expect("no more", waitpid(-1, &status, 0) == -1);
    return finish();
}
