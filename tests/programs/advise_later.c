/* Writes `ready`, waits for go; then locks one whole mapping and advises another: maps shows the same. Writes where they
 * are, and waits to be ended. */
#define _GNU_SOURCE
#include "protocol.h"
#include <sys/mman.h>

enum { BYTES = 16 * 4096 };

int main(int argc, char **argv)
{
    char *room = mmap(NULL, 8 * BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *locked = room + BYTES, *advised = room + 4 * BYTES;
    expect("mapped", room != MAP_FAILED && !mprotect(locked, BYTES, PROT_READ | PROT_WRITE) &&
                         !mprotect(advised, BYTES, PROT_READ | PROT_WRITE));
    wait_for_go(argv);
    expect("locked and advised", !mlock(locked, BYTES) && !madvise(advised, BYTES, MADV_DONTFORK));
    printf("%ld\n%ld\n", (long)locked, (long)advised);
    fflush(stdout);
    for (;;)
        pause();
}
