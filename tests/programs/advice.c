/* Mappings with every advice and lock that smaps shows, and some of unusual kinds (CASE[0]); smaps tells the same after
 * go: places, protections, VmFlags. */
#define _GNU_SOURCE
#include "protocol.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { PAGE = 4096, GUARD_INSTALL = 102, DROPPABLE = 8 };

static char *map(size_t bytes, int protection, int flags)
{
    char *found = mmap(NULL, bytes, protection, flags | MAP_ANONYMOUS, -1, 0);
    expect("mapped", found != MAP_FAILED);
    return found;
}

static char *map_written(size_t bytes, int flags)
{
    char *found = map(bytes, PROT_READ | PROT_WRITE, flags);
    for (size_t at = 0; at < bytes; at += 3 * PAGE)
        found[at] = at / PAGE + 1;
    return found;
}

static void check_written(const char *area, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PAGE)
        expect("byte", area[at] == (char)(at % (3 * PAGE) ? 0 : at / PAGE + 1));
}

static sigjmp_buf fault;

static void on_fault(int number) { siglongjmp(fault, 1); }

static int faults(volatile char *at)
{
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER}, old;
    int happened = sigsetjmp(fault, 1);
    if (!happened) {
        sigaction(SIGSEGV, &action, &old);
        (void)*at;
    }
    signal(SIGSEGV, SIG_DFL);
    return happened;
}

/* Places, protections and VmFlags of smaps. */
static char *describe(void)
{
    static char texts[3][1 << 20];
    static int count;
    char line[512], range[64], kind[8], *text = texts[count++], *at = text;
    FILE *file = fopen("/proc/self/smaps", "r");
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, "VmFlags", 7))
            at += sprintf(at, "%s", line);
        else if (sscanf(line, "%63[0-9a-f-] %7[rwxps-] ", range, kind) == 2)
            at += sprintf(at, "%s %s\n", range, kind);
    fclose(file);
    return text;
}

static void be_the_same(char **argv)
{
    char *before = describe();
    wait_for_go(argv);
    char *after = describe(), *line = before;
    for (; *before && *before == *after; before++, after++)
        if (*before == '\n')
            line = before + 1;
    if (*before != *after) {
        fprintf(stderr, "%.300s\nis now\n%.200s\n", line, after);
        exit(1);
    }
}

static void advise(char **argv)
{
    static const int advice[] = {MADV_RANDOM, MADV_SEQUENTIAL, MADV_DONTFORK, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
                                 MADV_DONTDUMP, MADV_WIPEONFORK, MADV_MERGEABLE};
    enum { COUNT = sizeof advice / sizeof *advice, BYTES = 16 * PAGE };
    char *areas[COUNT];
    for (int i = 0; i < COUNT; i++) {
        map(PAGE, PROT_NONE, MAP_PRIVATE); /* between neighbours */
        areas[i] = map_written(BYTES, MAP_PRIVATE);
        madvise(areas[i], BYTES, advice[i]); /* not every kernel has every one */
    }
    be_the_same(argv);
    for (int i = 0; i < COUNT; i++)
        check_written(areas[i], BYTES);
}

static void lock(char **argv)
{
    char *whole = map_written(9 * PAGE, MAP_PRIVATE);
    map(PAGE, PROT_NONE, MAP_PRIVATE);
    char *touched = map(9 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    map(PAGE, PROT_NONE, MAP_PRIVATE);
    char *shared = map_written(9 * PAGE, MAP_SHARED);
    expect("locked", !mlock(whole, 9 * PAGE) && !mlock2(touched, 9 * PAGE, MLOCK_ONFAULT) && !mlock(shared, PAGE));
    be_the_same(argv);
    check_written(whole, 9 * PAGE);
    check_written(shared, 9 * PAGE);
    unsigned char present[9];
    mincore(touched, 9 * PAGE, present);
    expect("nothing was touched", !(present[0] & 1));
}

static void lock_future(char **argv)
{
    expect("all to come", !mlockall(MCL_FUTURE | MCL_ONFAULT));
    be_the_same(argv);
    char *area = map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE), *text = describe(), line[64];
    sprintf(line, "%lx-", (unsigned long)area);
    expect("found", (text = strstr(text, line)) && (text = strstr(text, "VmFlags")));
    expect("locked", strstr(text, " lo") && strstr(text, " lo") < strchr(text, '\n'));
}

static void guard(char **argv)
{
    char *area = map_written(30 * PAGE, MAP_PRIVATE);
    if (madvise(area + 10 * PAGE, 5 * PAGE, GUARD_INSTALL)) {
        be_the_same(argv);
        return; /* Linux 6.13 */
    }
    be_the_same(argv);
    for (int page = 0; page < 30; page++)
        if (page >= 10 && page < 15)
            expect("guard", faults(area + page * PAGE));
        else
            expect("byte", area[page * PAGE] == (page % 3 ? 0 : page + 1));
}

static int recurse(int depth)
{
    volatile char frame[16384];
    frame[0] = depth;
    return depth ? recurse(depth - 1) + frame[0] : 0;
}

static void grow(char **argv)
{
    char *area = map(64 * PAGE, PROT_NONE, MAP_PRIVATE);
    char *down = mmap(area + 60 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
    expect("mapped", down == area + 60 * PAGE);
    down[0] = 5;
    recurse(10);
    be_the_same(argv);
    expect("byte", down[0] == 5);
    expect("the stack still grows", recurse(200) >= 0); /* 3 MiB */
}

static void spread(char **argv)
{
    size_t bytes = 100ul << 30;
    char *area = map(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
    madvise(area, bytes, MADV_NOHUGEPAGE);
    area[0] = 1;
    area[bytes / 2] = 2;
    area[bytes - 1] = 3;
    be_the_same(argv);
    expect("bytes", area[0] == 1 && area[bytes / 2] == 2 && area[bytes - 1] == 3 && area[bytes / 3] == 0);
}

static void seal(char **argv)
{
    char *drop = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, DROPPABLE | MAP_ANONYMOUS, -1, 0);
    char *area = map_written(6 * PAGE, MAP_PRIVATE);
    map(PAGE, PROT_NONE, MAP_PRIVATE);
    long sealed = syscall(462, area, 6 * PAGE, 0);
    be_the_same(argv);
    check_written(area, 6 * PAGE);
    if (!sealed)
        expect("sealed", munmap(area, PAGE) == -1 && errno == EPERM);
    if (drop != MAP_FAILED)
        drop[0] = 1;
}

static void split(char **argv)
{
    enum { COUNT = 10000 };
    char *area = map_written(COUNT * PAGE, MAP_PRIVATE);
    for (int i = 0; i < COUNT; i += 2)
        mprotect(area + i * PAGE, PAGE, PROT_READ);
    wait_for_go(argv);
    check_written(area, COUNT * PAGE);
    for (int i = 1; i < COUNT; i += 2)
        area[i * PAGE] = 1;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(char **);
    } cases[] = {{"advise", advise}, {"lock", lock}, {"lock-future", lock_future}, {"guard", guard},
                 {"grow", grow}, {"spread", spread}, {"seal", seal}, {"split", split}};
    static char buffer[BUFSIZ];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[2], cases[i].name))
            cases[i].run(argv);
    return finish();
}
