/* A POSIX message queue, which no checkpoint keeps. */
#include <fcntl.h>
#include <mqueue.h>
#include "protocol.h"

int main(int argc, char **argv)
{
    char name[32];
    sprintf(name, "/sls-test-%d", getpid());
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, NULL);
    mq_unlink(name);
    expect("queue", queue >= 0 && mq_send(queue, "hello", 5, 1) == 0);
    wait_for_go(argv);
    struct mq_attr state;
    expect("message", mq_getattr(queue, &state) == 0 && state.mq_curmsgs == 1);
    return finish();
}
