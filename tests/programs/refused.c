/* Opens one thing that cannot be kept; the argument names it. */
#define _GNU_SOURCE
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <fcntl.h>
#include <sys/fanotify.h>
#include <sys/syscall.h>
#include "protocol.h"

static int open_it(const char *kind)
{
    if (!strcmp(kind, "userfaultfd"))
        return syscall(SYS_userfaultfd, 1);
    if (!strcmp(kind, "io_uring")) {
        struct io_uring_params params = {0};
        return syscall(SYS_io_uring_setup, 4, &params);
    }
    if (!strcmp(kind, "bpf")) {
        union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
        return syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map);
    }
    if (!strcmp(kind, "perf")) {
        struct perf_event_attr event = {
            .type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_TASK_CLOCK};
        return syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
    }
    if (!strcmp(kind, "fanotify"))
        return fanotify_init(FAN_CLASS_NOTIF, O_RDONLY);
    if (!strcmp(kind, "fuse"))
        return open("/dev/fuse", O_RDWR);
    return open(kind, O_RDWR);
}

int main(int argc, char **argv)
{
    int fd = open_it(argv[2]);
    expect(argv[2], fd >= 0);
    wait_for_go(argv);
    expect("still open", fcntl(fd, F_GETFD) >= 0);
    return finish();
}
