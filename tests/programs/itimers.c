/* The three interval timers of setitimer(2): remaining time and period. `waiting`: one whose signal waits, blocked. */
#include "protocol.h"
#include <signal.h>
#include <sys/time.h>
#include <time.h>

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
    for (int i = 0; alarms < 3 && i < 200; i++)
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

int main(int argc, char **argv)
{
    struct itimerval real = {{0, 100000}, {50, 0}}, cpu = {{0, 20000}, {0, 60000}}, left;
    signal(SIGALRM, count);
    signal(SIGVTALRM, count);
    signal(SIGPROF, count);
    if (argc > 2)
        return waiting(argv);
    setitimer(ITIMER_REAL, &real, NULL);
    setitimer(ITIMER_VIRTUAL, &cpu, NULL);
    setitimer(ITIMER_PROF, &cpu, NULL);
    wait_for_go(argv);
    expect("too early", !alarms && !virtual_alarms && !profiles);
    getitimer(ITIMER_REAL, &left);
    expect("remaining", left.it_value.tv_sec >= 40 && left.it_value.tv_sec < 50);
    expect("period", left.it_interval.tv_usec == 100000);
    left.it_value.tv_sec = 0;
    left.it_value.tv_usec = 1000;
    setitimer(ITIMER_REAL, &left, NULL);
    for (double start = now(CLOCK_PROCESS_CPUTIME_ID); now(CLOCK_PROCESS_CPUTIME_ID) < start + 0.15;)
        for (volatile int i = 0; i < 100000; i++)
            ;
    expect("virtual timer goes on", virtual_alarms >= 2);
    expect("profiling timer goes on", profiles >= 2);
    wait_for_alarms();
    return finish();
}
