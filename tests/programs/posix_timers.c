/* POSIX timers of every notification: numbers with a gap between, time that is left, period, value. */
#define _GNU_SOURCE
#include "protocol.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#define HELD (SIGRTMIN + 1)

static int make(clockid_t clock, int notify, int number, int value, pid_t thread)
{
    struct {
        long value;
        int number, notify, thread;
        char rest[44];
    } event = {value, number, notify, thread, {0}};
    int id;
    expect("created", !syscall(SYS_timer_create, clock, &event, &id));
    return id;
}

static void arm(int id, double seconds, double period)
{
    struct itimerspec times = {{(long)period, (period - (long)period) * 1e9},
                               {(long)seconds, (seconds - (long)seconds) * 1e9}};
    expect("armed", !syscall(SYS_timer_settime, id, 0, &times, NULL));
}

static double left(int id, double *period)
{
    struct itimerspec times;
    expect("numbers are kept", !syscall(SYS_timer_gettime, id, &times));
    *period = times.it_interval.tv_sec + times.it_interval.tv_nsec / 1e9;
    return times.it_value.tv_sec + times.it_value.tv_nsec / 1e9;
}

static volatile pid_t helper_tid;
static int by_thread;

static void *help(void *argv)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, HELD);
    helper_tid = syscall(SYS_gettid);
    wait_along(argv);
    arm(by_thread, 0.001, 0);
    expect("signal of this thread", sigwaitinfo(&set, &info) == HELD);
    expect("its value", info.si_value.sival_int == 33 && info.si_code == SI_TIMER);
    return NULL;
}

int main(int argc, char **argv)
{
    sigset_t set;
    siginfo_t info;
    pthread_t helper;
    double period;
    sigemptyset(&set);
    sigaddset(&set, HELD);
    sigaddset(&set, HELD + 1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_create(&helper, NULL, help, argv);
    while (!helper_tid)
        usleep(100);
    int first = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, HELD + 1, 11, 0);
    int gap = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    int silent = make(CLOCK_BOOTTIME, SIGEV_NONE, 0, 22, 0);
    int real = make(CLOCK_REALTIME, SIGEV_THREAD, HELD + 1, 44, 0);
    int cpu = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, HELD + 1, 55, 0);
    by_thread = make(CLOCK_MONOTONIC, SIGEV_SIGNAL | SIGEV_THREAD_ID, HELD, 33, helper_tid);
    expect("deleted", !syscall(SYS_timer_delete, gap));
    arm(first, 50, 0.25);
    arm(silent, 80.5, 0);
    arm(cpu, 60, 7);
    wait_for_go(argv);
    double rest = left(first, &period);
    expect("first", rest > 30 && rest < 50 && period == 0.25);
    rest = left(silent, &period);
    expect("silent", rest > 60 && rest < 80.5 && period == 0);
    rest = left(cpu, &period);
    expect("cpu", rest > 50 && rest <= 60 && period == 7);
    expect("not armed", left(real, &period) == 0);
    expect("the gap", syscall(SYS_timer_getoverrun, gap) == -1);
    pthread_join(helper, NULL);
    arm(first, 0.001, 0);
    expect("signal", sigwaitinfo(&set, &info) == HELD + 1);
    expect("value", info.si_value.sival_int == 11 && info.si_code == SI_TIMER);
    arm(cpu, 0.01, 0);
    while (left(cpu, &period) > 0)
        ;
    expect("cpu time", sigwaitinfo(&set, &info) == HELD + 1 && info.si_value.sival_int == 55);
    return finish();
}
