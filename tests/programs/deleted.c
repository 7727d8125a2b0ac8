/* Deleted files: open twice, mapped privately, of O_TMPFILE, executable, hard-linked elsewhere, a name taken again; with
 * extended attributes where the filesystem has them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "protocol.h"

static int made(const char *name, const char *text)
{
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0640);
    expect(name, fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    return fd;
}

static int holds(int fd, const char *text)
{
    char found[64] = "";
    return pread(fd, found, sizeof found, 0) == (ssize_t)strlen(text) && !strcmp(found, text);
}

int main(int argc, char **argv)
{
    struct stat st;
    int one = made("one", "the first"), reader = open("one", O_RDONLY), path = open("one", O_PATH);
    char *map = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, one, 0);
    map[0] = 'T';
    unlink("one");
    int tmp = open(".", O_TMPFILE | O_RDWR, 0600);
    expect("O_TMPFILE", write(tmp, "temporary", 9) == 9);
    int has_attributes = !fsetxattr(one, "user.kind", "x\0y", 3, 0) && !fsetxattr(tmp, "user.a", "", 0, 0);
    int linked = made("linked", "linked");
    link("linked", "elsewhere");
    unlink("linked");
    int taken = made("taken", "old");
    unlink("taken");
    close(made("taken", "new"));
    int named = made("called (deleted)", "named");
    mkdir("gone", 0700);
    int orphan = made("gone/file", "orphan");
    unlink("gone/file");
    rmdir("gone");

    wait_for_go(argv);
    expect("contents", holds(one, "the first") && holds(reader, "the first") && holds(tmp, "temporary"));
    char value[8];
    expect("attributes", !has_attributes || (fgetxattr(one, "user.kind", value, 8) == 3 && !memcmp(value, "x\0y", 3) &&
                                             !fgetxattr(tmp, "user.a", value, 8)));
    expect("position", lseek(one, 0, SEEK_CUR) == 9 && lseek(reader, 0, SEEK_CUR) == 0);
    expect("link count", fstat(one, &st) == 0 && st.st_nlink == 0 && (st.st_mode & 0777) == 0640);
    expect("one inode", pwrite(one, "THE", 3, 0) == 3 && holds(reader, "THE first"));
    expect("private mapping", !memcmp(map, "The", 3) || !memcmp(map, "THE", 3));
    expect("O_PATH", fstat(path, &st) == 0 && read(path, map, 1) < 0 && st.st_nlink == 0);
    expect("no name", access("one", F_OK) < 0);
    expect("hard link", holds(linked, "linked") && fstat(linked, &st) == 0 && st.st_nlink == 1);
    expect("same file", pwrite(linked, "L", 1, 0) == 1 && holds(open("elsewhere", O_RDONLY), "Linked"));
    expect("taken name", holds(taken, "old") && holds(open("taken", O_RDONLY), "new"));
    expect("odd name", holds(named, "named") && fstat(named, &st) == 0 && st.st_nlink == 1);
    expect("directory gone", holds(orphan, "orphan"));
    char link_of[32];
    sprintf(link_of, "/proc/self/fd/%d", tmp);
    expect("O_TMPFILE is given a name", linkat(AT_FDCWD, link_of, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
    return finish();
}
