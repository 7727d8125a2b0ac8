/* A ring of io_uring(7): counters, contents and mappings stay, and it goes on working. Arguments: entries, requests
 * made before, `indices` or `none` (IORING_SETUP_NO_SQARRAY), answers left unread. Shared by dup and by fork. */
#define _GNU_SOURCE
#include <linux/io_uring.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "protocol.h"

#ifndef IORING_SETUP_NO_SQARRAY /* Linux 6.6 */
#define IORING_SETUP_NO_SQARRAY (1U << 16)
#endif

struct completion { uint64_t user_data; int32_t res; uint32_t flags; };

static struct io_uring_params params;
static unsigned char *queues;
static struct io_uring_sqe *entries;
static unsigned submitted, answered; /* our own count, as libraries keep one */

static volatile unsigned *word(unsigned offset) { return (volatile unsigned *)(queues + offset); }

static int submit(int fd, uint8_t opcode, int target, const void *from, unsigned length, uint64_t mark)
{
    unsigned slot = submitted & (params.sq_entries - 1);
    entries[slot] = (struct io_uring_sqe){
        .opcode = opcode, .fd = target, .addr = (uintptr_t)from, .len = length, .off = -1, .user_data = mark};
    if (!(params.flags & IORING_SETUP_NO_SQARRAY))
        word(params.sq_off.array)[slot] = slot;
    __atomic_store_n(word(params.sq_off.tail), ++submitted, __ATOMIC_RELEASE);
    return syscall(SYS_io_uring_enter, fd, 1, 0, 0, 0, 0);
}

static struct completion answer(void)
{
    struct completion *all = (void *)(queues + params.cq_off.cqes);
    struct completion one = all[answered & (params.cq_entries - 1)];
    __atomic_store_n(word(params.cq_off.head), ++answered, __ATOMIC_RELEASE);
    return one;
}

static int writes(int fd, int to, const char *text, uint64_t mark)
{
    return submit(fd, IORING_OP_WRITE, to, text, strlen(text), mark) == 1;
}

int main(int argc, char **argv)
{
    unsigned wanted = atoi(argv[2]), before = atoi(argv[3]), unread = atoi(argv[5]);
    if (!strcmp(argv[4], "none"))
        params.flags = IORING_SETUP_NO_SQARRAY;
    int fd = syscall(SYS_io_uring_setup, wanted, &params);
    expect("ring", fd >= 0);
    size_t size = params.cq_off.cqes + params.cq_entries * sizeof(struct completion);
    if (!(params.flags & IORING_SETUP_NO_SQARRAY))
        size = params.sq_off.array + params.sq_entries * 4;
    queues = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
    entries = mmap(0, params.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
    expect("mapped", queues != MAP_FAILED && entries != MAP_FAILED);
    for (unsigned i = 0; i < before; i++) {
        expect("request", submit(fd, IORING_OP_NOP, -1, 0, 0, i) == 1);
        struct completion one = answer();
        expect("answer", one.user_data == i && one.res == 0);
    }
    for (unsigned i = 0; i < unread; i++)
        expect("request", submit(fd, IORING_OP_NOP, -1, 0, 0, 1000 + i) == 1);
    int pipe_ends[2], copy = dup(fd);
    expect("pipe", pipe(pipe_ends) == 0 && copy >= 0);
    void *was = queues;
    wait_for_go(argv);
    expect("same place", was == queues && *word(params.sq_off.tail) == submitted && *word(params.sq_off.head) == submitted);
    expect("counters", *word(params.cq_off.head) == answered && *word(params.cq_off.tail) == submitted);
    for (unsigned i = 0; i < unread; i++)
        expect("unread answer", answer().user_data == 1000 + i);
    pid_t child = fork();
    if (!child)
        _exit(writes(copy, pipe_ends[1], "from the child ", 7) ? 0 : 1);
    int status;
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    submitted++;
    expect("its answer", answer().user_data == 7);
    expect("write", writes(fd, pipe_ends[1], "from us", 8));
    struct completion one = answer();
    expect("answer to it", one.user_data == 8 && one.res == 7);
    char text[100] = "";
    expect("bytes", read(pipe_ends[0], text, sizeof text) == 22 && !strcmp(text, "from the child from us"));
    for (unsigned i = 0; i < 3 * params.sq_entries; i++) {
        expect("request", submit(copy, IORING_OP_NOP, -1, 0, 0, i) == 1);
        expect("answer", answer().user_data == i);
    }
    return finish();
}
