/* A process to look into: three threads wait at known depths; SIGUSR1 makes main change what a difference shows.
 *
 *   threads FILE    prints "ready", then waits for ever; each SIGUSR1 ends with "stepped"
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct point { int x, y; };

static int counter = 41;
static char zeros[1 << 20];
static __thread int own_number;
static const char *greeting = "kept";
static char *grown;
static float vector[8] = {1, 2, 3, 4, 5, 6, 7, 8};

static void on_signal(int number) { (void)number; }

static void wait_at_depth(struct point *where, int depth)
{
    if (depth)
        wait_at_depth(where, depth - 1);
    else
        pause();
    where->y++;
}

static void *work(void *argument)
{
    int number = *(int *)argument;
    own_number = number * 100;
    struct point place = {number, -number};
    char *heap = malloc(64);
    snprintf(heap, 64, "worker %d", number);
    wait_at_depth(&place, number);
    free(heap);
    return NULL;
}

static void step(const char *path)
{
    counter++;
    strcpy(zeros + 8192, "stepped");
    grown = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    grown[4096] = 1;
    mprotect(grown, 4096, PROT_NONE);
    if (open(path, O_RDWR | O_CREAT, 0600) < 0 || lseek(3, 7, SEEK_SET) < 0)
        abort();
    close(0);
}

int main(int count, char **words)
{
    static int numbers[3] = {1, 2, 3};
    pthread_t threads[3];
    sigset_t mask;
    if (count != 2 || open(words[1], O_RDWR | O_CREAT, 0600) != 3)
        return 2;
    signal(SIGUSR1, on_signal);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &mask, NULL);
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, work, &numbers[i]);
    pthread_sigmask(SIG_UNBLOCK, &mask, NULL);
    counter++;
    double half = 0.5;
    struct point place = {counter, (int)(half * 2)};
    dprintf(1, "ready\n");
    for (;;) {
        wait_at_depth(&place, 2);
        if (greeting == NULL || zeros[0] || vector[0] == 0)
            return 1;
        step(words[1]);
        dprintf(1, "stepped\n");
    }
}
