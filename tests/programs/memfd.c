/* A memfd with a hole, seals and a name; one descriptor is duplicated, one reopened, and both sides of a fork map it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "protocol.h"

#define SIZE (1 << 20)

static int seals_of(const char *mode)
{
    return !strcmp(mode, "sealed") ? F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE
         : !strcmp(mode, "future") ? F_SEAL_FUTURE_WRITE | F_SEAL_GROW : 0;
}

int main(int argc, char **argv)
{
    char text[64], path[64];
    int seals = seals_of(argv[2]), is_writable = strcmp(argv[2], "sealed");
    int fd = memfd_create("a name", MFD_ALLOW_SEALING), copy = dup(fd);
    ftruncate(fd, SIZE + 100);
    pwrite(fd, "first", 5, 0);
    pwrite(fd, "last", 4, SIZE + 96);
    sprintf(path, "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY);
    lseek(fd, 96, SEEK_SET);
    char *map = mmap(0, SIZE, is_writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, is_writable ? fd : reader, 0);
    char *private = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    expect("mappings", map != MAP_FAILED && private != MAP_FAILED);
    private[10] = 'p';
    expect("seal", fcntl(fd, F_ADD_SEALS, seals) == 0);
    pid_t child = fork();
    if (!child) {
        wait_along(argv);
        if (is_writable)
            strcpy(map + 4096, "from the child");
        return 0;
    }
    wait_for_go(argv);
    int status;
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    expect("seals", fcntl(fd, F_GET_SEALS) == (seals & ~0) || seals == 0);
    expect("position", lseek(copy, 0, SEEK_CUR) == 96 && lseek(reader, 0, SEEK_CUR) == 0);
    expect("end", pread(fd, text, 8, SIZE + 92) == 8 && !memcmp(text, "\0\0\0\0last", 8));
    expect("start", !memcmp(map, "first", 6) && !memcmp(private, "first", 6) && private[10] == 'p' && !map[10]);
    if (is_writable) {
        expect("one object", pread(reader, text, 15, 4096) == 15 && !strcmp(text, "from the child"));
        expect("private mapping of it", !strcmp(private + 4096, "from the child"));
    }
    if (seals)
        expect("sealed", write(fd, "x", 1) < 0);
    path[readlink(path, text, sizeof text)] = 0;
    expect("name", !strncmp(text, "/memfd:a name (deleted)", 23));
    return finish();
}
