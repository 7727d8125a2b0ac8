/* Opens one descriptor of a kind that argv[2] names, and looks whether it is the same kind after the wait.
 *
 * `absent` is what it says of a kind that this kernel does not offer. Kind `mixture`: many of those that are kept,
 * at random numbers with random flags, some twice (dup), some in a child as well; argv[3] is the seed.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <mqueue.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include "protocol.h"

static int made_pipe(int flags)
{
    int ends[2];
    return pipe2(ends, flags) ? -1 : ends[0];
}

static int made_io_uring(void)
{
    struct io_uring_params params = {0};
    return syscall(SYS_io_uring_setup, 4, &params);
}

static int made_bpf_map(void)
{
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map);
}

static int made_perf_event(void)
{
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event};
    return syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
}

static int made_landlock(void)
{
    unsigned long long handled = 1;
    return syscall(444, &handled, sizeof handled, 0);
}

static int made_fifo(void)
{
    mkfifo("fifo", 0600);
    return open("fifo", O_RDWR);
}

static int made_queue(void)
{
    static int made;
    char name[40];
    sprintf(name, "/sls-kinds-%d-%d", getpid(), ++made);
    struct mq_attr small = {.mq_maxmsg = 1, .mq_msgsize = 16}; /* the user's limit is for all of his queues */
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT, 0600, &small);
    mq_unlink(name);
    return queue;
}

static int made_signalfd(void)
{
    sigset_t mask;
    sigemptyset(&mask);
    return signalfd(-1, &mask, 0);
}

