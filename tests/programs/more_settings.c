/* Settings of prctl(2), modify_ldt(2) and /proc that hardly any program changes: the same after go. Those that this
 * kernel does not have are left out. A second thread has its own where they are a thread's. */
#define _GNU_SOURCE
#include "protocol.h"
#include <asm/ldt.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { THP_EXCEPT_ADVISED = 2, FIRST_ENTRY = 3 };

struct text {
    int length;
    char bytes[4096];
};

static void add(struct text *text, const char *name, long value)
{
    text->length += sprintf(text->bytes + text->length, "%s %ld\n", name, value);
}

static void add_file(struct text *text, const char *path)
{
    char line[256] = "", *nice;
    int file = open(path, O_RDONLY);
    if (file < 0)
        return;
    expect(path, read(file, line, sizeof line - 1) >= 0);
    close(file);
    nice = strstr(line, "nice"); /* behind the number of a group */
    text->length += sprintf(text->bytes + text->length, "%s %s", path, nice ? nice : line);
}

static void describe(struct text *text)
{
    struct user_desc entries[8];
    memset(entries, 0, sizeof entries);
    text->length = 0;
    add(text, "thp", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    add(text, "mce", prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
    add(text, "ldt", syscall(SYS_modify_ldt, 0, entries, sizeof entries));
    for (size_t i = 0; i < sizeof entries / (sizeof(int)); i++)
        add(text, "ldt", ((int *)entries)[i]);
    add_file(text, "/proc/self/coredump_filter");
    add_file(text, "/proc/self/autogroup");
}

static void write_file(const char *path, const char *words)
{
    int file = open(path, O_WRONLY);
    expect(path, file < 0 || write(file, words, strlen(words)) > 0);
    close(file);
}

static pthread_barrier_t set, gone;

static void be_the_same(const struct text *before)
{
    struct text after;
    describe(&after);
    if (strcmp(before->bytes, after.bytes)) {
        fprintf(stderr, "%s is now\n%s", before->bytes, after.bytes);
        exit(1);
    }
}

static void *other(void *unused)
{
    static struct text before;
    prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
    describe(&before);
    pthread_barrier_wait(&set);
    pthread_barrier_wait(&gone);
    be_the_same(&before);
    return NULL;
}

int main(int argc, char **argv)
{
    static struct text before;
    pthread_t thread;
    struct user_desc entry = {.entry_number = FIRST_ENTRY, .base_addr = 0x12345000, .limit = 0xfffff, .seg_32bit = 1,
                              .contents = MODIFY_LDT_CONTENTS_CODE, .limit_in_pages = 1, .useable = 1};
    expect("ldt", !syscall(SYS_modify_ldt, 1, &entry, sizeof entry) || errno == ENOSYS);
    entry = (struct user_desc){.entry_number = FIRST_ENTRY + 2, .base_addr = 0xfedcb123, .limit = 0x1234,
                               .read_exec_only = 1};
    syscall(SYS_modify_ldt, 1, &entry, sizeof entry);
    prctl(PR_SET_THP_DISABLE, 1, THP_EXCEPT_ADVISED, 0, 0); /* Linux 6.18 */
    write_file("/proc/self/coredump_filter", "0x17");
    write_file("/proc/self/autogroup", "7");
    pthread_barrier_init(&set, NULL, 2);
    pthread_barrier_init(&gone, NULL, 2);
    pthread_create(&thread, NULL, other, NULL);
    pthread_barrier_wait(&set);
    prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0);
    describe(&before);
    wait_for_go(argv);
    be_the_same(&before);
    pthread_barrier_wait(&gone);
    pthread_join(thread, NULL);
    return finish();
}
