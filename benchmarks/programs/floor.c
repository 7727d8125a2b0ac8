/* floor SCRIPT ROUNDS PERIOD_US: make the system calls that SCRIPT lists, ROUNDS times; print the nanoseconds of each.

The script holds the calls of one stop of a program, as a tracer made them (benchmarks/floor.py records it). First lines:
"process PID START END CODE" (the arena that a killed tracer left in it: START to END, CODE its bytes in a file) and
"thread PID TID". Then a call a line; "clock" is where a round begins to count. What a call needs and the script does not say (which pages are dirty, where the
thread was) comes from the program itself, which must have been let go by its tracer. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#ifndef UFFD_FEATURE_WP_ASYNC /* headers older than Linux 6.7 */
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

#define TABLE (PAGE + 0x100)
#define LANES 16 /* sls/remote.py */
#define LANE_CODE 0x100
#define MOST 8192
#define BUFFER (64ul << 20)

struct page_region { __u64 start, end, categories; };
struct pm_scan_arg { __u64 size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, all, any, returned; };
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
enum { WPALLOWED = 1, WRITTEN = 2, IS_FILE = 4, PRESENT = 8, SWAPPED = 16, PFNZERO = 32 };

struct process { int pid; unsigned long start, end; char *arena; size_t dirty; struct iovec pages[MOST]; int large_count; unsigned long large[32][2]; };
struct thread { int pid, tid, lane; struct user_regs_struct registers; unsigned long mask; };
enum { SEIZE, INTERRUPT, WAIT, GETREGS, GETMASK, BORROW, BLOCK, UNBLOCK, GIVEBACK, CONTINUE, DETACH, OPTIONS, REGSET, SIGINFO, RSEQ, OPEN, READ, PREAD, CLOSE, GETDENTS, FSTAT, SEEK, STAT, READLINK, KCMP, PIDFD, GETFD, POLL, ROBUST, IOPRIO, AFFINITY, SCHEDULER, PEEK, SCAN, COPY, NONE };
static const char *NAMES[] = { "seize", "interrupt", "wait", "getregs", "getmask", "borrow", "block", "unblock", "giveback", "continue", "detach", "options", "regset", "siginfo", "rseq", "open", "read", "pread", "close", "getdents", "fstat", "seek", "stat", "readlink", "kcmp", "pidfd", "getfd", "poll", "robust", "ioprio", "affinity", "scheduler", "peek", "scan", "copy" };

struct call { int kind; char name[16], text[256]; long number[6]; };

static struct process processes[64];
static struct thread threads[256];
static struct call *calls;
static int process_count, thread_count, call_count, slots[4096];
static char *buffer;

static void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long trace(int request, int tid, void *address, void *data) { return ptrace(request, tid, address, data); }

static struct process *process_of(int pid) {
    for (int i = 0; i < process_count; i++)
        if (processes[i].pid == pid) return &processes[i];
    return &processes[0];
}

static struct thread *thread_of(int tid) {
    for (int i = 0; i < thread_count; i++)
        if (threads[i].tid == tid) return &threads[i];
    return &threads[0];
}

static int wait_for(int tid) {
    int status = 0;
    if (waitpid(tid, &status, __WALL) < 0) fail("waitpid");
    return status;
}

/* The code of a lane of the arena ends in tgkill(pid, tid, SIGURG), named in the lane's control block. */
static void borrow(struct thread *thread) {
    struct process *process = process_of(thread->pid);
    unsigned long bytes = process->end - process->start;
    unsigned long *control = (unsigned long *)(process->arena + (thread->lane ? bytes - (LANES - thread->lane) * PAGE : PAGE));
    control[0] = thread->pid, control[1] = thread->tid, control[2] = 23;
    struct user_regs_struct registers = thread->registers;
    registers.rip = process->start + thread->lane * LANE_CODE, registers.orig_rax = -1;
    trace(PTRACE_SETREGS, thread->tid, 0, &registers);
}

/* --- one call of the script --- */

static void take(struct process *process, struct page_region *found, int count) {
    for (int i = 0; i < count && process->dirty < MOST; i++)
        process->pages[process->dirty++] = (struct iovec){(void *)found[i].start, found[i].end - found[i].start};
}

