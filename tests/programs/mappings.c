/* Memory by CASE[0]: a heap walked (205), an anonymous mapping (207), shared memory between relatives (213), a list
 * through many mappings, a heap that grew and shrank. */
#define _GNU_SOURCE
#include "protocol.h"
#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { PAGE = 4096 };

static void *map(void *at, size_t bytes, int protection, int flags)
{
    void *found = mmap(at, bytes, protection, flags | MAP_ANONYMOUS, -1, 0);
    expect("mapped", found != MAP_FAILED);
    return found;
}

static void walk_heap(char **argv)
{
    enum { COUNT = 3000 };
    uint32_t *cells[COUNT];
    for (int i = 0; i < COUNT; i++) {
        cells[i] = malloc(16 + i);
        *cells[i] = i * 2654435761u;
    }
    wait_for_go(argv);
    for (int i = 0; i < COUNT; i++) {
        expect("cell", *cells[i] == i * 2654435761u);
        free(cells[i]);
    }
    expect("a new block", malloc(100000));
}

static void keep_anonymous(char **argv)
{
    size_t pages = 700;
    char *area = map(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    for (size_t i = 0; i < pages; i += 3)
        memset(area + i * PAGE, (int)(i % 251 + 1), PAGE);
    mprotect(area, 30 * PAGE, PROT_READ);
    mprotect(area + 60 * PAGE, 30 * PAGE, PROT_NONE);
    munmap(area + 100 * PAGE, 50 * PAGE);
    wait_for_go(argv);
    mprotect(area + 60 * PAGE, 30 * PAGE, PROT_READ);
    for (size_t i = 0; i < pages; i++)
        for (size_t at = i * PAGE; (i < 100 || i >= 150) && at < (i + 1) * PAGE; at += 512)
            expect("byte", area[at] == (char)(i % 3 ? 0 : i % 251 + 1));
    expect("hole", mincore(area + 100 * PAGE, PAGE, (unsigned char *)&pages) == -1);
}

static void share(char **argv)
{
    volatile int *shared = map(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    char *view;
    int status;
    shared[0] = 7;
    shared[2 * PAGE / 4] = 9;
    expect("second view", (view = mremap((void *)shared, 0, PAGE, MREMAP_MAYMOVE)) != MAP_FAILED);
    pid_t child = fork();
    if (!child) {
        pid_t grandchild = fork();
        wait_along(argv);
        if (!grandchild) {
            shared[5] = 55;
            exit(0);
        }
        waitpid(grandchild, &status, 0);
        expect("grandchild's value", shared[5] == 55);
        shared[1] = 8;
        exit(0);
    }
    wait_for_go(argv);
    waitpid(child, &status, 0);
    expect("child", status == 0);
    expect("values", shared[0] == 7 && shared[1] == 8 && shared[2 * PAGE / 4] == 9);
    ((int *)view)[3] = 33;
    expect("the other view", shared[3] == 33);
}

struct node {
    struct node *next;
    int value;
};

static void walk_list(char **argv)
{
    enum { COUNT = 2000 };
    struct node *head = NULL, *node;
    for (int i = 0; i < COUNT; i++) {
        node = map(NULL, PAGE * (1 + i % 3), PROT_READ | PROT_WRITE, MAP_PRIVATE);
        if (i % 2)
            madvise(node, PAGE, MADV_DONTDUMP); /* keeps neighbours from becoming one mapping */
        node->value = i;
        node->next = head;
        head = node;
    }
    wait_for_go(argv);
    for (int i = COUNT - 1; i >= 0; i--, head = head->next)
        expect("node", head->value == i);
    expect("end", !head);
}

static void grow_and_shrink(char **argv)
{
    char *start = sbrk(0), *top;
    expect("grown", sbrk(40 * PAGE) == start);
    memset(start, 'x', 40 * PAGE);
    expect("shrunk", sbrk(-25 * PAGE + 100) != (void *)-1);
    top = sbrk(0);
    wait_for_go(argv);
    expect("the same end", sbrk(0) == top);
    for (char *at = start; at < start + 15 * PAGE + 100; at++)
        expect("contents", *at == 'x');
    expect("grows again", sbrk(5 * PAGE) == top);
    memset(top, 'y', 5 * PAGE);
}

int main(int argc, char **argv)
{
    static char buffer[BUFSIZ];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer); /* it takes nothing from the heap */
    static const struct {
        const char *name;
        void (*run)(char **);
    } cases[] = {{"heap", walk_heap}, {"anonymous", keep_anonymous}, {"shared", share},
                 {"list", walk_list}, {"brk", grow_and_shrink}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[2], cases[i].name))
            cases[i].run(argv);
    return finish();
}
