/* Watches with gaps in their numbers: a directory, a file of two names, one removed. */
#include <errno.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include "protocol.h"

static struct inotify_event *next(int fd)
{
    static char buffer[4096];
    return read(fd, buffer, sizeof buffer) > 0 ? (struct inotify_event *)buffer : NULL;
}

int main(int argc, char **argv)
{
    int fd = inotify_init1(IN_NONBLOCK);
    mkdir("folder", 0700);
    close(open("file", O_CREAT | O_WRONLY, 0600));
    link("file", "other name");
    int gone = inotify_add_watch(fd, "/", IN_MODIFY);
    int folder = inotify_add_watch(fd, "folder", IN_CREATE | IN_ONLYDIR);
    inotify_rm_watch(fd, inotify_add_watch(fd, "/etc", IN_MODIFY));
    int file = inotify_add_watch(fd, "file", IN_ATTRIB | IN_ONESHOT);
    inotify_rm_watch(fd, gone);
    while (next(fd))
        ;
    expect("numbers", folder == 2 && file == 4);
    if (!strcmp(argv[2], "queued"))
        close(open("folder/early", O_CREAT | O_WRONLY, 0600));
    wait_for_go(argv);
    if (!strcmp(argv[2], "queued"))
        return finish();
    expect("nothing yet", next(fd) == NULL && errno == EAGAIN);
    close(open("folder/entry", O_CREAT | O_WRONLY, 0600));
    struct inotify_event *event = next(fd);
    expect("folder", event && event->wd == folder && event->mask == IN_CREATE && !strcmp(event->name, "entry"));
    chmod("other name", 0400);
    event = next(fd);
    expect("file", event && event->wd == file && event->mask == IN_ATTRIB);
    expect("one-shot", inotify_rm_watch(fd, file) < 0);
    expect("next number", inotify_add_watch(fd, "/", IN_MODIFY) == 5);
    return finish();
}
