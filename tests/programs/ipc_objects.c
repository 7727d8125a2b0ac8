/* Two IPC namespaces, each with objects of the same names and numbers; the machine's has others of those names.
 *
 * In each: segments, one attached, one whose maker has ended, one destroyed; a message queue and a semaphore set whose
 * users have ended; POSIX queues, one that nobody has open. CASE `lowered`: the limits are below all of that by now. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "protocol.h"

enum { KEY = 0x54500001, SIZE = 3 * 4096 };

static int complete[2];
static struct { long kind; char text[8]; } message;

static void set_limit(const char *name, const char *value)
{
    char path[64];
    sprintf(path, "/proc/sys/%s", name);
    int fd = open(path, O_WRONLY);
    expect(name, fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value));
    close(fd);
}

static int has_limit(const char *name, const char *value)
{
    char path[64], text[64];
    sprintf(path, "/proc/sys/%s", name);
    int fd = open(path, O_RDONLY);
    long length = read(fd, text, sizeof text);
    close(fd);
    return length == (long)strlen(value) + 1 && !memcmp(text, value, length - 1);
}

static const char *const lowered[][2] = {
    {"kernel/shmmax", "4096"}, {"kernel/shmall", "1"}, {"kernel/shmmni", "1"}, {"kernel/msgmax", "16"},
    {"kernel/msgmnb", "4"}, {"kernel/msgmni", "1"}, {"kernel/sem", "1\t2\t1\t1"}, {"fs/mqueue/queues_max", "1"},
    {"fs/mqueue/msg_max", "2"}, {"fs/mqueue/msgsize_max", "128"}, {"fs/mqueue/msg_default", "2"},
};

static void make_and_end(void) /* what it makes stays; it does not */
{
    struct sembuf up = {2, 5, 0};
    int segment = shmget(KEY + 1, SIZE, IPC_CREAT | 0604), queue = msgget(KEY, IPC_CREAT | 0600);
    char *bytes = shmat(segment, 0, 0);
    expect("segment", bytes != (char *)-1);
    bytes[SIZE - 1] = 'q';
    message.kind = 7;
    for (int i = 0; i < 3; i++) {
        sprintf(message.text, "m%d", i);
        expect("message", !msgsnd(queue, &message, sizeof message.text, 0));
    }
    expect("semaphores", !semop(semget(KEY, 4, IPC_CREAT | 0660), &up, 1));
    _exit(0);
}

static void check_queue(const char *name, int count, char word)
{
    char text[256];
    unsigned priority;
    struct mq_attr found;
    mqd_t queue = mq_open(name, O_RDWR | O_NONBLOCK);
    expect(name, queue >= 0 && !mq_getattr(queue, &found) && found.mq_maxmsg == 5 && found.mq_msgsize == 200);
    expect(name, found.mq_curmsgs == count);
    for (int i = count - 1; i >= 0; i--)
        expect(name, mq_receive(queue, text, 200, &priority) == 1 && text[0] == word && (int)priority == i);
    mq_close(queue);
}

static mqd_t make_queue(const char *name, int count, char word)
{
    struct mq_attr sizes = {.mq_maxmsg = 5, .mq_msgsize = 200};
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0640, &sizes);
    expect(name, queue >= 0);
    for (int i = 0; i < count; i++)
        expect(name, !mq_send(queue, &word, 1, i));
    return queue;
}

static void island(char **argv, char word)
{
    int status, is_lowered = argv[2] && !strcmp(argv[2], "lowered");
    struct shmid_ds ds;
    expect("unshare", !unshare(CLONE_NEWIPC));
    int first = shmget(KEY, SIZE, IPC_CREAT | 0600), gone = shmget(IPC_PRIVATE, SIZE, 0600);
    char *bytes = shmat(first, 0, 0), *unnamed = shmat(gone, 0, 0);
    bytes[0] = unnamed[SIZE - 1] = word;
    shmctl(gone, IPC_RMID, NULL);
    pid_t child = fork();
    if (!child)
        make_and_end();
    expect("maker", waitpid(child, &status, 0) == child && !status);
    mqd_t open_one = make_queue("/open", 2, word), removed = make_queue("/removed", 1, word);
    mq_unlink("/removed");
    mq_close(make_queue("/unopened", 3, word));
    for (unsigned i = 0; is_lowered && i < sizeof lowered / sizeof *lowered; i++)
        set_limit(lowered[i][0], lowered[i][1]);
    expect("complete", write(complete[1], "", 1) == 1);
    wait_along(argv);
    for (unsigned i = 0; is_lowered && i < sizeof lowered / sizeof *lowered; i++)
        expect(lowered[i][0], has_limit(lowered[i][0], lowered[i][1]));
    expect("bytes", bytes[0] == word && unnamed[SIZE - 1] == word && !bytes[1]);
    expect("id", shmget(KEY, 0, 0) == first && !shmctl(first, IPC_STAT, &ds) && ds.shm_nattch == 1);
    expect("destroyed", !shmctl(gone, IPC_STAT, &ds) && ds.shm_perm.mode & 01000);
    int other = shmget(KEY + 1, 0, 0);
    expect("another's", !shmctl(other, IPC_STAT, &ds) && !ds.shm_nattch && (ds.shm_perm.mode & 0777) == 0604);
    char *others = shmat(other, 0, SHM_RDONLY);
    expect("another's", others[SIZE - 1] == 'q');
    int set = semget(KEY, 0, 0);
    expect("semaphores", semctl(set, 2, GETVAL) == 5 && semctl(set, 0, GETVAL) == 0);
    int queue = msgget(KEY, 0);
    for (int i = 0; i < 3; i++)
        expect("messages", msgrcv(queue, &message, sizeof message.text, 0, IPC_NOWAIT) == sizeof message.text
                               && message.kind == 7 && message.text[1] == '0' + i);
    expect("messages", msgrcv(queue, &message, sizeof message.text, 0, IPC_NOWAIT) < 0 && errno == ENOMSG);
    struct mq_attr found;
    char text[200];
    struct stat state;
    check_queue("/open", 2, word);
    check_queue("/unopened", 3, word);
    expect("open", !mq_getattr(open_one, &found) && !found.mq_curmsgs);
    expect("removed", mq_receive(removed, text, sizeof text, NULL) == 1 && text[0] == word);
    expect("removed", !fstat(removed, &state) && !state.st_nlink && mq_open("/removed", O_RDONLY) < 0);
    exit(0);
}

int main(int argc, char **argv)
{
    int status;
    char byte;
    expect("pipe", !pipe(complete));
    pid_t one = fork();
    if (!one)
        island(argv, 'a');
    expect("set up", read(complete[0], &byte, 1) == 1);
    pid_t two = fork();
    if (!two)
        island(argv, 'b');
    expect("set up", read(complete[0], &byte, 1) == 1);
    int mine = shmget(KEY, 100, IPC_CREAT | 0600); /* the machine's of that name */
    char *bytes = shmat(mine, 0, 0);
    shmctl(mine, IPC_RMID, NULL);
    bytes[0] = 'm';
    wait_for_go(argv);
    expect("machine's", bytes[0] == 'm' && shmget(KEY + 1, 0, 0) < 0 && msgget(KEY, 0) < 0 && semget(KEY, 4, 0) < 0);
    expect("one", waitpid(one, &status, 0) == one && !status);
    expect("two", waitpid(two, &status, 0) == two && !status);
    return finish();
}
