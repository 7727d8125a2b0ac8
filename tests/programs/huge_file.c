/* Files of hugetlbfs: with a name, without one, mapped both ways or only open, by a parent and its child.
 * argv[2]: how many kB a page has; argv[3]: where it is mounted. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "protocol.h"

static size_t page;
static const int both = PROT_READ | PROT_WRITE;

static int make(const char *name, int flags, int pages)
{
    int fd = open(name, flags | O_RDWR, 0640);
    expect("file", fd >= 0 && !ftruncate(fd, pages * page));
    return fd;
}

static char *map(int fd, int flags, int protection)
{
    char *area = mmap(0, page, protection, flags, fd, 0);
    expect("mmap", area != MAP_FAILED);
    return area;
}

static struct stat status_of(int fd)
{
    struct stat status;
    expect("fstat", !fstat(fd, &status) && status.st_blksize == (long)page);
    return status;
}

int main(int argc, char **argv)
{
    page = atol(argv[2]) << 10;
    expect("chdir", !chdir(argv[3]));
    int named = make("named", O_CREAT | O_EXCL, 3), deleted = make("deleted", O_CREAT | O_EXCL, 1);
    int mapped = make("mapped", O_CREAT | O_EXCL, 1), nameless = make(".", O_TMPFILE, 1);
    char *shared = map(named, MAP_SHARED, both), *own = map(named, MAP_PRIVATE, both);
    char *fixed = map(named, MAP_SHARED, PROT_READ), *gone = map(mapped, MAP_SHARED, both);
    char *area = map(deleted, MAP_SHARED, both), *other = map(nameless, MAP_SHARED, both);
    strcpy(shared, "shared");
    strcpy(own, "own");
    strcpy(gone + page - 5, "gone");
    strcpy(area + 4096, "deleted");
    strcpy(other, "nameless");
    munmap(area, page);
    munmap(other, page);
    expect("unlink", !unlink("deleted") && !unlink("mapped") && !close(mapped));
    expect("position", lseek(named, 3, SEEK_SET) == 3);
    int path = open("named", O_PATH), folder = open(".", O_RDONLY | O_DIRECTORY);
    pid_t child = fork();
    if (!child) {
        wait_along(argv);
        strcpy(shared + 100, "child");
        strcpy(gone, "child");
        return 0;
    }
    wait_for_go(argv);
    int status;
    char text[16] = "";
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    expect("shared", !strcmp(shared, "shared") && !strcmp(shared + 100, "child") && !strcmp(fixed + 100, "child"));
    expect("own", !strcmp(own, "own") && !strcmp(gone, "child") && !strcmp(gone + page - 5, "gone"));
    expect("read", read(named, text, 3) == 3 && !strcmp(text, "red"));
    expect("deleted", pread(deleted, text, 8, 4096) == 8 && !strcmp(text, "deleted"));
    expect("nameless", pread(nameless, text, 9, 0) == 9 && !strcmp(text, "nameless"));
    struct stat status_of_name, one = status_of(named);
    expect("name", !stat("named", &status_of_name) && status_of_name.st_ino == one.st_ino);
    expect("size", one.st_size == 3 * (long)page && one.st_blocks == (long)page / 512 && (one.st_mode & 0777) == 0640);
    expect("path", status_of(path).st_ino == one.st_ino && status_of(folder).st_ino != one.st_ino);
    expect("no name", !status_of(deleted).st_nlink && !status_of(nameless).st_nlink);
    snprintf(text, sizeof text, "/proc/self/fd/%d", nameless);
    expect("link", !linkat(AT_FDCWD, text, AT_FDCWD, "given", AT_SYMLINK_FOLLOW) && !unlink("given"));
    expect("hole", one.st_blocks == status_of(path).st_blocks && !unlink("named"));
    return finish();
}
