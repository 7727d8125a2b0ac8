/* open(2) flags that fcntl shows, O_PATH of several kinds, a directory half read. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include "protocol.h"

#define COUNT 8

int main(int argc, char **argv)
{
    static char block[4096] __attribute__((aligned(4096)));
    int flags[COUNT] = {
        O_RDWR | O_DIRECT, O_WRONLY | O_APPEND, O_RDWR | O_NONBLOCK, O_RDONLY | O_NOATIME,
        O_RDWR | O_SYNC, O_RDWR | O_DSYNC, O_PATH, O_PATH | O_CLOEXEC,
    };
    int fds[COUNT], before[COUNT], link_path, entries = 0;
    close(open("file", O_CREAT | O_WRONLY, 0600));
    for (int i = 0; i < COUNT; i++) {
        fds[i] = open("file", flags[i]);
        before[i] = fcntl(fds[i], F_GETFL);
        expect("open", fds[i] >= 0);
    }
    int is_aligned = pwrite(fds[0], block, 100, 0) < 0; /* tmpfs takes any length */
    symlink("file", "symlink");
    mkfifo("fifo", 0600);
    link_path = open("symlink", O_PATH | O_NOFOLLOW);
    int fifo_path = open("fifo", O_PATH), folder_path = open(".", O_PATH | O_DIRECTORY);
    DIR *folder = opendir("/usr/share");
    struct dirent *third;
    for (int i = 0; i < 3; i++)
        readdir(folder);
    long place = telldir(folder);
    char name[256];
    third = readdir(folder);
    strcpy(name, third->d_name);
    seekdir(folder, place);

    wait_for_go(argv);
    for (int i = 0; i < COUNT; i++)
        expect("flags", fcntl(fds[i], F_GETFL) == before[i]);
    expect("O_CLOEXEC", fcntl(fds[7], F_GETFD) == FD_CLOEXEC && fcntl(fds[6], F_GETFD) == 0);
    expect("O_DIRECT", write(fds[0], block, 4096) == 4096 && (pwrite(fds[0], block, 100, 0) < 0) == is_aligned);
    expect("O_APPEND", write(fds[1], "x", 1) == 1 && lseek(fds[1], 0, SEEK_CUR) == 4097);
    struct stat st;
    expect("O_PATH of a link", fstat(link_path, &st) == 0 && S_ISLNK(st.st_mode));
    expect("O_PATH of a FIFO", fstat(fifo_path, &st) == 0 && S_ISFIFO(st.st_mode));
    expect("O_PATH of a directory", openat(folder_path, "file", O_RDONLY) >= 0);
    third = readdir(folder);
    expect("place in a directory", third && !strcmp(third->d_name, name));
    while (readdir(folder))
        entries++;
    expect("rest of it", entries > 3);
    return finish();
}
