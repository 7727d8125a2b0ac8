/* Has as many mappings as the kernel lets one have, less one: there is room for one more, but not to split it. */
#include "protocol.h"
#include <sys/mman.h>

static void take_all(void)
{
    char *place = NULL;
    long size = sysconf(_SC_PAGESIZE);
    for (int number = 0;; number++) {
        char *next = mmap(NULL, size, number % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (next == MAP_FAILED)
            break;
        place = next;
    }
    munmap(place, size);
}

int main(int argc, char **argv)
{
    static char buffer[4096];
    setvbuf(stdout, buffer, _IOLBF, sizeof buffer);
    take_all();
    wait_for_go(argv);
    return finish();
}