/* The scans of one stop, in the tracer's order: the written pages of each large mapping, in the short form that the
kernel answers fastest; then, between them, what is written and what is there. */
static void scan(struct process *process, int fd, int number) {
    static struct page_region found[MOST];
    struct pm_scan_arg argument = {.size = sizeof argument, .vec = (__u64)found, .vec_len = MOST};
    int place = (number - process->large_count) / 2, is_arming = number < process->large_count;
    if (number == 0) process->dirty = 0;
    if (is_arming) {
        argument.start = process->large[number][0], argument.end = process->large[number][1];
        argument.all = argument.returned = WRITTEN;
    } else {
        if (place > process->large_count) place = process->large_count;
        argument.start = place ? process->large[place - 1][1] : 0;
        argument.end = place < process->large_count ? process->large[place][0] : (1ul << 47) - PAGE;
        is_arming = (number - process->large_count) % 2 == 0;
        argument.any = PRESENT | SWAPPED;
        argument.all = is_arming ? WPALLOWED | WRITTEN : IS_FILE | PFNZERO;
        argument.inverted = is_arming ? 0 : IS_FILE | PFNZERO;
        argument.returned = is_arming ? WRITTEN : WPALLOWED;
    }
    argument.flags = is_arming;
    int count = ioctl(fd, PAGEMAP_SCAN, &argument);
    if (count < 0) fail("PAGEMAP_SCAN");
    if (is_arming) take(process, found, count);
}

