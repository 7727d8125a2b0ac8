/* An asynchronous I/O context of the kernel, io_setup(2). */
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include "protocol.h"

int main(int argc, char **argv)
{
    aio_context_t context = 0;
    expect("io_setup", syscall(SYS_io_setup, 8, &context) == 0);
    wait_for_go(argv);
    expect("io_destroy", syscall(SYS_io_destroy, context) == 0);
    return finish();
}