static int opened(const char *kind)
{
    int family, type, protocol;
    if (kind[0] == '/')
        return open(kind, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (sscanf(kind, "socket-%d-%d-%d", &family, &type, &protocol) == 3)
        return socket(family, type, protocol);
#define KIND(name, expression) if (!strcmp(kind, name)) return expression
    KIND("regular", open("file", O_RDWR | O_CREAT, 0600));
    KIND("tmpfile", open(".", O_RDWR | O_TMPFILE, 0600));
    KIND("directory", open(".", O_RDONLY | O_DIRECTORY));
    KIND("path", open(".", O_PATH));
    KIND("pipe", made_pipe(0));
    KIND("packet-pipe", made_pipe(O_DIRECT));
    KIND("fifo", made_fifo());
    KIND("eventfd", eventfd(1, EFD_SEMAPHORE));
    KIND("epoll", epoll_create1(0));
    KIND("inotify", inotify_init1(0));
    KIND("fanotify", fanotify_init(FAN_CLASS_NOTIF, O_RDONLY));
    KIND("signalfd", made_signalfd());
    KIND("timerfd", timerfd_create(CLOCK_MONOTONIC, 0));
    KIND("timerfd-alarm", timerfd_create(CLOCK_BOOTTIME_ALARM, 0));
    KIND("memfd", memfd_create("memfd", 0));
    KIND("huge-memfd", memfd_create("memfd", MFD_HUGETLB));
    KIND("secret-memfd", syscall(447, 0));
    KIND("pidfd", syscall(SYS_pidfd_open, getpid(), 0));
    KIND("ptmx", posix_openpt(O_RDWR | O_NOCTTY));
    KIND("userfaultfd", syscall(SYS_userfaultfd, 1));
    KIND("io_uring", made_io_uring());
    KIND("bpf", made_bpf_map());
    KIND("perf", made_perf_event());
    KIND("landlock", made_landlock());
    KIND("message-queue", made_queue());
    KIND("fsopen", syscall(430, "tmpfs", 0));
    KIND("open_tree", syscall(428, AT_FDCWD, "/", 1));
    return -1;
}

/* What the link in /proc shows, without the numbers of inodes. */
static void described(int fd, char *text)
{
    char path[32], *end = text;
    sprintf(path, "/proc/self/fd/%d", fd);
    char target[256];
    long length = readlink(path, target, sizeof target);
    for (long i = 0; i < length; i++)
        if (!isdigit(target[i]))
            *end++ = target[i];
    *end = 0;
}

static const char *const kept[] = {
    "regular", "tmpfile", "directory", "path", "pipe", "packet-pipe", "fifo", "eventfd", "epoll", "inotify", "signalfd",
    "timerfd", "memfd", "pidfd", "ptmx", "message-queue", "/dev/null", "/dev/zero", "/dev/full", "/dev/urandom",
    "/proc/self/status", "/proc/meminfo", "socket-1-1-0", "socket-1-2-0", "socket-1-5-0", "socket-2-1-0",
    "socket-2-2-0", "socket-2-3-1", "socket-10-1-0", "socket-10-2-0", "socket-16-3-0", "socket-17-3-0",
};
enum { MIXED = 90, LOWEST = 20, NUMBERS = 800 };

static struct {
    int fd, flags, descriptor_flags, twin;
    char text[256];
    struct stat status;
} mixed[MIXED];

static void mix(int place)
{
    int fd, number;
    do
        number = LOWEST + rand() % NUMBERS;
    while (fcntl(number, F_GETFD) >= 0);
    mixed[place].twin = place && rand() % 4 == 0 ? rand() % place : -1;
    if (mixed[place].twin >= 0)
        fd = dup(mixed[mixed[place].twin].fd);
    else
        fd = opened(kept[rand() % (sizeof kept / sizeof *kept)]);
    expect("opened", fd >= 0 && dup3(fd, number, rand() % 2 ? O_CLOEXEC : 0) == number && !close(fd));
    if (rand() % 3 == 0 && !(fcntl(number, F_GETFL) & O_PATH))
        fcntl(number, F_SETFL, fcntl(number, F_GETFL) ^ O_NONBLOCK);
    mixed[place].fd = number;
}

static void look_at_mixture(void)
{
    char text[256];
    struct stat status;
    for (int i = 0; i < MIXED; i++) {
        int fd = mixed[i].fd, twin = mixed[i].twin;
        described(fd, text);
        expect(mixed[i].text, !strcmp(text, mixed[i].text) && fcntl(fd, F_GETFL) == mixed[i].flags);
        expect(text, fcntl(fd, F_GETFD) == mixed[i].descriptor_flags && !fstat(fd, &status));
        expect(text, status.st_mode == mixed[i].status.st_mode && status.st_rdev == mixed[i].status.st_rdev);
        for (int other = 0; other < i; other++) {
            int is_twin = other == twin || (twin >= 0 && mixed[other].twin == twin);
            if (is_twin)
                expect(text, syscall(SYS_kcmp, getpid(), getpid(), 0, fd, mixed[other].fd) == 0);
            else if (mixed[other].twin != i && twin < 0 && mixed[other].twin < 0)
                expect(text, syscall(SYS_kcmp, getpid(), getpid(), 0, fd, mixed[other].fd) != 0);
        }
    }
}

static int mixture(char **argv)
{
    int status;
    srand(atoi(argv[3]));
    for (int i = 0; i < MIXED; i++)
        mix(i);
    for (int i = 0; i < MIXED; i++) {
        described(mixed[i].fd, mixed[i].text);
        mixed[i].flags = fcntl(mixed[i].fd, F_GETFL);
        mixed[i].descriptor_flags = fcntl(mixed[i].fd, F_GETFD);
        fstat(mixed[i].fd, &mixed[i].status);
    }
    pid_t parent = getpid(), child = fork();
    if (!child) {
        wait_along(argv);
        look_at_mixture();
        for (int i = 0; i < MIXED; i++)
            expect("shared with the parent", !syscall(SYS_kcmp, getpid(), parent, 0, mixed[i].fd, mixed[i].fd));
        _exit(0);
    }
    wait_for_go(argv);
    look_at_mixture();
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    return finish();
}

int main(int argc, char **argv)
{
    if (!strcmp(argv[2], "mixture"))
        return mixture(argv);
    char before[256], after[256];
    struct stat was, is;
    int fd = opened(argv[2]);
    if (fd < 0) {
        puts("absent");
        return 1;
    }
    described(fd, before);
    int flags = fcntl(fd, F_GETFL);
    fstat(fd, &was);
    wait_for_go(argv);
    described(fd, after);
    expect(before, !strcmp(before, after));
    expect(before, fcntl(fd, F_GETFL) == flags);
    expect(before, fstat(fd, &is) == 0 && is.st_mode == was.st_mode && is.st_rdev == was.st_rdev);
    return finish();
}
