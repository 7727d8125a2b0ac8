/* work MEBIBYTES THREADS CHILDREN READY: threads and children that touch their memory and sleep 10 ms, for ever. */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *heap;
static size_t heap_bytes;

static void *touch(void *argument) {
    size_t step = (size_t)argument + 1;
    for (size_t round = 0;; round++) {
        for (size_t page = 0; page < 160; page++)
            heap[(round * 7919 + page * 613 * step) * 4096 % heap_bytes]++;
        usleep(10000);
    }
    return NULL;
}

int main(int count, char **words) {
    if (count != 5) return 2;
    heap_bytes = strtoul(words[1], NULL, 10) << 20;
    size_t threads = strtoul(words[2], NULL, 10), children = strtoul(words[3], NULL, 10);
    heap = malloc(heap_bytes);
    srand(1);
    for (size_t at = 0; at < heap_bytes; at += 4) *(int *)(heap + at) = at % 4096 < 1024 ? rand() : (int)at >> 12;
    for (size_t child = 0; child < children; child++)
        if (fork() == 0) touch((void *)child);
    for (size_t thread = 1; thread < threads; thread++) {
        pthread_t id;
        pthread_create(&id, NULL, touch, (void *)thread);
    }
    close(open(words[4], O_CREAT | O_WRONLY, 0644));
    touch(0);
}
