/* A file mapped MAP_SHARED by a parent and a child, and the same privately: after go each sees the other's stores, the
 * file has them, and the private copies stay private (206). */
#include "protocol.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { PAGE = 4096, PAGES = 5 };

int main(int argc, char **argv)
{
    int status, fd = open("mapped", O_RDWR | O_CREAT, 0600);
    char byte;
    expect("sized", ftruncate(fd, PAGES * PAGE) == 0);
    volatile char *shared = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    volatile char *private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 2 * PAGE);
    volatile char *tail = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 4 * PAGE);
    shared[0] = 'a';
    private[7] = 'p';
    pid_t child = fork();
    if (!child) {
        wait_along(argv);
        expect("seen by the child", shared[0] == 'a');
        shared[PAGE] = 'c';
        return 0;
    }
    wait_for_go(argv);
    waitpid(child, &status, 0);
    expect("child", status == 0);
    expect("the child's", shared[PAGE] == 'c');
    expect("private", private[7] == 'p' && shared[2 * PAGE + 7] == 0);
    shared[4 * PAGE + 1] = 't';
    expect("the second view", tail[1] == 't');
    expect("in the file", pread(fd, &byte, 1, PAGE) == 1 && byte == 'c');
    expect("in the file", pread(fd, &byte, 1, 4 * PAGE + 1) == 1 && byte == 't');
    return finish();
}
