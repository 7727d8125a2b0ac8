/* NUMA policies of two threads and of mappings, with flags. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "protocol.h"

enum { BIND = 2, INTERLEAVE = 3, LOCAL = 4, STATIC = 1 << 15, MAPPING = 2, NODES = 1025, PAGES = 16 };

static unsigned long first[16] = {1};

static void expect_policy(const char *name, int wanted, void *address)
{
    unsigned long nodes[16];
    int mode = -1;
    expect(name, !syscall(SYS_get_mempolicy, &mode, nodes, NODES, address, address ? MAPPING : 0));
    expect(name, mode == wanted && (wanted == LOCAL || wanted == 0 || nodes[0] == 1));
}

static int ready[2];

static void *other(void *argv)
{
    expect("policy", !syscall(SYS_set_mempolicy, INTERLEAVE | STATIC, first, NODES));
    expect("ready", write(ready[1], "", 1) == 1);
    wait_along(argv);
    expect_policy("thread", INTERLEAVE | STATIC, NULL);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    char byte;
    char *area = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!strcmp(argv[2], "bind"))
        expect("policy", !syscall(SYS_set_mempolicy, BIND, first, NODES));
    expect("local", !syscall(SYS_mbind, area, 4096, LOCAL, NULL, 0, 0));
    expect("interleave", !syscall(SYS_mbind, area + 8192, 8192, INTERLEAVE, first, NODES, 0));
    area[0] = area[9000] = area[20000] = 'x';
    expect("thread", !pipe(ready) && !pthread_create(&thread, NULL, other, argv) && read(ready[0], &byte, 1) == 1);
    wait_for_go(argv);
    expect_policy("own", strcmp(argv[2], "bind") ? 0 : BIND, NULL);
    expect_policy("first page", LOCAL, area);
    expect_policy("interleaved", INTERLEAVE, area + 3 * 4096);
    expect_policy("rest", 0, area + 5 * 4096); /* none of its own: the thread's counts */
    expect("bytes", area[0] == 'x' && area[9000] == 'x' && area[20000] == 'x');
    pthread_join(thread, NULL);
    return finish();
}
