/* System V segments of huge pages: with a key, destroyed, attached twice and in part, not attached. argv[2]: how many kB
 * a page has. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include "protocol.h"

/* What smaps says of the pages at an address. */
static size_t page_bytes_at(char *address)
{
    char line[256];
    unsigned long start, end, kilobytes = 0;
    int is_there = 0;
    FILE *file = fopen("/proc/self/smaps", "r");
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            is_there = start <= (unsigned long)address && (unsigned long)address < end;
        if (is_there && sscanf(line, "KernelPageSize: %lu", &kilobytes) == 1)
            break;
    }
    fclose(file);
    return kilobytes << 10;
}

static int make(key_t key, size_t bytes)
{
    int segment = shmget(key, bytes, SHM_HUGETLB | IPC_CREAT | IPC_EXCL | 0640);
    expect("shmget", segment >= 0);
    return segment;
}

static char *attach(int segment, int flags)
{
    char *area = shmat(segment, 0, flags);
    expect("shmat", area != (char *)-1);
    return area;
}

int main(int argc, char **argv)
{
    be_apart_if_asked(argc, argv);
    int status;
    struct shmid_ds ds;
    size_t page = atol(argv[2]) << 10, size = page + 5000;
    key_t key = 0x48500000 | (getpid() & 0xffff);
    int keyed = make(key, size), destroyed = make(IPC_PRIVATE, 2 * page), waiting = make(IPC_PRIVATE, page);
    char *one = attach(keyed, 0), *two = attach(keyed, SHM_RDONLY), *gone = attach(destroyed, 0);
    char *before = attach(waiting, 0);
    strcpy(before, "waiting");
    one[0] = 'a';
    one[size - 1] = 'z';
    one[2 * page - 1] = 'e'; /* beyond what was asked for, in the last page */
    gone[page + 4096] = 'g';
    expect("in part", !munmap(gone, page) && !mprotect(one + page, page, PROT_READ) && !shmdt(before));
    shmctl(destroyed, IPC_RMID, NULL);
    pid_t child = fork();
    if (!child) {
        wait_along(argv);
        one[1] = 'b';
        gone[page + 1] = 'h';
        return 0;
    }
    wait_for_go(argv);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    expect("bytes", one[0] == 'a' && two[size - 1] == 'z' && two[2 * page - 1] == 'e' && gone[page + 4096] == 'g');
    expect("shared", two[1] == 'b' && gone[page + 1] == 'h' && !gone[page + 2]);
    expect("huge", page_bytes_at(one) == page && page_bytes_at(gone + page) == page);
    expect("id", shmget(key, 0, 0) == keyed && !shmctl(keyed, IPC_STAT, &ds));
    expect("counted", ds.shm_nattch == 3 /* one is in two parts */ && ds.shm_segsz == size && (ds.shm_perm.mode & 0777) == 0640);
    expect("not attached", !shmctl(waiting, IPC_STAT, &ds) && ds.shm_nattch == 0 && ds.shm_segsz == page);
    before = attach(waiting, 0);
    expect("its bytes", !strcmp(before, "waiting") && page_bytes_at(before) == page);
    expect("detach", !shmdt(one) && !shmdt(two) && !shmdt(gone) && !shmdt(before));
    expect("gone with the last", shmctl(destroyed, IPC_STAT, &ds) < 0 && errno == EINVAL);
    shmctl(keyed, IPC_RMID, NULL);
    shmctl(waiting, IPC_RMID, NULL);
    return finish();
}
