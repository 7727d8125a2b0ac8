/* The file CASE[0], mapped for reading only. */
#include "protocol.h"
#include <fcntl.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    int fd = open(argv[2], O_RDONLY);
    unsigned char *area = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    expect("mapped", area != MAP_FAILED && !close(fd));
    wait_for_go(argv);
    expect("byte", area[77] == 77);
    return finish();
}
