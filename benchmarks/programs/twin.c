/* twin MEBIBYTES RATE SECONDS: what a forked twin would spare a program that writes faster than it can be copied.

A worker writes RATE MiB a second, page after page, over MEBIBYTES of memory. Every 100 ms what it has written since is
copied in one of three ways: not at all; "plain", while it stands still; from a "twin", a fork made while it stands
still, copied while it goes on. Prints for each way: milliseconds of standing still (p50, p99), and MiB/s written. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct { volatile size_t written; volatile int twin; volatile int end; volatile long stopped_ns; } *shared;
static char *heap;
static size_t heap_bytes;
enum { PAGE = 4096 };

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000l + time.tv_nsec;
}

static void make_twin(int number) {
    (void)number;
    long began = now();
    pid_t pid = fork();
    if (pid == 0)
        for (;;) pause();
    shared->stopped_ns = now() - began;
    shared->twin = pid;
}

static void work(double rate) {
    signal(SIGUSR1, make_twin);
    signal(SIGCHLD, SIG_IGN);
    long began = now();
    while (!shared->end) {
        for (int page = 0; page < 64; page++) {
            memset(heap + shared->written % heap_bytes, (int)(shared->written >> 12), PAGE);
            shared->written += PAGE;
        }
        while (!shared->end && (double)shared->written > (double)(now() - began) / 1e9 * rate * (1 << 20))
            usleep(200);
    }
    _exit(0);
}

static void copy(pid_t pid, size_t from, size_t to, char *buffer) {
    if (to - from > heap_bytes) from = to - heap_bytes;
    for (size_t at = from; at < to;) {
        size_t start = at % heap_bytes, length = to - at;
        if (length > heap_bytes - start) length = heap_bytes - start;
        struct iovec ours = {buffer, length}, theirs = {heap + start, length};
        if (process_vm_readv(pid, &ours, 1, &theirs, 1, 0) != (ssize_t)length) exit(1);
        at += length;
    }
}

static int compare(const void *one, const void *other) {
    return *(long *)one < *(long *)other ? -1 : 1;
}

static void run(const char *way, double rate, double seconds, char *buffer) {
    static long stops[100000];
    size_t count = 0, before = 0;
    memset(shared, 0, sizeof *shared);
    pid_t pid = fork();
    if (pid == 0) work(rate);
    usleep(300000);
    before = shared->written;
    size_t first = before;
    long began = now(), due = began;
    while (now() - began < (long)(seconds * 1e9)) {
        due += 100000000;
        while (now() < due) usleep(100);
        if (!strcmp(way, "plain")) {
            long start = now();
            kill(pid, SIGSTOP);
            waitpid(pid, NULL, WUNTRACED);
            copy(pid, before, shared->written, buffer);
            before = shared->written;
            kill(pid, SIGCONT);
            stops[count++] = now() - start;
        } else if (!strcmp(way, "twin")) {
            shared->twin = 0;
            kill(pid, SIGUSR1);
            while (!shared->twin) usleep(20);
            stops[count++] = shared->stopped_ns;
            size_t until = shared->written;
            copy(shared->twin, before, until, buffer);
            before = until;
            kill(shared->twin, SIGKILL);
        }
    }
    double written = (double)(shared->written - first) / (1 << 20) / ((double)(now() - began) / 1e9);
    shared->end = 1;
    waitpid(pid, NULL, 0);
    qsort(stops, count, sizeof *stops, compare);
    if (count) printf("%s %.1f %.1f %.0f\n", way, stops[count / 2] / 1e6, stops[count * 99 / 100] / 1e6, written);
    else printf("%s 0 0 %.0f\n", way, written);
}

int main(int count, char **words) {
    if (count != 4) return 2;
    heap_bytes = strtoul(words[1], NULL, 10) << 20;
    double rate = atof(words[2]), seconds = atof(words[3]);
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    heap = mmap(NULL, heap_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *buffer = mmap(NULL, heap_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    madvise(heap, heap_bytes, MADV_NOHUGEPAGE);
    memset(heap, 1, heap_bytes);
    for (const char *const *way = (const char *const[]){"none", "plain", "twin", NULL}; *way; way++) {
        run(*way, rate, seconds, buffer);
        fflush(stdout);
    }
    return 0;
}
