/* .data that the program has filled with zeros comes back as zeros, not as the file has it. */
#include "protocol.h"

enum { BYTES = 3 * 4096 };

static char table[BYTES] __attribute__((aligned(4096))) = {[0 ... BYTES - 1] = 7};

int main(int argc, char **argv)
{
    (void)argc;
    memset(table, 0, BYTES);
    table[4096] = 1;
    wait_for_go(argv);
    for (int at = 0; at < BYTES; at++)
        expect("byte", table[at] == (at == 4096));
    return finish();
}
