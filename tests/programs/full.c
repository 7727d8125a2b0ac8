/* A limit that leaves no room for another mapping: of the address space (as; hard: that can be raised by privilege
 * alone), of private memory (data). */
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "protocol.h"

/* Bytes of /proc/self/statm: field 0 is all that is mapped, field 5 data and stack. */
static unsigned long mapped(int field)
{
    unsigned long words[7] = {0};
    FILE *file = fopen("/proc/self/statm", "r");
    for (int i = 0; i < 7; i++)
        expect("statm", fscanf(file, "%lu", &words[i]) == 1);
    fclose(file);
    return words[field] * 4096;
}

int main(int argc, char **argv)
{
    int is_data = !strcmp(argv[2], "data");
    int which = is_data ? RLIMIT_DATA : RLIMIT_AS;
    static char buffer[BUFSIZ];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    unsigned long size = mapped(is_data ? 5 : 0);
    struct rlimit limit = {size, strcmp(argv[2], "as") ? size : RLIM_INFINITY}, found;

    expect("setrlimit", !setrlimit(which, &limit));
    wait_for_go(argv);
    expect("getrlimit", !getrlimit(which, &found));
    expect("limit", found.rlim_cur == size && found.rlim_max == limit.rlim_max);
    int private = MAP_PRIVATE | MAP_ANONYMOUS;
    expect("no room", mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, private, -1, 0) == MAP_FAILED);
    return finish();
}
