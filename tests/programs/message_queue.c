/* POSIX message queues. CASE: `named`, `removed`, `notified` (of messages by a signal).
 *
 * A child is blocked in mq_receive of an empty queue; another descriptor of the full one may only be written to.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "protocol.h"

static const struct {
    const char *text;
    int length, priority;
} messages[] = {{"high", 4, 9}, {"a\0b", 3, 3}, {"", 0, 3}, {"again", 5, 3}, {"low", 3, 0}};
enum { COUNT = sizeof messages / sizeof *messages, ROOM = 64 };

static void take(mqd_t queue, int place)
{
    char text[ROOM];
    unsigned priority;
    expect("received", mq_receive(queue, text, ROOM, &priority) == messages[place].length);
    expect("message", !memcmp(text, messages[place].text, messages[place].length));
    expect("priority", (int)priority == messages[place].priority);
}

int main(int argc, char **argv)
{
    char name[40], empty_name[40];
    struct mq_attr sizes = {.mq_maxmsg = COUNT + 1, .mq_msgsize = ROOM}, found;
    struct stat status;
    int is_removed = !strcmp(argv[2], "removed"), ended;
    be_apart_if_asked(argc, argv);
    sprintf(name, "/sls-test-%d", getpid());
    sprintf(empty_name, "/sls-empty-%d", getpid());
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0640, &sizes);
    mqd_t end = mq_open(name, O_WRONLY), empty = mq_open(empty_name, O_RDWR | O_CREAT | O_EXCL, 0600, &sizes);
    expect("queues", queue >= 0 && end >= 0 && empty >= 0);
    expect("owner", !fchown(queue, 12, 34) && !fchmod(queue, 0604));
    mq_unlink(empty_name);
    if (is_removed)
        mq_unlink(name);
    if (!strcmp(argv[2], "notified")) {
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
        expect("notification", !mq_notify(empty, &event));
    }
    expect("sent", !mq_send(end, "taken before", 12, 31));
    for (int i = COUNT - 1; i >= 0; i--) /* equal priorities in order */
        if (messages[i].priority != 3)
            expect("sent", !mq_send(end, messages[i].text, messages[i].length, messages[i].priority));
    for (int i = 0; i < COUNT; i++)
        if (messages[i].priority == 3)
            expect("sent", !mq_send(end, messages[i].text, messages[i].length, 3));
    char text[ROOM];
    expect("one taken", mq_receive(queue, text, ROOM, NULL) == 12);
    pid_t child = fork();
    if (!child) {
        unsigned priority;
        long length = mq_receive(empty, text, ROOM, &priority);
        _exit(length == 4 && priority == 7 && !memcmp(text, "late", 4) ? 0 : 5);
    }
    wait_for_go(argv);
    expect("state", !mq_getattr(queue, &found) && found.mq_maxmsg == COUNT + 1 && found.mq_msgsize == ROOM);
    expect("count", found.mq_curmsgs == COUNT && found.mq_flags == O_NONBLOCK);
    expect("owner", !fstat(queue, &status) && status.st_uid == 12 && status.st_gid == 34);
    expect("mode", (status.st_mode & 07777) == 0604 && status.st_nlink == !is_removed);
    expect("write only", mq_receive(end, text, ROOM, NULL) < 0 && errno == EBADF);
    for (int i = 0; i < COUNT; i++)
        take(queue, i);
    expect("end", mq_receive(queue, text, ROOM, NULL) < 0 && errno == EAGAIN);
    expect("late", !mq_send(empty, "late", 4, 7));
    expect("child", waitpid(child, &ended, 0) == child && (ended == 0 || !strcmp(argv[2], "notified")));
    expect("name", mq_open(name, O_RDONLY) >= 0 || is_removed);
    mq_unlink(name);
    return finish();
}
