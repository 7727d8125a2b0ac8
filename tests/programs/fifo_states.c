/* Row 212: a FIFO. argv[2]: `blocked` (a child waits in read(2)), `contents`, `packets` (a pipe), `deleted`, `outside`. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "protocol.h"

static char text[70000];

static int blocked(char **argv)
{
    int status;
    mkfifo("fifo", 0600);
    int both = open("fifo", O_RDWR);
    pid_t child = fork();
    if (!child) {
        int fd = open("fifo", O_RDONLY);
        close(both);
        long count = read(fd, text, sizeof text);
        expect("the blocked read", count == 5 && !memcmp(text, "hello", 5));
        return 0;
    }
    int writer = open("fifo", O_WRONLY);
    close(both);
    usleep(20000);
    wait_for_go(argv);
    expect("write", write(writer, "hello", 5) == 5);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    return finish();
}

static int contents(char **argv, int is_deleted)
{
    int left = -1;
    mkfifo("fifo", 0600);
    int reader = open("fifo", O_RDONLY | O_NONBLOCK), writer = open("fifo", O_WRONLY);
    if (is_deleted)
        unlink("fifo");
    expect("size", fcntl(writer, F_SETPIPE_SZ, 1 << 17) == 1 << 17);
    memset(text, 'x', sizeof text);
    expect("write", write(writer, text, sizeof text) == sizeof text);
    wait_for_go(argv);
    expect("bytes", ioctl(reader, FIONREAD, &left) == 0 && left == sizeof text);
    expect("size kept", fcntl(reader, F_GETPIPE_SZ) == 1 << 17);
    memset(text, 0, sizeof text);
    expect("read", read(reader, text, sizeof text) == sizeof text && text[0] == 'x' && text[sizeof text - 1] == 'x');
    expect("empty", read(reader, text, 1) < 0 && errno == EAGAIN);
    close(writer);
    expect("end", read(reader, text, 1) == 0);
    expect("name", access("fifo", F_OK) == (is_deleted ? -1 : 0));
    return finish();
}

static int packets(char **argv)
{
    int ends[2];
    expect("pipe2", pipe2(ends, O_DIRECT | O_NONBLOCK) == 0);
    write(ends[1], "one", 3);
    write(ends[1], "two and more", 12);
    write(ends[1], text, 4096);
    wait_for_go(argv);
    expect("first", read(ends[0], text, sizeof text) == 3);
    expect("second is cut", read(ends[0], text, 3) == 3 && !memcmp(text, "two", 3));
    expect("third", read(ends[0], text, sizeof text) == 4096);
    expect("no more", read(ends[0], text, sizeof text) < 0 && errno == EAGAIN);
    expect("flags", fcntl(ends[1], F_GETFL) == (O_WRONLY | O_DIRECT | O_NONBLOCK));
    expect("new ones", write(ends[1], "a", 1) == 1 && write(ends[1], "b", 1) == 1 && read(ends[0], text, 9) == 1);
    return finish();
}

static int outside(char **argv)
{
    int reader = open("fifo", O_RDONLY);
    wait_for_go(argv);
    expect("bytes from outside", read(reader, text, 5) == 5 && !memcmp(text, "hello", 5));
    return finish();
}

int main(int argc, char **argv)
{
    if (!strcmp(argv[2], "blocked"))
        return blocked(argv);
    if (!strcmp(argv[2], "packets"))
        return packets(argv);
    if (!strcmp(argv[2], "outside"))
        return outside(argv);
    return contents(argv, !strcmp(argv[2], "deleted"));
}
