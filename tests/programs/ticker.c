/* Writes ascending numbers, a line each, from a loop that holds them in registers too; a child does nothing, and is made
 * again when it ends. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
    pid_t child = 0;
    register double half = 0.5;
    for (long number = 1;; number++, half += 0.5) {
        int status;
        if (!child || waitpid(child, &status, WNOHANG) == child)
            if (!(child = fork()))
                for (;;)
                    pause();
        if (half * 2 != number || printf("%ld\n", number) < 2 || fflush(stdout))
            abort();
        usleep(200);
    }
}
