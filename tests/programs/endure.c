/* Prints running sums as sums.c does, beside threads and a child that each do a thing that a careless tracer disturbs;
 * whoever finds it disturbed says so and ends everything. */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/time.h>
#include <time.h>
#include "protocol.h"

static volatile sig_atomic_t ticks;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int there[2], back[2];
static uint64_t turn;

static void count(int number) { ticks++; }

/* No call fails with EINTR that would not have. */
static void *sleep_well(void *none)
{
    const struct timespec moment = {0, 700000};
    while (1) {
        int before = ticks;
        expect("sleep", clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL) == 0 || ticks != before);
    }
}

/* Registers and vector registers keep what they hold. */
static void *compute(void *none)
{
    double sum = 0;
    uint64_t state = 88172645463325252u, rounds = 0;
    while (1) {
        double a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, part = 0;
        for (int i = 0; i < 8; i++)
            part += a[i] * a[i];
        sum += part;
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        expect("sum", sum == 204.0 * ++rounds && state);
        if (rounds % 20000 == 0)
            usleep(1000);
    }
}

static void *take_turns(void *which)
{
    pthread_mutex_lock(&mutex);
    while (1) {
        while (turn % 2 != (uintptr_t)which)
            pthread_cond_wait(&changed, &mutex);
        turn++;
        pthread_cond_signal(&changed);
        pthread_mutex_unlock(&mutex);
        usleep(300);
        pthread_mutex_lock(&mutex);
    }
    return NULL;
}

/* Bytes go to the child and come back in order. */
static void *exchange(void *none)
{
    for (uint64_t number = 0, echo;; number++) {
        expect("sent", write(there[1], &number, sizeof number) == sizeof number);
        expect("came back", read(back[0], &echo, sizeof echo) == sizeof echo && echo == number);
        usleep(100);
    }
}

static void answer(void)
{
    uint64_t number;
    close(there[1]);
    while (read(there[0], &number, sizeof number) == sizeof number)
        expect("answered", write(back[1], &number, sizeof number) == sizeof number);
    _exit(0);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 20000}, {0, 20000}};
    void *(*work[])(void *) = {sleep_well, compute, take_turns, take_turns, exchange};
    uint64_t total = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    expect("pipes", !pipe(there) && !pipe(back));
    if (!fork())
        answer();
    sigaction(SIGALRM, &action, NULL);
    for (uintptr_t i = 0; i < sizeof work / sizeof *work; i++) {
        pthread_t thread;
        expect("thread", !pthread_create(&thread, NULL, work[i], (void *)(i % 2)));
    }
    setitimer(ITIMER_REAL, &often, NULL);
    for (uint64_t number = 1; access(argv[1], F_OK); number++) {
        total += number * number;
        printf("%ju %ju\n", number, total);
        usleep(500);
    }
    return 7;
}
