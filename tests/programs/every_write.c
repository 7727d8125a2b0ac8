/* Changes its memory by one means for each byte it reads from standard input, then says "X done" and reads the next.
 * The test looks at the memory while it is blocked in that read. Children that it makes sleep until they are killed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "protocol.h"

enum { PAGE = 4096, HEAP = 4 << 20, HUGE = 4 << 20, LARGE = 16 << 20, SMALL = 64 * PAGE, STORED = 500 * PAGE };

static char *heap, *moved, *again, *huge, *shared, *content, *second, *deleted, *random_bytes, *large;
static char *brk_start;
static int memfd, deleted_fd, source, pair[2];
static uint64_t state = 88172645463325252u;

static uint64_t chance(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static char *map(size_t length, int flags, int fd)
{
    char *found = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);
    expect("mmap", found != MAP_FAILED);
    return found;
}

static void scatter(char *memory, size_t length, int pages)
{
    for (int i = 0; i < pages; i++)
        *(uint64_t *)(memory + chance() % (length / 8) * 8) = chance();
}

static void fill(char *memory, size_t length)
{
    for (size_t at = 0; at < length; at += PAGE)
        *(uint64_t *)(memory + at) = chance();
}

static void nap(void)
{
    while (1)
        pause();
}

static void *stay(void *argument)
{
    char stack[3 * PAGE];
    fill(stack, sizeof stack);
    *(volatile char *)argument = stack[PAGE];
    nap();
    return NULL;
}

/* --- one means each --- */

static void by_store(void) { scatter(heap, STORED, 50); }

static void by_read(void)
{
    struct iovec parts[2] = {{heap + 10 * PAGE + 17, 3 * PAGE}, {heap + 200 * PAGE, 5}};
    expect("read", read(source, heap + 100 * PAGE + 5, 2 * PAGE) == 2 * PAGE);
    expect("pread", pread(source, heap + 300 * PAGE, 1, 0) == 1);
    expect("readv", readv(source, parts, 2) == 3 * PAGE + 5);
    expect("write", write(pair[0], random_bytes, 2 * PAGE) == 2 * PAGE);
    expect("recv", recv(pair[1], heap + 401 * PAGE - 9, 2 * PAGE, MSG_WAITALL) == 2 * PAGE);
}

/* The test writes, at the address that is told. */
static void from_outside(void) { printf("outside %p\n", heap + 500 * PAGE); }

