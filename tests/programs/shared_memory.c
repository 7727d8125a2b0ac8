/* Rows 206, 207, 213, 215: shared memory of several kinds between parent and child, with holes; argv[2] names the kind. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "protocol.h"

static size_t size = 16 << 20;

static char name[64];

static int descriptor(const char *kind)
{
    int fd = -1;
    sprintf(name, "/sls-test-%d", getpid());
    if (!strncmp(kind, "posix", 5)) {
        fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
        if (!strstr(kind, "named"))
            shm_unlink(name);
    } else if (!strncmp(kind, "file", 4)) {
        fd = open("file", O_RDWR | O_CREAT, 0600);
        if (strstr(kind, "deleted"))
            unlink("file");
    } else if (!strcmp(kind, "zero")) {
        fd = open("/dev/zero", O_RDWR);
    }
    if (fd >= 0 && strcmp(kind, "zero"))
        expect("size", ftruncate(fd, size) == 0);
    return fd;
}

int main(int argc, char **argv)
{
    const char *kind = argv[2];
    if (strstr(kind, "small"))
        size = 100; /* no whole page, as the 32 bytes of sem_open(3) */
    int fd = descriptor(kind), status;
    volatile char *map = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    expect("map", map != MAP_FAILED);
    if (fd >= 0 && !strstr(kind, "open"))
        close(fd);
    map[0] = 'a';
    map[size / 2] = 'b';
    map[size - 1] = 'c';
    volatile char *second = mmap(0, 4096, PROT_READ, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), strstr(kind, "open") ? fd : -1, size / 2);
    pid_t child = fork();
    if (!child) {
        wait_along(argv);
        expect("seen by the child", map[0] == 'a' && map[size / 2] == 'b' && map[size - 1] == 'c' && !map[1]);
        map[5] = 'd';
        while (map[6] != 'e')
            usleep(1000);
        return 0;
    }
    wait_for_go(argv);
    while (map[5] != 'd')
        expect("the child lives", (usleep(1000), waitpid(child, &status, WNOHANG)) == 0);
    map[6] = 'e';
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    if (strstr(kind, "open")) {
        char byte = 0;
        struct stat st;
        expect("descriptor and mapping are one", pread(fd, &byte, 1, 5) == 1 && byte == 'd' && second[0] == 'b');
        expect("name", fstat(fd, &st) == 0 && st.st_nlink == !!strstr(kind, "named") && (size_t)st.st_size == size);
    }
    if (strstr(kind, "named")) {
        int again = shm_open(name, O_RDONLY, 0);
        char byte = 0;
        expect("by name", again >= 0 && pread(again, &byte, 1, 6) == 1 && byte == 'e' && shm_unlink(name) == 0);
    }
    return finish();
}
