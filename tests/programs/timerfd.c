/* A timerfd in one of several states; the argument names it. */
#include <stdint.h>
#include <sys/timerfd.h>
#include <time.h>
#include "protocol.h"

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static struct itimerspec setting(double interval, double value)
{
    struct itimerspec s = {
        .it_interval = {(time_t)interval, (long)((interval - (time_t)interval) * 1e9)},
        .it_value = {(time_t)value, (long)((value - (time_t)value) * 1e9)},
    };
    return s;
}

int main(int argc, char **argv)
{
    const char *mode = argv[2];
    clockid_t clock = strstr(mode, "wall") ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    int flags = strstr(mode, "absolute") ? TFD_TIMER_ABSTIME : 0;
    uint64_t ticks = 0, more;
    double start = now(clock), base = flags ? start : 0;
    int fd = timerfd_create(clock, TFD_CLOEXEC);
    struct itimerspec s = {0};

    if (strstr(mode, "wall-absolute-cancel"))
        flags |= TFD_TIMER_CANCEL_ON_SET;
    if (strstr(mode, "period"))
        s = setting(0.02, base + 0.001);
    else if (strstr(mode, "expired"))
        s = setting(0, base + 0.000001);
    else if (strstr(mode, "far"))
        s = setting(3.5, base + 1000);
    else if (strstr(mode, "near"))
        s = setting(0, base + 0.15);
    timerfd_settime(fd, flags, &s, NULL);
    if (strstr(mode, "period") || strstr(mode, "expired"))
        usleep(30000);

    wait_for_go(argv);
    struct itimerspec left;
    double from = now(clock);
    timerfd_gettime(fd, &left);
    double until = now(clock), due = left.it_value.tv_sec + left.it_value.tv_nsec / 1e9;
    if (strstr(mode, "disarmed")) {
        expect("disarmed", due == 0);
    } else if (strstr(mode, "far")) {
        expect("interval", left.it_interval.tv_sec == 3 && left.it_interval.tv_nsec == 500000000);
        expect("left", due > 980 && due < 1000);
        if (flags)
            expect("instant", until + due - start > 999.99 && from + due - start < 1000.01);
    } else if (strstr(mode, "expired")) {
        expect("one expiration", read(fd, &ticks, 8) == 8 && ticks == 1);
        expect("then disarmed", due == 0);
    } else if (strstr(mode, "near")) {
        expect("expires", read(fd, &ticks, 8) == 8 && ticks == 1);
        expect("not early", now(clock) - start > 0.149);
    } else {
        expect("expirations", read(fd, &ticks, 8) == 8 && ticks >= 2);
        expect("not too many", ticks <= (now(clock) - start) / 0.02 + 1);
        expect("goes on", read(fd, &more, 8) == 8 && more >= 1);
        expect("and not faster", ticks + more <= (now(clock) - start) / 0.02 + 1);
    }
    return finish();
}
