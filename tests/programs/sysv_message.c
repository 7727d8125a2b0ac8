/* System V message queues: messages of several types in order, an empty one, size, owner, last users, a receiver that
 * waits, a queue that nobody has used yet. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/wait.h>
#include "protocol.h"

struct message {
    long kind;
    char text[4096];
};

static void put(int queue, long kind, const char *text, int length)
{
    struct message message = {kind};
    memcpy(message.text, text, length);
    expect("msgsnd", msgsnd(queue, &message, length, IPC_NOWAIT) == 0);
}

static void take(int queue, long kind, long wanted, const char *text, int length)
{
    struct message message;
    expect(text, msgrcv(queue, &message, sizeof message.text, kind, IPC_NOWAIT) == length);
    expect(text, message.kind == wanted && !memcmp(message.text, text, length));
}

int main(int argc, char **argv)
{
    int status;
    char large[4096];
    struct message message;
    struct msqid_ds state;
    be_apart_if_asked(argc, argv);
    memset(large, 'L', sizeof large);
    key_t key = 0x53500000 | (getpid() & 0xffff);
    int queue = msgget(key, IPC_CREAT | IPC_EXCL | 0622), unused = msgget(IPC_PRIVATE, 0600);
    int waited = msgget(IPC_PRIVATE, 0600);
    FILE *ids = fopen("ids", "a"); /* so that the driver can remove them */
    expect("ids", fprintf(ids, "%d\n%d\n%d\n", queue, unused, waited) > 0 && !fclose(ids));
    expect("owner", msgctl(queue, IPC_STAT, &state) == 0);
    state.msg_perm.uid = 77;
    state.msg_qbytes = 12000;
    expect("owner", msgctl(queue, IPC_SET, &state) == 0);
    put(queue, 5, "first", 5);
    put(queue, 1, "", 0);
    put(queue, 1L << 40, "high", 4);
    put(queue, 1, large, sizeof large);
    put(queue, 5, "second\0with", 11);
    put(queue, 9, "away", 4);
    pid_t child = fork();
    if (!child) {
        take(queue, 9, 9, "away", 4);
        long length = msgrcv(waited, &message, sizeof message.text, -3, 0);
        _exit(length == 4 && message.kind == 2 && !memcmp(message.text, "late", 4) ? 0 : 5);
    }
    do {
        usleep(1000);
        msgctl(queue, IPC_STAT, &state);
    } while (state.msg_lrpid != child);
    wait_for_go(argv);
    expect("key", msgget(key, 0) == queue && msgctl(queue, IPC_STAT, &state) == 0);
    expect("owner", state.msg_perm.uid == 77 && (state.msg_perm.mode & 0777) == 0622);
    expect("size", state.msg_qbytes == 12000 && state.msg_qnum == 5);
    expect("users", state.msg_lspid == getpid() && state.msg_lrpid == child);
    take(queue, 5, 5, "first", 5);
    take(queue, 0, 1, "", 0);
    take(queue, -4, 1, large, sizeof large);
    take(queue, 0, 1L << 40, "high", 4);
    take(queue, 5, 5, "second\0with", 11);
    expect("empty", msgrcv(queue, &message, 10, 0, IPC_NOWAIT) < 0 && errno == ENOMSG);
    put(waited, 2, "late", 4);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    expect("unused", msgctl(unused, IPC_STAT, &state) == 0 && state.msg_lspid == 0 && state.msg_qnum == 0);
    msgctl(queue, IPC_RMID, NULL);
    msgctl(unused, IPC_RMID, NULL);
    msgctl(waited, IPC_RMID, NULL);
    return finish();
}
