/* Calls that the program may get back as SIGSYS: syscall user dispatch (prctl(2)), let through until now. */
#include "protocol.h"
#include <sys/prctl.h>

static char let_through; /* SYSCALL_DISPATCH_FILTER_ALLOW */

int main(int argc, char **argv)
{
    expect("set", prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &let_through) == 0);
    wait_for_go(argv);
    return finish();
}
