/* A System V segment of huge pages. argv[2]: how many kB a page has. */
#define _GNU_SOURCE
#include <sys/ipc.h>
#include <sys/shm.h>
#include "protocol.h"

int main(int argc, char **argv)
{
    int segment = shmget(IPC_PRIVATE, atol(argv[2]) << 10, SHM_HUGETLB | IPC_CREAT | 0600);
    char *area = shmat(segment, 0, 0);
    expect("shmat", area != (char *)-1);
    shmctl(segment, IPC_RMID, 0);
    area[0] = 1;
    wait_for_go(argv);
    return finish();
}