static void find_large(struct process *process) {
    static char line[1024], rights[8];
    unsigned long start, end, last_start = 0, last_end = 0, inode, resident, total = 0;
    snprintf(line, sizeof line, "/proc/%d/smaps", process->pid);
    FILE *maps = fopen(line, "r");
    while (fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %7s %*x %*s %lu", &start, &end, rights, &inode) == 4)
            last_start = start, last_end = rights[3] == 'p' && rights[1] == 'w' && !inode ? end : 0;
        else if (sscanf(line, "Rss: %lu kB", &resident) == 1 && last_end && resident >= 1024 && process->large_count < 32) {
            total += resident;
            process->large[process->large_count][0] = last_start;
            process->large[process->large_count++][1] = last_end;
        }
    fclose(maps);
    if (total < 4096) process->large_count = 0;
}

static void copy(struct process *process) {
    size_t used = 0;
    for (size_t at = 0; at < process->dirty; at += 1024) {
        size_t count = process->dirty - at < 1024 ? process->dirty - at : 1024;
        struct iovec here = {buffer + used, BUFFER - used};
        long copied = process_vm_readv(process->pid, &here, 1, process->pages + at, count, 0);
        if (copied < 0) fail("process_vm_readv");
        used += copied;
    }
}

static void run(struct call *call) {
    static char text[1 << 17];
    long *n = call->number;
    unsigned long mask;
    struct iovec part = {text, sizeof text};
    struct __ptrace_peeksiginfo_args peek = {0, n[1], 32};
    switch (call->kind) {
    case SEIZE: if (trace(PTRACE_SEIZE, n[0], 0, (void *)n[1])) fail("PTRACE_SEIZE"); break;
    case INTERRUPT: trace(PTRACE_INTERRUPT, n[0], 0, 0); break;
    case WAIT: wait_for(n[0]); break;
    case GETREGS: trace(PTRACE_GETREGS, n[0], 0, n[1] ? &thread_of(n[0])->registers : (void *)text); break;
    case GETMASK: trace(PTRACE_GETSIGMASK, n[0], (void *)8, &thread_of(n[0])->mask); break;
    case BORROW: borrow(thread_of(n[0])); break;
    case BLOCK: mask = ~(1ul << 22); trace(PTRACE_SETSIGMASK, n[0], (void *)8, &mask); break;
    case UNBLOCK: trace(PTRACE_SETSIGMASK, n[0], (void *)8, &thread_of(n[0])->mask); break;
    case GIVEBACK: trace(PTRACE_SETREGS, n[0], 0, &thread_of(n[0])->registers); break;
    case CONTINUE: trace(PTRACE_CONT, n[0], 0, 0); break;
    case DETACH: trace(PTRACE_DETACH, n[0], 0, 0); break;
    case OPTIONS: trace(PTRACE_SETOPTIONS, n[0], 0, (void *)n[1]); break;
    case REGSET: trace(PTRACE_GETREGSET, n[0], (void *)n[1], &part); break;
    case SIGINFO: trace(PTRACE_PEEKSIGINFO, n[0], &peek, text); break;
    case RSEQ: trace(0x420f, n[0], (void *)24, text); break;
    case OPEN: slots[n[0]] = open(call->text, n[1] | O_CLOEXEC); break;
    case READ: if (read(slots[n[0]], text, sizeof text) < 0 && errno == EBADF) fail("read"); break;
    case PREAD: if (pread(slots[n[0]], text, sizeof text, n[1]) < 0 && errno == EBADF) fail("pread"); break;
    case CLOSE: close(slots[n[0]]), slots[n[0]] = -1; break;  /* what was open before is closed in one round only */
    case GETDENTS: syscall(SYS_getdents64, slots[n[0]], text, 32768); break;
    case FSTAT: fstat(slots[n[0]], (struct stat *)text); break;
    case SEEK: lseek(slots[n[0]], n[1], n[2]); break;
    case STAT: stat(call->text, (struct stat *)text); break;
    case READLINK: if (readlink(call->text, text, 4096) < 0 && errno == EFAULT) fail("readlink"); break;
    case KCMP: syscall(SYS_kcmp, n[0], n[1], n[2], n[3], n[4]); break;
    case PIDFD: slots[n[0]] = syscall(SYS_pidfd_open, n[1], 0); break;
    case GETFD: slots[n[0]] = syscall(SYS_pidfd_getfd, slots[n[1]], n[2], 0); break;
    case POLL: struct pollfd one = {slots[n[0]], POLLIN | POLLOUT, 0}; poll(&one, 1, 0); break;
    case ROBUST: syscall(SYS_get_robust_list, n[0], text, text + 8); break;
    case IOPRIO: syscall(SYS_ioprio_get, 1, n[0]); break;
    case AFFINITY: syscall(SYS_sched_getaffinity, n[0], 8, text); break;
    case SCHEDULER: syscall(SYS_sched_getattr, n[0], text, 56, 0); break;
    case PEEK: {
        struct iovec there = {(void *)n[1], n[2]};
        if (process_vm_readv(n[0], &part, 1, &there, 1, 0) < 0 && errno == EPERM) fail("process_vm_readv");
        break;
    }
    case SCAN: scan(process_of(n[1]), slots[n[0]], n[2]); break;
    case COPY: copy(process_of(n[0])); break;
    default: syscall(SYS_getppid);
    }
}

/* --- before the first round --- */

static int kind_of(const char *name) {
    int kind = 0;
    while (kind < NONE && strcmp(NAMES[kind], name)) kind++;
    return kind;
}

static void load(const char *path) {
    static char line[1024];
    FILE *script = fopen(path, "r");
    if (!script) fail(path);
    calls = calloc(65536, sizeof *calls);
    while (fgets(line, sizeof line, script)) {
        struct call *call = &calls[call_count];
        char rest[1024] = "";
        if (sscanf(line, "process %d %lx %lx %1023s", &processes[process_count].pid, &processes[process_count].start,
                   &processes[process_count].end, rest) == 4) {
            struct process *process = &processes[process_count++];
            char name[128];
            snprintf(name, sizeof name, "/proc/%d/map_files/%lx-%lx", process->pid, process->start, process->start + PAGE);
            int fd = open(name, O_RDWR), saved = open(rest, O_RDONLY);
            process->arena = mmap(0, process->end - process->start, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (process->arena == MAP_FAILED) fail(name);
            if (read(saved, process->arena, process->end - process->start) < (long)TABLE) fail(rest);
            close(fd), close(saved);
        } else if (sscanf(line, "thread %d %d", &threads[thread_count].pid, &threads[thread_count].tid) == 2) {
            int is_next = thread_count && threads[thread_count - 1].pid == threads[thread_count].pid;
            threads[thread_count].lane = is_next ? (threads[thread_count - 1].lane + 1) % LANES : 0;
            thread_count++;
        }
        else if (sscanf(line, "%15s %ld %ld %ld %ld %ld %255s", call->name, &call->number[0], &call->number[1],
                        &call->number[2], &call->number[3], &call->number[4], call->text) >= 1 && call_count < 65535) {
            call->kind = kind_of(call->name);
            call_count++;
        }
    }
    fclose(script);
}

/* Give the process a userfaultfd of ours over its private writable memory, through calls made in its arena. */
static void track(struct thread *thread) {
    struct process *process = process_of(thread->pid);
    static char saved[PAGE];
    long *table = (long *)(process->arena + TABLE);
    memcpy(saved, table, sizeof saved);
    for (int turn = 0; turn < 2; turn++) {
        int number = (int)table[7];
        if (turn) table[0] = SYS_close, table[1] = number;
        else table[0] = SYS_userfaultfd, table[1] = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;
        table[8] = -1;
        trace(PTRACE_GETREGS, thread->tid, 0, &thread->registers);
        borrow(thread);
        trace(PTRACE_CONT, thread->tid, 0, 0);
        wait_for(thread->tid);
        trace(PTRACE_SETREGS, thread->tid, 0, &thread->registers);
        if (turn) break;
        int pidfd = syscall(SYS_pidfd_open, process->pid, 0);
        int fd = syscall(SYS_pidfd_getfd, pidfd, (int)table[7], 0);
        struct uffdio_api api = {UFFD_API, UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED, 0};
        if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) fail("userfaultfd");
        char name[64], line[1024], rights[8];
        snprintf(name, sizeof name, "/proc/%d/maps", process->pid);
        FILE *maps = fopen(name, "r");
        unsigned long start, end;
        while (fgets(line, sizeof line, maps))
            if (sscanf(line, "%lx-%lx %7s", &start, &end, rights) == 3 && rights[3] == 'p') {
                struct uffdio_register range = {{start, end - start}, UFFDIO_REGISTER_MODE_WP, 0};
                ioctl(fd, UFFDIO_REGISTER, &range);
            }
        fclose(maps), close(pidfd);
    }
    memcpy(table, saved, sizeof saved);
}

static void prepare(int stays) {
    for (int i = 0; i < process_count; i++) find_large(&processes[i]);
    for (int i = 0; i < thread_count; i++) {
        if (trace(PTRACE_SEIZE, threads[i].tid, 0, 0)) fail("PTRACE_SEIZE");
        trace(PTRACE_INTERRUPT, threads[i].tid, 0, 0);
        wait_for(threads[i].tid);
        if (i == 0 || threads[i].pid != threads[i - 1].pid) track(&threads[i]);
        trace(stays ? PTRACE_CONT : PTRACE_DETACH, threads[i].tid, 0, 0);
    }
    for (int i = 0; i < call_count; i++)
        if (!strncmp(calls[i].name, "before-", 7)) {
            calls[i].kind = kind_of(calls[i].name + 7);
            run(&calls[i]);
            calls[i].name[0] = 0;
        }
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000l + time.tv_nsec;
}

int main(int count, char **words) {
    if (count != 4) return 2;
    load(words[1]);
    int stays = 1, first = 0, clock_at = -1;
    for (int i = 0; i < call_count; i++) {
        stays &= strcmp(calls[i].name, "seize") != 0;
        if (!strcmp(calls[i].name, "clock")) clock_at = i;
    }
    buffer = mmap(0, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    prepare(stays);
    while (first < call_count && !calls[first].name[0]) first++;
    for (int round = 0; round < atoi(words[2]); round++) {
        usleep(atoi(words[3]));
        long began = now();
        for (int i = first; i < call_count; i++)
            if (i == clock_at) began = now();
            else if (calls[i].name[0]) run(&calls[i]);
        printf("%ld\n", now() - began);
    }
    return 0;
}
