/* How a self-checking program in C speaks to the driver; the words are those of protocol.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* With `apart` as the last word of the case: in an IPC namespace of its own. */
static inline void be_apart_if_asked(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[argc - 1], "apart") && syscall(SYS_unshare, 0x08000000))
        exit(3);
}

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
