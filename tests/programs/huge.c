/* Huge pages: private and shared anonymous ones, and a memfd of them, mapped both ways, before and after a fork.
 * argv[2]: how many kB a page has. Pages that were never touched stay that way. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "protocol.h"

static size_t page;

static char *map(int pages, int protection, int flags, int fd)
{
    char *area = mmap(0, pages * page, protection, flags, fd, 0);
    expect("mmap", area != MAP_FAILED);
    return area;
}

static void fill(char *area, size_t bytes, int seed)
{
    for (size_t i = 0; i < bytes; i += 61)
        area[i] = i / 61 * 7 + seed;
}

static void check(const char *what, char *area, size_t bytes, int seed)
{
    for (size_t i = 0; i < bytes; i += 61)
        if (area[i] != (char)(i / 61 * 7 + seed)) {
            fprintf(stderr, "%s: wrong at %zu\n", what, i);
            exit(1);
        }
}

/* Bytes of huge pages that the process has touched, by its smaps. */
static long touched(void)
{
    char line[256];
    long sum = 0, kilobytes;
    FILE *file = fopen("/proc/self/smaps", "r");
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Private_Hugetlb: %ld", &kilobytes) == 1 || sscanf(line, "Shared_Hugetlb: %ld", &kilobytes) == 1)
            sum += kilobytes;
    fclose(file);
    return sum;
}

int main(int argc, char **argv)
{
    int both = PROT_READ | PROT_WRITE, huge = MAP_ANONYMOUS | MAP_HUGETLB;
    page = atol(argv[2]) << 10;
    int fd = memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING);
    expect("memfd", fd >= 0 && !ftruncate(fd, page));
    char *private = map(2, both, MAP_PRIVATE | huge, -1);
    char *fixed = map(1, both, MAP_PRIVATE | huge, -1);
    char *shared = map(1, both, MAP_SHARED | huge, -1);
    char *file = map(1, both, MAP_SHARED, fd);
    char *copy = map(1, both, MAP_PRIVATE, fd);
    fill(private, page, 1);
    fill(fixed, page, 2);
    fill(shared, page, 3);
    fill(file, page, 4);
    fill(copy, page / 2, 5);
    expect("mprotect", !mprotect(fixed, page, PROT_READ));
    expect("seal", !fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    long before = touched();
    pid_t child = fork();
    if (!child) {
        wait_along(argv);
        fill(shared, page, 6);
        fill(file, page, 7);
        return 0;
    }
    wait_for_go(argv);
    int status;
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    check("private", private, page, 1);
    check("read-only", fixed, page, 2);
    check("shared", shared, page, 6);
    check("memfd", file, page, 7);
    check("private copy of it", copy, page / 2, 5);
    expect("pages that are there", touched() == before);
    private[page] = 1;
    struct stat status_of;
    expect("size", !fstat(fd, &status_of) && status_of.st_blksize == (long)page && status_of.st_size == (long)page);
    expect("seals", fcntl(fd, F_GET_SEALS) == F_SEAL_GROW);
    return finish();
}
