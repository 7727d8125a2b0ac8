/* Four hundred mappings of shared anonymous memory, each of an object of its own. */
#include "protocol.h"
#include <sys/mman.h>

enum { COUNT = 400 };

int main(int argc, char **argv)
{
    static int *places[COUNT];
    for (int i = 0; i < COUNT; i++) {
        places[i] = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        expect("mapped", places[i] != MAP_FAILED);
        places[i][1024] = i;
    }
    wait_for_go(argv);
    for (int i = 0; i < COUNT; i++)
        expect("content", places[i][0] == 0 && places[i][1024] == i);
    return finish();
}
