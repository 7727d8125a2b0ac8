/* CASE[0] threads on one mutex and one condition variable: after go each takes its turns (209). */
#include "protocol.h"
#include <pthread.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long count, rounds, turn = -1, total;
static __thread long mine;

static void *take_turns(void *number)
{
    pthread_mutex_lock(&mutex);
    for (mine = 0; mine < rounds; mine++) {
        while (turn != (long)number)
            pthread_cond_wait(&changed, &mutex);
        total += mine;
        turn = (turn + 1) % count;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&mutex);
    return (void *)mine;
}

int main(int argc, char **argv)
{
    count = atol(argv[2]);
    rounds = 1000 / count;
    pthread_t threads[count];
    void *result;
    for (long i = 0; i < count; i++)
        expect("thread", !pthread_create(&threads[i], NULL, take_turns, (void *)i));
    wait_for_go(argv);
    pthread_mutex_lock(&mutex);
    turn = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    for (long i = 0; i < count; i++) {
        expect("joined", !pthread_join(threads[i], &result));
        expect("thread-local count", result == (void *)rounds);
    }
    expect("total", total == count * rounds * (rounds - 1) / 2);
    return finish();
}
