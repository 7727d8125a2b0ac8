/* How a self-checking program in C speaks to the driver; the words are those of protocol.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline void wait_along(char **argv)
{
    for (int round = 0; round < 60000; round++) { /* of 5 ms: five minutes, then nobody is left to say go */
        if (!access(argv[1], F_OK))
            return;
        usleep(5000);
    }
    exit(2);
}

static inline void wait_for_go(char **argv)
{
    puts("ready");
    fflush(stdout);
    wait_along(argv);
}

#define expect(name, condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s: not %s (errno: %m)\n", name, #condition);                         \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static inline int finish(void)
{
    puts("ok");
    return 0;
}
