/* A child of two threads that SIGSTOP has stopped: it stays so until SIGCONT. */
#include "protocol.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static volatile long count;

static void *run(void *unused)
{
    for (;;)
        count++;
    return NULL;
}

static char state_of(pid_t pid)
{
    char path[64], state = 0;
    sprintf(path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    expect("stat", file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
    fclose(file);
    return state;
}

int main(int argc, char **argv)
{
    int status;
    pthread_t thread;
    pid_t child = fork();
    if (!child) {
        pthread_create(&thread, NULL, run, NULL);
        while (!count)
            usleep(100);
        raise(SIGSTOP);
        wait_along(argv);
        exit(5);
    }
    expect("stopped", waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    wait_for_go(argv);
    usleep(20000);
    expect("still stopped", state_of(child) == 'T');
    kill(child, SIGCONT);
    while (waitpid(child, &status, 0) == child && !WIFEXITED(status))
        ;
    expect("goes on", WIFEXITED(status) && WEXITSTATUS(status) == 5);
    return finish();
}
