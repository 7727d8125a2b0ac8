/* Threads that sleep, each in a call of its own, most of their time gone at `ready`: none sees EINTR, and each
 * ends when its time is over, not the whole time after a restore. */
#define _GNU_SOURCE
#include "protocol.h"
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>

#define WHOLE 1.6
#define BEFORE 0.8 /* of it, until `ready` */
#define LONGEST 0.02 /* that counts as lived between two looks at the clock: what is longer was a stop, or death */

static const struct timespec whole = {1, 600000000};
static int silent[2]; /* a pipe that nobody writes to */
static int late[2], later[2]; /* such as get a byte after go */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static volatile double lived;

static void *live(void *unused)
{
    for (double last = now(), next;; last = next) {
        usleep(1000);
        next = now();
        lived += next - last < LONGEST ? next - last : LONGEST;
    }
    return unused;
}

static long in_nanosleep(void) { return syscall(SYS_nanosleep, &whole, NULL); }
static long in_nanosleep_rest(void)
{
    struct timespec rest = {7, 7};
    return syscall(SYS_nanosleep, &whole, &rest);
}
static long in_clock_nanosleep(void)
{
    return syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &whole, NULL);
}
static long in_clock_nanosleep_absolute(void)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += whole.tv_sec + (until.tv_nsec + whole.tv_nsec) / 1000000000;
    until.tv_nsec = (until.tv_nsec + whole.tv_nsec) % 1000000000;
    return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}
static long in_poll(void)
{
    struct pollfd wanted = {silent[0], POLLIN, 0};
    return syscall(SYS_poll, &wanted, 1, 1600);
}
static long in_ppoll(void)
{
    struct timespec time = whole;
    struct pollfd wanted = {silent[0], POLLIN, 0};
    return syscall(SYS_ppoll, &wanted, 1, &time, NULL, 0);
}
static long in_select(void)
{
    struct timeval time = {1, 600000};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(silent[0], &set);
    return syscall(SYS_select, silent[0] + 1, &set, NULL, NULL, &time);
}
static int epoll(void)
{
    struct epoll_event event = {EPOLLIN, {.u64 = 5}};
    int fd = epoll_create1(0);
    expect("epoll", !epoll_ctl(fd, EPOLL_CTL_ADD, silent[0], &event));
    return fd;
}
static long in_epoll_wait(void)
{
    struct epoll_event event;
    return syscall(SYS_epoll_wait, epoll(), &event, 1, 1600);
}
static long in_epoll_pwait2(void)
{
    struct epoll_event event;
    return syscall(441, epoll(), &event, 1, &whole, NULL, 0);
}
static long in_futex(void)
{
    static int word = 5;
    long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 5, &whole, NULL, 0);
    return result == -1 && errno == ETIMEDOUT ? 0 : -1;
}
static long in_futex_absolute(void)
{
    static int word = 6;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += whole.tv_sec + (until.tv_nsec + whole.tv_nsec) / 1000000000;
    until.tv_nsec = (until.tv_nsec + whole.tv_nsec) % 1000000000;
    long result = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 6, &until, NULL, -1);
    return result == -1 && errno == ETIMEDOUT ? 0 : -1;
}
static long in_sigtimedwait(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    return sigtimedwait(&set, NULL, &whole) == -1 && errno == EAGAIN ? 0 : -1;
}
static long in_read(void)
{
    char byte;
    return read(late[0], &byte, 1) - 1;
}
static long in_endless_epoll(void)
{
    struct epoll_event event = {EPOLLIN, {.u64 = 5}};
    int fd = epoll_create1(0);
    epoll_ctl(fd, EPOLL_CTL_ADD, later[0], &event);
    return epoll_wait(fd, &event, 1, -1) - 1;
}

static struct call {
    const char *name;
    long (*run)(void);
    int is_timed;
    long result;
    int error;
    double seconds, lived;
    pthread_t thread;
} calls[] = {
    {"nanosleep", in_nanosleep, 1},
    {"nanosleep_rest", in_nanosleep_rest, 1},
    {"clock_nanosleep", in_clock_nanosleep, 1},
    {"clock_nanosleep_absolute", in_clock_nanosleep_absolute, 1},
    {"poll", in_poll, 1},
    {"ppoll", in_ppoll, 1},
    {"select", in_select, 1},
    {"epoll_wait", in_epoll_wait, 1},
    {"epoll_pwait2", in_epoll_pwait2, 1},
    {"futex", in_futex, 1},
    {"futex_absolute", in_futex_absolute, 1},
    {"sigtimedwait", in_sigtimedwait, 1},
    {"endless_epoll", in_endless_epoll, 0},
    {"read", in_read, 0},
};
enum { COUNT = sizeof calls / sizeof *calls };

static void *sleep_in(void *argument)
{
    struct call *call = argument;
    double start = now(), born = lived;
    errno = 0;
    call->result = call->run();
    call->error = errno;
    call->seconds = now() - start;
    call->lived = lived - born;
    return NULL;
}

int main(int argc, char **argv)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_t clock;
    expect("clock", !pthread_create(&clock, NULL, live, NULL));
    expect("pipes", !pipe(silent) && !pipe(late) && !pipe(later));
    for (int i = 0; i < COUNT; i++)
        expect("thread", !pthread_create(&calls[i].thread, NULL, sleep_in, &calls[i]));
    usleep(BEFORE * 1e6);
    wait_for_go(argv);
    expect("bytes", write(late[1], "x", 1) + write(later[1], "x", 1) == 2);
    for (int i = 0; i < COUNT; i++) {
        pthread_join(calls[i].thread, NULL);
        if (calls[i].result || (calls[i].is_timed && (calls[i].seconds < WHOLE - 0.001 || calls[i].lived > WHOLE + BEFORE - 0.1))) {
            fprintf(stderr, "%s: result %ld errno %d after %f s, lived %f s\n", calls[i].name, calls[i].result,
                    calls[i].error, calls[i].seconds, calls[i].lived);
            exit(1);
        }
    }
    return finish();
}
