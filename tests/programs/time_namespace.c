/* A process in a time namespace of its own, with a thread, a child, and a timer by its clock. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include "protocol.h"

enum { MONOTONIC = 100000, BOOTTIME = -3 };

static struct timespec before[2];
static int home;

static double now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void look(void)
{
    double passed[2] = {now(CLOCK_MONOTONIC) - before[0].tv_sec, now(CLOCK_BOOTTIME) - before[1].tv_sec};
    expect("monotonic", passed[0] >= 0 && passed[0] < 300);
    expect("boottime", passed[1] >= 0 && passed[1] < 300);
}

static void *along(void *argv)
{
    wait_along(argv);
    look();
    return NULL;
}

static void island(char **argv)
{
    pthread_t thread;
    int status;
    close(home);
    expect("shifted", now(CLOCK_MONOTONIC) > MONOTONIC);
    clock_gettime(CLOCK_MONOTONIC, &before[0]);
    clock_gettime(CLOCK_BOOTTIME, &before[1]);
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec at = {.it_value = before[0]};
    at.it_value.tv_sec += 3600;
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    pthread_create(&thread, NULL, along, argv);
    pid_t child = fork();
    if (!child) {
        along(argv);
        exit(0);
    }
    puts("ready");
    fflush(stdout);
    wait_along(argv);
    pthread_join(thread, NULL);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    look();
    timerfd_gettime(timer, &at);
    expect("timer", at.it_value.tv_sec > 3200 && at.it_value.tv_sec < 3600);
    pid_t late = fork();
    if (!late) {
        look();
        exit(0);
    }
    expect("child to come", waitpid(late, &status, 0) == late && status == 0);
    exit(0);
}

int main(int argc, char **argv)
{
    char offsets[64];
    int status;
    home = open("/proc/self/ns/time", O_RDONLY);
    expect("unshare", !unshare(CLONE_NEWTIME));
    int fd = open("/proc/self/timens_offsets", O_WRONLY);
    int length = sprintf(offsets, "monotonic %d 5\nboottime %d 7\n", MONOTONIC, BOOTTIME);
    expect("offsets", write(fd, offsets, length) == length);
    close(fd);
    pid_t child = fork();
    if (!child)
        island(argv);
    expect("home", !setns(home, CLONE_NEWTIME)); /* so that this process has but one */
    close(home);
    double mine = now(CLOCK_MONOTONIC);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    expect("machine", now(CLOCK_MONOTONIC) - mine < 300);
    return finish();
}
