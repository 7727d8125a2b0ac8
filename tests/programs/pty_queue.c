/* Bytes that wait in a pty whose both ends are inside. CASE: `lines`, `raw`, `full` (more than the line discipline
 * holds), `echo` (output that comes from input), `packet` (whose bytes are lost). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include "protocol.h"

static const char echoed[] = "first\r\nsec^\b^Cond\r\nendrestout\r\n";
static int master, slave;

static void type(const char *text, int length) { expect(text, write(master, text, length) == length); }

static void take(int fd, const char *wanted, int length)
{
    char found[8192];
    long count = read(fd, found, sizeof found);
    expect(wanted, count == length && !memcmp(found, wanted, length));
}

static void take_all(int fd, const char *wanted, int length)
{
    char found[16384];
    int done = 0;
    while (done < length) {
        long count = read(fd, found + done, sizeof found - done);
        expect("more", count > 0);
        done += count;
    }
    expect("all of it", done == length && !memcmp(found, wanted, length));
}

static void wait_for(int fd, int wanted)
{
    int count = 0;
    while (count < wanted)
        expect("FIONREAD", !ioctl(fd, FIONREAD, &count));
}

int main(int argc, char **argv)
{
    struct termios settings, after;
    static char much[6000];
    int one = 1, is_raw = !strcmp(argv[2], "raw") || !strcmp(argv[2], "full");
    for (int i = 0; i < (int)sizeof much; i++)
        much[i] = i % 251;
    expect("pair", (master = posix_openpt(O_RDWR | O_NOCTTY)) >= 0 && !unlockpt(master));
    expect("slave", (slave = open(ptsname(master), O_RDWR | O_NOCTTY)) >= 0 && !tcgetattr(slave, &settings));
    if (is_raw)
        cfmakeraw(&settings);
    else if (strcmp(argv[2], "echo"))
        settings.c_lflag &= ~ECHO;
    expect("settings", !tcsetattr(slave, TCSANOW, &settings));
    if (!strcmp(argv[2], "packet"))
        expect("packet", !ioctl(master, TIOCPKT, &one));
    if (!strcmp(argv[2], "full")) {
        type(much, sizeof much);
        wait_for(slave, 4095);
    } else if (is_raw) {
        type("a\0\3\4\r\n\177z", 8);
        wait_for(slave, 8);
    } else {
        type("first\nsec\026\003ond\n\004end\004rest", 24);
        wait_for(slave, strlen("first\nsec.ond\nend"));
    }
    expect("output", write(slave, "out\n", 4) == 4);
    wait_for(master, is_raw ? 4 : !strcmp(argv[2], "echo") ? (int)sizeof echoed - 1 : 5);
    wait_for_go(argv);
    expect("settings", !tcgetattr(slave, &after) && !memcmp(&after, &settings, sizeof after));
    if (!strcmp(argv[2], "echo"))
        take_all(master, echoed, sizeof echoed - 1);
    if (!strcmp(argv[2], "full")) {
        take_all(slave, much, sizeof much);
    } else if (is_raw) {
        take(slave, "a\0\3\4\r\n\177z", 8);
    } else if (strcmp(argv[2], "packet")) {
        take(slave, "first\n", 6);
        take(slave, "sec\003ond\n", 8);
        take(slave, "", 0);
        take(slave, "end", 3);
        type("\177\n", 2); /* the line that was begun can still be edited */
        take(slave, "res\n", 4);
    }
    if (is_raw)
        take(master, "out\n", 4);
    else if (!strcmp(argv[2], "lines"))
        take(master, "out\r\n", 5);
    return finish();
}
