/* A ring of io_uring(7) that cannot be kept, or not at once; the argument says why. */
#define _GNU_SOURCE
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include "protocol.h"

static unsigned flags_of(const char *kind)
{
    if (!strcmp(kind, "polling thread"))
        return IORING_SETUP_SQPOLL;
    if (!strcmp(kind, "one task"))
        return IORING_SETUP_SINGLE_ISSUER;
    if (!strcmp(kind, "large entries"))
        return IORING_SETUP_SQE128;
    return 0;
}

/* The kernel's thread bears the program's name until it runs for the first time. */
static void wait_for_its_name(void)
{
    char path[300], name[32];
    for (int is_named = 0; !is_named; usleep(1000)) {
        DIR *threads = opendir("/proc/self/task");
        for (struct dirent *one; (one = readdir(threads));) {
            sprintf(path, "/proc/self/task/%s/comm", one->d_name);
            FILE *file = fopen(path, "r");
            if (!file)
                continue; /* of `.` and `..` */
            is_named |= fgets(name, sizeof name, file) && !strncmp(name, "iou-sqp-", 8);
            fclose(file);
        }
        closedir(threads);
    }
}

int main(int argc, char **argv)
{
    const char *kind = argv[2];
    struct io_uring_params params = {.flags = flags_of(kind)};
    int fd = syscall(SYS_io_uring_setup, 64, &params);
    expect("ring", fd == 3);
    size_t size = params.sq_off.array + params.sq_entries * 4;
    unsigned char *queues = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    size_t entry = params.flags & IORING_SETUP_SQE128 ? 128 : 64;
    struct io_uring_sqe *entries = mmap(0, 64 * entry, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
    expect("mapped", queues != MAP_FAILED && entries != MAP_FAILED);
    for (unsigned i = 0; i < 64; i++)
        ((unsigned *)(queues + params.sq_off.array))[i] = i;
    static char room[4096];
    int ends[2];
    expect("pipe", pipe(ends) == 0);
    if (!strcmp(kind, "under way") || !strcmp(kind, "polled")) {
        if (!strcmp(kind, "polled"))
            entries[0] = (struct io_uring_sqe){.opcode = IORING_OP_POLL_ADD, .fd = ends[0], .poll32_events = POLLIN};
        else
            entries[0] = (struct io_uring_sqe){
                .opcode = IORING_OP_READ, .fd = ends[0], .addr = (uintptr_t)room, .len = 10, .off = -1};
        __atomic_store_n((unsigned *)(queues + params.sq_off.tail), 1, __ATOMIC_RELEASE);
        expect("request", syscall(SYS_io_uring_enter, fd, 1, 0, 0, 0, 0) == 1);
    }
    struct __kernel_timespec duration = {.tv_nsec = 300000000};
    if (!strcmp(kind, "for a while")) {
        entries[0] = (struct io_uring_sqe){
            .opcode = IORING_OP_TIMEOUT, .fd = -1, .addr = (uintptr_t)&duration, .len = 1};
        __atomic_store_n((unsigned *)(queues + params.sq_off.tail), 1, __ATOMIC_RELEASE);
        expect("request", syscall(SYS_io_uring_enter, fd, 1, 0, 0, 0, 0) == 1);
    }
    if (!strcmp(kind, "eventfd")) {
        int event = eventfd(0, 0);
        expect("eventfd", syscall(SYS_io_uring_register, fd, IORING_REGISTER_EVENTFD, &event, 1) == 0);
    }
    if (!strcmp(kind, "buffers")) {
        struct iovec buffer = {room, sizeof room};
        expect("buffer", syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, &buffer, 1) == 0);
    }
    if (!strcmp(kind, "unmapped"))
        expect("unmapped", munmap(queues, size) == 0 && munmap(entries, 64 * entry) == 0);
    if (!strcmp(kind, "polling thread"))
        wait_for_its_name();
    wait_for_go(argv);
    expect("still open", fcntl(fd, F_GETFD) >= 0);
    if (!strcmp(kind, "under way")) {
        expect("write", write(ends[1], "0123456789", 10) == 10);
        syscall(SYS_io_uring_enter, fd, 0, 1, IORING_ENTER_GETEVENTS, 0, 0);
        expect("read", !memcmp(room, "0123456789", 10));
    }
    return finish();
}
