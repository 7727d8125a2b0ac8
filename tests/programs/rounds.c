/* Rows 213 and 258-263. Without end: a round changes 20 scattered pages of private memory, and parent and child take
 * turns in shared memory; each round every page of both is what it has to be, or the program says so and ends.
 * argv[2]: "private" or "shared", where the pages lie; argv[3] "closed": no descriptor more can be opened. Prints the
 * number of each round. */
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include "protocol.h"

enum { PAGE = 4096, PAGES = 3000, CHANGED = 20, WORD = PAGE / 8 };

static volatile uint64_t *memory, *turns;

static uint64_t page_of(uint64_t round, int which) { return (round * 613 + which * 149) % PAGES; }

/* What the first word of each page must be after so many rounds. */
static uint64_t expected[PAGES];

static void change(uint64_t round)
{
    for (int which = 0; which < CHANGED; which++) {
        uint64_t page = page_of(round, which);
        memory[page * WORD] = expected[page] = round << 16 | page;
        memory[page * WORD + 1 + round % (WORD - 1)] = 0;
    }
}

static void answer(void)
{
    for (uint64_t turn = 1;; turn += 2) {
        while (turns[0] != turn)
            usleep(100);
        turns[1] += turn;
        turns[0] = turn + 1;
    }
}

int main(int argc, char **argv)
{
    int flags = MAP_ANONYMOUS | (strcmp(argv[2], "shared") ? MAP_PRIVATE : MAP_SHARED);
    memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    turns = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int page = 0; page < PAGES; page++)
        memory[page * WORD + 7] = page;
    if (argc > 3 && !strcmp(argv[3], "closed")) {
        struct rlimit none = {0, 0};
        expect("limit", !setrlimit(RLIMIT_NOFILE, &none));
    }
    pid_t child = fork();
    if (!child)
        answer();
    setvbuf(stdout, NULL, _IOLBF, 0);
    uint64_t sum = 0;
    for (uint64_t round = 1; access(argv[1], F_OK); round++) {
        change(round);
        for (int page = 0; page < PAGES; page++)
            expect("page", memory[page * WORD] == expected[page]);
        turns[0] = 2 * round - 1;
        sum += 2 * round - 1;
        while (turns[0] != 2 * round)
            expect("the child lives", (usleep(100), waitpid(child, NULL, WNOHANG)) == 0);
        expect("the child's sum", turns[1] == sum);
        printf("%ju\n", round);
        usleep(1000);
    }
    return 7;
}
