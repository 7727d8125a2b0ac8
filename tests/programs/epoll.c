/* Row 219: one epoll over an eventfd, a timerfd, a signalfd, an inotify and another epoll; nothing is lost or told twice.
 *
 * Entries: level, edge (already told), one-shot (already told), under a number that is closed by now and under a number
 * that means another file by now. Data are 64-bit words.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include "protocol.h"

#define HIGH 0xdeadbeef00000000ull

static int epoll;

static void watch(int in, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    expect("epoll_ctl", epoll_ctl(in, EPOLL_CTL_ADD, fd, &event) == 0);
}

/* Data of all that is ready within `ms`, as a set of the lowest bits. */
static unsigned ready(int ms)
{
    struct epoll_event events[16];
    unsigned set = 0;
    int count = epoll_wait(epoll, events, 16, ms);
    for (int i = 0; i < count; i++) {
        expect("data", (events[i].data.u64 & HIGH) == HIGH);
        set |= 1u << (events[i].data.u64 & 31);
    }
    return set;
}

int main(int argc, char **argv)
{
    sigset_t mask;
    uint64_t one = 1, ticks;
    struct signalfd_siginfo info;
    struct itimerspec never = {.it_value.tv_sec = 1000};

    epoll = epoll_create1(EPOLL_CLOEXEC);
    int level = eventfd(0, EFD_NONBLOCK), edge = eventfd(7, EFD_NONBLOCK), once = eventfd(7, EFD_NONBLOCK);
    int closed = eventfd(0, EFD_NONBLOCK), moved = eventfd(0, EFD_NONBLOCK), deep = eventfd(0, EFD_NONBLOCK);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int notify = inotify_init1(IN_NONBLOCK), inner = epoll_create1(0);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGRTMIN + 3);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int signals = signalfd(-1, &mask, SFD_NONBLOCK);
    timerfd_settime(timer, 0, &never, NULL);
    expect("watch", mkdir("folder", 0700) == 0 && inotify_add_watch(notify, "folder", IN_CREATE) == 1);

    watch(epoll, level, EPOLLIN, HIGH | 0);
    watch(epoll, edge, EPOLLIN | EPOLLET, HIGH | 1);
    watch(epoll, once, EPOLLIN | EPOLLONESHOT, HIGH | 2);
    watch(epoll, closed, EPOLLIN, HIGH | 3);
    watch(epoll, moved, EPOLLIN, HIGH | 4);
    watch(inner, deep, EPOLLIN, 99);
    watch(epoll, inner, EPOLLIN, HIGH | 5);
    watch(epoll, timer, EPOLLIN, HIGH | 6);
    watch(epoll, signals, EPOLLIN, HIGH | 7);
    watch(epoll, notify, EPOLLIN, HIGH | 8);
    int still = dup(closed), kept = dup(moved);
    close(closed);
    dup2(open("/dev/null", O_RDONLY), moved);
    expect("told before", ready(0) == (1u << 1 | 1u << 2));
    expect("told once", ready(0) == 0);

    wait_for_go(argv);
    expect("nothing new", ready(0) == 0);
    write(level, &one, 8);
    expect("level", ready(1000) == 1u << 0);
    expect("level again", ready(0) == 1u << 0);
    read(level, &ticks, 8);
    write(edge, &one, 8);
    expect("edge", ready(1000) == 1u << 1);
    write(once, &one, 8);
    expect("one-shot stays disarmed", ready(0) == 0);
    struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = HIGH | 2};
    expect("rearm", epoll_ctl(epoll, EPOLL_CTL_MOD, once, &again) == 0);
    expect("one-shot", ready(0) == 1u << 2);
    write(still, &one, 8);
    expect("closed number", ready(0) == 1u << 3);
    read(still, &ticks, 8);
    write(kept, &one, 8);
    expect("number of another file", ready(0) == 1u << 4);
    read(kept, &ticks, 8);
    write(deep, &one, 8);
    expect("nested", ready(0) == 1u << 5);
    read(deep, &ticks, 8);
    struct itimerspec soon = {.it_value.tv_nsec = 1000000};
    timerfd_settime(timer, 0, &soon, NULL);
    expect("timer", ready(1000) == 1u << 6);
    read(timer, &ticks, 8);
    kill(getpid(), SIGRTMIN + 3);
    expect("signal", ready(1000) == 1u << 7);
    expect("its record", read(signals, &info, sizeof info) == sizeof info && (int)info.ssi_signo == SIGRTMIN + 3);
    close(open("folder/made", O_CREAT | O_WRONLY, 0600));
    expect("inotify", ready(1000) == 1u << 8);
    return finish();
}