static void by_mremap(void)
{
    scatter(moved, SMALL, 20);
    char *place = map(4 * SMALL, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    moved = mremap(moved, SMALL, 2 * SMALL, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    expect("mremap", moved == place);
    scatter(moved, 2 * SMALL, 20);
    moved = mremap(moved, 2 * SMALL, SMALL, 0);
    char *kept = mremap(moved, SMALL, SMALL, MREMAP_MAYMOVE | 4, NULL); /* MREMAP_DONTUNMAP */
    expect("mremap, not unmapped", kept != MAP_FAILED);
    moved[PAGE] = 1;
    moved = kept;
    scatter(moved, SMALL, 3);
}

static void by_map_fixed(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    expect("over", mmap(heap + 600 * PAGE, 40 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED);
    heap[610 * PAGE] = 9;
    expect("read only", mmap(heap + 650 * PAGE, 4 * PAGE, PROT_READ, flags, -1, 0) != MAP_FAILED);
    again = mmap(again, SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, source, 0);
    expect("file", again != MAP_FAILED);
    scatter(again, SMALL, 4);
    expect("hole", !munmap(heap + 660 * PAGE, 3 * PAGE));
}

static void by_madvise(void)
{
    expect("dontneed", !madvise(heap + 700 * PAGE, 30 * PAGE, MADV_DONTNEED));
    heap[705 * PAGE] = 3;
    expect("free", !madvise(heap + 740 * PAGE, 10 * PAGE, MADV_FREE));
    expect("read", heap[741 * PAGE] || 1);
    heap[742 * PAGE] = 4;
    expect("file pages", !madvise(again + PAGE, 20 * PAGE, MADV_DONTNEED));
    expect("all", !madvise(moved, SMALL, MADV_DONTNEED));
}

static void by_fork(void)
{
    shared[3 * PAGE] = 0;
    scatter(heap, STORED, 10);
    pid_t child = fork();
    if (!child) {
        scatter(heap + 800 * PAGE, 100 * PAGE, 30);
        shared[3 * PAGE] = 77;
        nap();
    }
    scatter(heap + 800 * PAGE, 100 * PAGE, 20);
    while (*(volatile char *)(shared + 3 * PAGE) != 77)
        usleep(100);
}

static void by_vfork(char **argv)
{
    static volatile int seen;
    if (!vfork()) {
        seen = 5;
        heap[20 * PAGE]++;
        execl(argv[0], argv[0], "nap", NULL);
        _exit(9);
    }
    expect("shared with the parent", seen == 5);
}

static void by_shared(void)
{
    scatter(shared, SMALL, 5);
    scatter(content, SMALL, 5);
    second[9 * PAGE + 1] = 55;
    expect("write", pwrite(memfd, random_bytes, PAGE + 7, 20 * PAGE - 3) == PAGE + 7);
    expect("hole", !fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 30 * PAGE, 2 * PAGE));
    scatter(deleted, SMALL, 3);
    expect("write", pwrite(deleted_fd, random_bytes, PAGE, 11 * PAGE) == PAGE);
    expect("read", pread(source, shared + 40 * PAGE, 3 * PAGE, 0) == 3 * PAGE);
}

static void by_brk(void)
{
    expect("brk up", sbrk(40 * PAGE) == brk_start);
    scatter(brk_start, 40 * PAGE, 20);
    expect("brk down", !brk(brk_start + 20 * PAGE));
    expect("brk up again", !brk(brk_start + 30 * PAGE));
    brk_start[25 * PAGE] = 8;
}

static void by_mprotect(void)
{
    char *part = heap + 910 * PAGE;
    expect("none", !mprotect(part, 10 * PAGE, PROT_NONE));
    expect("read only", !mprotect(part + 20 * PAGE, 10 * PAGE, PROT_READ));
    expect("and back", !mprotect(part + 20 * PAGE, 5 * PAGE, PROT_READ | PROT_WRITE));
    part[21 * PAGE] = 6;
    expect("execute", !mprotect(part + 40 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
    part[40 * PAGE] = 7;
}

static void by_threads(void)
{
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        volatile char *sign = heap + 30 * PAGE + i;
        *sign = 0;
        expect("thread", !pthread_create(&thread, NULL, stay, (void *)sign));
    }
    usleep(20000);
}

static void by_huge_pages(void)
{
    if (!huge) {
        huge = map(HUGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        madvise(huge, HUGE, MADV_HUGEPAGE);
        fill(huge, HUGE / 2);
    } else {
        scatter(huge, HUGE, 3);
        expect("dontneed", !madvise(huge + PAGE, 7 * PAGE, MADV_DONTNEED));
    }
}

/* So much at once that page tables go with the pages. */
static void by_dropping(void)
{
    if (!large) {
        large = map(LARGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        madvise(large, LARGE, MADV_NOHUGEPAGE);
        fill(large, LARGE);
        return;
    }
    expect("dontneed", !madvise(large + 2 * PAGE, LARGE / 2, MADV_DONTNEED));
    expect("huge dontneed", !madvise(huge, HUGE, MADV_DONTNEED));
    large[LARGE / 4] = 2;
}

static void by_zero_pages(void)
{
    char *fresh = map(SMALL, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    volatile char sum = 0;
    for (int at = 0; at < SMALL; at += PAGE)
        sum += fresh[at];
    fresh[5 * PAGE] = 1;
    expect("locked", !mlock(fresh + 6 * PAGE, PAGE));
}

static void prepare(void)
{
    char name[] = "deleted-XXXXXX", source_name[] = "source-XXXXXX";
    heap = map(HEAP, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill(heap, HEAP);
    moved = map(SMALL, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill(moved, SMALL);
    again = map(SMALL, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill(again, SMALL);
    shared = map(SMALL, MAP_SHARED | MAP_ANONYMOUS, -1);
    fill(shared, SMALL);
    random_bytes = map(4 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill(random_bytes, 4 * PAGE);
    memfd = memfd_create("content", 0);
    expect("memfd", memfd >= 0 && !ftruncate(memfd, SMALL));
    content = map(SMALL, MAP_SHARED, memfd);
    second = map(SMALL, MAP_SHARED, memfd);
    fill(content, SMALL / 2);
    deleted_fd = mkstemp(name);
    expect("file", deleted_fd >= 0 && !unlink(name) && !ftruncate(deleted_fd, SMALL));
    deleted = map(SMALL, MAP_SHARED, deleted_fd);
    source = mkstemp(source_name);
    for (int i = 0; i < 80; i++) {
        scatter(random_bytes, 4 * PAGE, 50);
        expect("source", write(source, random_bytes, PAGE) == PAGE);
    }
    lseek(source, 0, SEEK_SET);
    expect("pair", !socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    brk_start = sbrk(0);
}

int main(int argc, char **argv)
{
    char means;
    if (argc > 1 && !strcmp(argv[1], "nap"))
        nap();
    setvbuf(stdout, NULL, _IONBF, 0);
    prepare();
    puts("ready");
    while (read(0, &means, 1) == 1) {
        switch (means) {
        case 's': by_store(); break;
        case 'r': by_read(); break;
        case 'o': from_outside(); break;
        case 'm': by_mremap(); break;
        case 'x': by_map_fixed(); break;
        case 'a': by_madvise(); break;
        case 'f': by_fork(); break;
        case 'v': by_vfork(argv); break;
        case 'h': by_shared(); break;
        case 'b': by_brk(); break;
        case 'p': by_mprotect(); break;
        case 't': by_threads(); break;
        case 'H': by_huge_pages(); break;
        case 'd': by_dropping(); break;
        case 'z': by_zero_pages(); break;
        case 'e': execl(argv[0], argv[0], NULL); break;
        }
        printf("%c done\n", means);
    }
    return 0;
}
