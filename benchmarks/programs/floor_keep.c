/* The least that keeping a process costs it: stop, find and arm what was written, copy, go on; compress and write.

   usage: floor_keep PID PERIOD_MS SECONDS FILE|- : prints stops, median stop (µs), median pages

   Another process has armed its pages (userfaultfd, asynchronous write-protect) and holds them so. With "-" nothing is
   compressed or written. Blocks of 64 KiB by lz4, as the store has them; nothing is hashed, indexed or synced. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REGIONS 65536
#define BUFFER (256L << 20)
#define BLOCK 65536

struct region { uint64_t start, end, categories; };
struct scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, returned;
};
#define PAGEMAP_SCAN 0xC0606610UL
#define WP_MATCHING 1
#define WPALLOWED 1
#define WRITTEN 2
#define PRESENT 8
#define SWAPPED 16

static struct region regions[REGIONS];
static struct iovec vectors[REGIONS];
static char *buffer, *packed;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int threads_of(int pid, int *tids, int most) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *folder = opendir(path);
    if (!folder) exit(1);
    int count = 0;
    for (struct dirent *one; (one = readdir(folder)) && count < most;)
        if (one->d_name[0] != '.') tids[count++] = atoi(one->d_name);
    closedir(folder);
    return count;
}

static int written(int pagemap) {
    struct scan argument = {
        .size = sizeof argument, .flags = WP_MATCHING, .end = (1UL << 47) - 4096, .vec = (uint64_t)regions,
        .vec_len = REGIONS, .mask = WPALLOWED | WRITTEN, .anyof = PRESENT | SWAPPED, .returned = WRITTEN,
    };
    int count = ioctl(pagemap, PAGEMAP_SCAN, &argument);
    if (count < 0) { perror("PAGEMAP_SCAN"); exit(1); }
    return count;
}

static long copy(int pid, int count) {
    long bytes = 0;
    for (int at = 0; at < count; at += 1024) {
        int part = count - at < 1024 ? count - at : 1024;
        long wanted = 0;
        for (int i = 0; i < part; i++) {
            vectors[i] = (struct iovec){(void *)regions[at + i].start, regions[at + i].end - regions[at + i].start};
            wanted += vectors[i].iov_len;
        }
        if (bytes + wanted > BUFFER) break;
        struct iovec mine = {buffer + bytes, wanted};
        long done = process_vm_readv(pid, &mine, 1, vectors, part, 0);
        if (done > 0) bytes += done;
    }
    return bytes;
}

static int by_value(const void *a, const void *b) {
    int64_t one = *(const int64_t *)a, other = *(const int64_t *)b;
    return (one > other) - (one < other);
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    int pid = atoi(argv[1]), tids[256], file = -1;
    int64_t period = atol(argv[2]) * 1000000LL, end = now_ns() + (int64_t)(atof(argv[3]) * 1e9);
    int (*compress)(const char *, char *, int, int) = NULL;
    if (strcmp(argv[4], "-")) {
        void *library = dlopen("liblz4.so.1", RTLD_NOW);
        if (library) compress = (int (*)(const char *, char *, int, int))dlsym(library, "LZ4_compress_default");
        file = open(argv[4], O_CREAT | O_TRUNC | O_WRONLY, 0600);
        if (!compress || file < 0) { fprintf(stderr, "no lz4, or no file\n"); return 1; }
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
    int pagemap = open(path, O_RDONLY);
    buffer = malloc(BUFFER), packed = malloc(2 * BLOCK);
    memset(buffer, 1, BUFFER);
    static int64_t stops[65536], pages[65536];
    int count = 0;
    for (int64_t due = now_ns() + period; due < end && count < 65536; due += period) {
        struct timespec at = {due / 1000000000, due % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        int64_t began = now_ns();
        int threads = threads_of(pid, tids, 256);
        for (int i = 0; i < threads; i++) ptrace(PTRACE_SEIZE, tids[i], 0, 0);
        for (int i = 0; i < threads; i++) ptrace(PTRACE_INTERRUPT, tids[i], 0, 0);
        for (int i = 0; i < threads; i++) waitpid(tids[i], NULL, __WALL);
        long bytes = copy(pid, written(pagemap));
        for (int i = 0; i < threads; i++) ptrace(PTRACE_DETACH, tids[i], 0, 0);
        stops[count] = now_ns() - began;
        pages[count++] = bytes / 4096;
        for (long done = 0; file >= 0 && done < bytes; done += BLOCK) {
            int part = bytes - done < BLOCK ? bytes - done : BLOCK;
            int length = compress(buffer + done, packed, part, 2 * BLOCK);
            if (write(file, packed, length) != length) { perror("write"); return 1; }
        }
        while (due + period < now_ns()) due += period;
    }
    qsort(stops, count, sizeof *stops, by_value);
    qsort(pages, count, sizeof *pages, by_value);
    printf("%d %ld %ld\n", count, (long)(stops[count / 2] / 1000), (long)pages[count / 2]);
    return 0;
}
