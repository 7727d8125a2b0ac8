/* The three interval timers of setitimer(2): remaining time and period. argv[2]: how the driver treats it; or `waiting`:
 * one whose signal waits, blocked. */
#include "protocol.h"
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#define CLOCK_STEP 2e-6 /* the kernel rounds to microseconds */
#define TICK 0.011      /* CPU time is counted in these */

static volatile int alarms, virtual_alarms, profiles;

static void count(int number)
{
    if (number == SIGALRM)
        alarms++;
    else if (number == SIGVTALRM)
        virtual_alarms++;
    else
        profiles++;
}

static double now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void wait_for_alarms(void)
{
    for (int i = 0; alarms < 3 && i < 3000; i++)
        usleep(10000);
    expect("real timer is periodic", alarms >= 3);
}

/* A periodic timer stands still until its signal is taken. */
static int waiting(char **argv)
{
    struct itimerval real = {{0, 5000}, {0, 5000}};
    sigset_t alarm, pending;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    sigprocmask(SIG_BLOCK, &alarm, NULL);
    setitimer(ITIMER_REAL, &real, NULL);
    do
        sigpending(&pending);
    while (!sigismember(&pending, SIGALRM));
    wait_for_go(argv);
    sigpending(&pending);
    expect("the signal waits", sigismember(&pending, SIGALRM));
    sigprocmask(SIG_UNBLOCK, &alarm, NULL);
    wait_for_alarms();
    return finish();
}

/* What is left of the real timer is what is left of its time: not less, and not more unless it stood still. Of a CPU
 * timer no more than the CPU time that was used is gone. `goes_on`: nobody has ended this process. */
static void check_left(double set_from, double set_until, double used, int goes_on)
{
    struct itimerval left;
    double from = now(CLOCK_MONOTONIC);
    getitimer(ITIMER_REAL, &left);
    double until = now(CLOCK_MONOTONIC), real = left.it_value.tv_sec + left.it_value.tv_usec / 1e6;
    expect("no less is left", real > set_from + 50 - until - CLOCK_STEP);
    expect("no more is left", !goes_on || real < set_until + 50 - from + CLOCK_STEP);
    getitimer(ITIMER_PROF, &left);
    double used_now = now(CLOCK_PROCESS_CPUTIME_ID), profile = left.it_value.tv_sec + left.it_value.tv_usec / 1e6;
    expect("no less CPU time is left", profile > used + 50 - used_now - TICK);
    expect("no more CPU time is left", profile < 50 + TICK);
}

int main(int argc, char **argv)
{
    struct itimerval real = {{0, 100000}, {50, 0}}, cpu = {{0, 20000}, {50, 0}}, left;
    signal(SIGALRM, count);
    signal(SIGVTALRM, count);
    signal(SIGPROF, count);
    if (!strcmp(argv[2], "waiting"))
        return waiting(argv);
    double used = now(CLOCK_PROCESS_CPUTIME_ID), set_from = now(CLOCK_MONOTONIC);
    setitimer(ITIMER_REAL, &real, NULL);
    setitimer(ITIMER_VIRTUAL, &cpu, NULL);
    setitimer(ITIMER_PROF, &cpu, NULL);
    double set_until = now(CLOCK_MONOTONIC);
    wait_for_go(argv);
    expect("too early", !alarms && !virtual_alarms && !profiles);
    check_left(set_from, set_until, used, strcmp(argv[2], "restored"));
    getitimer(ITIMER_REAL, &left);
    expect("period", left.it_interval.tv_usec == 100000);
    left.it_value.tv_sec = 0;
    left.it_value.tv_usec = 1000;
    setitimer(ITIMER_REAL, &left, NULL);
    cpu.it_value = cpu.it_interval;
    for (int which = ITIMER_VIRTUAL; which <= ITIMER_PROF; which++) {
        getitimer(which, &left);
        expect("period", left.it_interval.tv_sec == 0 && left.it_interval.tv_usec == 20000);
        setitimer(which, &cpu, NULL);
    }
    double start = now(CLOCK_PROCESS_CPUTIME_ID);
    while ((virtual_alarms < 2 || profiles < 2) && now(CLOCK_PROCESS_CPUTIME_ID) < start + 5)
        for (volatile int i = 0; i < 100000; i++)
            ;
    expect("virtual timer goes on", virtual_alarms >= 2);
    expect("profiling timer goes on", profiles >= 2);
    wait_for_alarms();
    return finish();
}
