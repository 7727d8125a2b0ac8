/* Locks of every kind, seen from a second process; a lease that is broken; O_ASYNC with a signal of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include "protocol.h"

static struct flock range(short type, long start, long length)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
}

static int is_free(int fd, int command, short type, long start, long length)
{
    struct flock lock = range(type, start, length);
    expect("F_GETLK", fcntl(fd, command, &lock) == 0);
    return lock.l_type == F_UNLCK;
}

static void locks(char **argv)
{
    int status;
    int posix = open("posix", O_RDWR | O_CREAT, 0600), whole = open("flock", O_RDWR | O_CREAT, 0600);
    int ofd = open("ofd", O_RDWR | O_CREAT, 0600), copy = dup(ofd);
    struct flock write_lock = range(F_WRLCK, 10, 5), read_lock = range(F_RDLCK, 100, 0), child_lock = range(F_WRLCK, 50, 1);
    expect("set", !fcntl(posix, F_SETLK, &write_lock) && !fcntl(posix, F_SETLK, &read_lock));
    expect("set", !flock(whole, LOCK_EX) && !fcntl(ofd, F_OFD_SETLK, &write_lock));
    close(ofd);
    int pipe_ends[2], back[2];
    expect("pipes", !pipe(pipe_ends) && !pipe(back));
    pid_t child = fork();
    if (!child) {
        expect("lock of the child", !fcntl(posix, F_SETLK, &child_lock));
        write(pipe_ends[1], "", 1);
        wait_along(argv);
        expect("seen by the child", !is_free(posix, F_GETLK, F_RDLCK, 12, 1) && is_free(posix, F_GETLK, F_WRLCK, 15, 35));
        expect("to the end", !is_free(posix, F_GETLK, F_WRLCK, 1 << 30, 1) && is_free(posix, F_GETLK, F_RDLCK, 1 << 30, 1));
        expect("flock of its own", flock(open("flock", O_RDWR), LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK);
        expect("inherited flock", flock(whole, LOCK_EX | LOCK_NB) == 0);
        expect("OFD", !is_free(open("ofd", O_RDWR), F_OFD_GETLK, F_RDLCK, 14, 1));
        read(back[0], &status, 1);
        return exit(0);
    }
    read(pipe_ends[0], &status, 1);
    wait_for_go(argv);
    expect("lock of the child", !is_free(posix, F_GETLK, F_RDLCK, 50, 1));
    write(back[1], "", 1);
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    expect("gone with the child", is_free(posix, F_GETLK, F_WRLCK, 50, 1));
    close(copy);
    expect("gone with the last descriptor", is_free(open("ofd", O_RDWR), F_OFD_GETLK, F_WRLCK, 10, 5));
}

static volatile int told = -1, told_by = -1;

static void tell(int number, siginfo_t *info, void *context)
{
    told = number;
    told_by = info->si_fd;
}

static void owners(char **argv)
{
    struct sigaction action = {.sa_sigaction = tell, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN + 1, &action, NULL);
    sigaction(SIGRTMIN + 2, &action, NULL);
    int file = open("lease", O_RDWR | O_CREAT, 0600), ends[2];
    pipe(ends);
    expect("lease", !fcntl(file, F_SETSIG, SIGRTMIN + 1) && !fcntl(file, F_SETLEASE, F_WRLCK));
    expect("signal", !fcntl(ends[0], F_SETOWN, getpid()) && !fcntl(ends[0], F_SETSIG, SIGRTMIN + 2));
    expect("O_ASYNC", !fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK));
    wait_for_go(argv);
    expect("flags", fcntl(ends[0], F_GETFL) == (O_ASYNC | O_NONBLOCK) && fcntl(ends[0], F_GETOWN) == getpid());
    write(ends[1], "x", 1);
    expect("signal of the pipe", told == SIGRTMIN + 2 && told_by == ends[0]);
    expect("lease", fcntl(file, F_GETLEASE) == F_WRLCK);
    expect("another opens", open("lease", O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK);
    expect("signal of the lease", told == SIGRTMIN + 1 && told_by == file);
}

int main(int argc, char **argv)
{
    if (!strcmp(argv[2], "locks"))
        locks(argv);
    else
        owners(argv);
    return finish();
}
