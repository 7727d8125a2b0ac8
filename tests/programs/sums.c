/* Prints running sums of squares, a line each, until the file argv[1] exists or argv[2] lines are out; argv[3]: pause
 * between them in µs. Everything that it knows lies in its memory. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    uint64_t limit = strtoull(argv[2], NULL, 10), total = 0;
    unsigned pause = argc > 3 ? atoi(argv[3]) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint64_t number = 1; number <= limit && access(argv[1], F_OK); number++) {
        total += number * number;
        printf("%ju %ju\n", number, total);
        if (pause)
            usleep(pause);
    }
    return 7;
}
