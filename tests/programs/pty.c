/* A pty pair, both ends inside: the parent holds the master, a child leads a session on the slave, argv[2] says more.
 *
 * `plain`: settings, size, controlling terminal, foreground group, /dev/tty. `packet`: packet mode. `closed`: no slave.
 * `kept`: a slave that nobody else may open, with settings that nobody may change.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include "protocol.h"

static volatile int resized;

static void on_resize(int number)
{
    resized = 1;
}

static void session(int slave, char **argv)
{
    char line[64] = "";
    struct winsize size;
    struct termios settings;
    int current = open("/dev/tty", O_RDWR);
    signal(SIGWINCH, on_resize);
    signal(SIGTTOU, SIG_IGN);
    pid_t background = fork();
    if (!background) {
        setpgid(0, 0);
        wait_along(argv);
        expect("ctty of the background", open("/dev/tty", O_RDWR) >= 0);
        _exit(0);
    }
    setpgid(background, background);
    write(slave, "settled\n", 8);
    wait_along(argv);
    int status;
    expect("background", waitpid(background, &status, 0) == background && status == 0);
    expect("/dev/tty", ioctl(current, TIOCGWINSZ, &size) == 0 && size.ws_row == 33 && size.ws_col == 77);
    expect("settings", tcgetattr(slave, &settings) == 0 && !(settings.c_lflag & ECHO) && settings.c_cc[VINTR] == 'X' - 64);
    expect("session", tcgetsid(slave) == getpid());
    expect("foreground", tcgetpgrp(current) == getpgrp());
    expect("line", read(slave, line, sizeof line) == 6 && !strcmp(line, "input\n"));
    expect("interrupted", write(slave, "next\n", 5) == 5 && read(slave, line, sizeof line) < 0 && errno == EINTR);
    _exit(resized ? 0 : 3);
}

static void on_interrupt(int number)
{
}

/* The line discipline hands "next" and "\r\n" on separately: one read may see the first alone. */
static void read_line(int master, const char *wanted)
{
    char line[64] = "";
    size_t filled = 0;
    long count = 1;
    while (count > 0 && filled < strlen(wanted)) {
        count = read(master, line + filled, sizeof line - 1 - filled);
        filled += count > 0 ? count : 0;
    }
    expect(wanted, !strcmp(line, wanted));
}

static int plain(int master, int slave, char **argv)
{
    struct winsize size = {33, 77, 0, 0};
    struct termios settings;
    char before[64], after[64];
    tcgetattr(slave, &settings);
    settings.c_lflag &= ~ECHO;
    settings.c_cc[VINTR] = 'X' - 64;
    tcsetattr(slave, TCSANOW, &settings);
    ioctl(master, TIOCSWINSZ, &size);
    pid_t child = fork();
    if (!child) {
        struct sigaction action = {.sa_handler = on_interrupt};
        sigaction(SIGINT, &action, NULL);
        close(master);
        setsid();
        expect("TIOCSCTTY", ioctl(slave, TIOCSCTTY, 0) == 0);
        session(slave, argv);
    }
    strcpy(before, ttyname(slave));
    close(slave);
    read_line(master, "settled\r\n");
    wait_for_go(argv);
    strcpy(after, ptsname(master));
    expect("name", !strcmp(before, after));
    write(master, "input\n", 6);
    read_line(master, "next\r\n");
    size.ws_row = 34;
    ioctl(master, TIOCSWINSZ, &size);
    int status;
    while (!waitpid(child, &status, WNOHANG)) { /* it may be on its way to read(2) yet, which nothing interrupts then */
        write(master, "\x18", 1);
        usleep(5000);
    }
    expect("child", status == 0);
    return finish();
}

static int packet(int master, int slave, char **argv)
{
    char text[64];
    int on = 1;
    ioctl(master, TIOCPKT, &on);
    write(slave, "x", 1);
    expect("packet", read(master, text, sizeof text) == 2 && text[0] == TIOCPKT_DATA);
    wait_for_go(argv);
    expect("mode", ioctl(master, TIOCGPKT, &on) == 0 && on == 1);
    write(slave, "y", 1);
    expect("packet", read(master, text, sizeof text) == 2 && text[0] == TIOCPKT_DATA && text[1] == 'y');
    return finish();
}

static int closed(int master, int slave, char **argv)
{
    char text[8];
    close(slave);
    wait_for_go(argv);
    expect("hung up", read(master, text, sizeof text) < 0 && errno == EIO);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    expect("opened again", write(slave, "z", 1) == 1 && read(master, text, sizeof text) == 1);
    return finish();
}

static int keep(int master, int slave, char **argv)
{
    struct termios locked = {.c_lflag = ECHO}, found, settings;
    int exclusive = 0;
    expect("TIOCSLCKTRMIOS", !ioctl(slave, TIOCSLCKTRMIOS, &locked));
    expect("TIOCEXCL", !ioctl(slave, TIOCEXCL));
    wait_for_go(argv);
    expect("exclusive", !ioctl(slave, TIOCGEXCL, &exclusive) && exclusive == 1);
    expect("not the master", !ioctl(master, TIOCGEXCL, &exclusive) && exclusive == 0);
    expect("locked", !ioctl(slave, TIOCGLCKTRMIOS, &found) && found.c_lflag == ECHO);
    tcgetattr(slave, &settings);
    settings.c_lflag &= ~(ECHO | ECHOK);
    tcsetattr(slave, TCSANOW, &settings);
    tcgetattr(slave, &settings);
    expect("echo stays", settings.c_lflag & ECHO && !(settings.c_lflag & ECHOK));
    return finish();
}

int main(int argc, char **argv)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    grantpt(master);
    unlockpt(master);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    expect("pty", master >= 0 && slave >= 0);
    if (!strcmp(argv[2], "packet"))
        return packet(master, slave, argv);
    if (!strcmp(argv[2], "closed"))
        return closed(master, slave, argv);
    if (!strcmp(argv[2], "kept"))
        return keep(master, slave, argv);
    return plain(master, slave, argv);
}
