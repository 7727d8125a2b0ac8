/* A program whose own file is deleted: it runs a copy of itself first. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <sys/sendfile.h>
#include "protocol.h"

int main(int argc, char **argv)
{
    if (argc == 2) {
        int in = open("/proc/self/exe", O_RDONLY), out = open("copy", O_WRONLY | O_CREAT, 0700);
        expect("copy", sendfile(out, in, 0, 1 << 20) > 0);
        close(in);
        close(out);
        execl("copy", "copy", argv[1], "again", NULL);
        return 1;
    }
    char before[PATH_MAX] = "", after[PATH_MAX] = "";
    unlink("copy");
    readlink("/proc/self/exe", before, sizeof before);
    wait_for_go(argv);
    expect("link", readlink("/proc/self/exe", after, sizeof after) > 0 && !strcmp(before, after));
    return finish();
}
