/* Sleeps in read(2) of the FIFO `fifo` until a byte comes; a signal's end or a restore must not wake it (212). */
#include "protocol.h"
#include <fcntl.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
    char word[8];
    expect("made", mkfifo("fifo", 0600) == 0);
    int fd = open("fifo", O_RDWR);
    expect("open", fd >= 0);
    puts("ready");
    fflush(stdout);
    expect("read", read(fd, word, sizeof word) == 5);
    expect("word", !memcmp(word, "hello", 5));
    return finish();
}
