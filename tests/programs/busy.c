/* A loop that only computes, in two threads; the result is that of an undisturbed run (203). */
#include "protocol.h"
#include <pthread.h>
#include <stdint.h>

static volatile int stop;

struct sum {
    volatile uint64_t state, steps;
};

static uint64_t step(uint64_t state)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^ state << 17;
}

static void *compute(void *argument)
{
    struct sum *sum = argument;
    while (!stop) {
        sum->state = step(sum->state);
        sum->steps++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct sum sums[2] = {{1, 0}, {2, 0}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, compute, &sums[i]);
    for (int i = 0; i < 2; i++)
        while (sums[i].steps < 1000)
            usleep(1000);
    wait_for_go(argv);
    stop = 1;
    for (int i = 0; i < 2; i++) {
        uint64_t state = i + 1;
        pthread_join(threads[i], NULL);
        for (uint64_t n = 0; n < sums[i].steps; n++)
            state = step(state);
        expect("result", state == sums[i].state);
    }
    return finish();
}
