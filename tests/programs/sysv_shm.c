/* Row 216: System V segments: with a key, private, destroyed, attached twice and in part, not attached yet. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include "protocol.h"

#define SIZE (3 * 4096 + 100)

int main(int argc, char **argv)
{
    be_apart_if_asked(argc, argv);
    int status;
    struct shmid_ds ds, unused;
    key_t key = 0x51500000 | (getpid() & 0xffff);
    if (argc > 2 && !strcmp(argv[2], "forced")) { /* what nobody has attached goes with its maker */
        FILE *file = fopen("/proc/sys/kernel/shm_rmid_forced", "w");
        expect("forced", file && fputs("1", file) > 0 && !fclose(file));
    }
    int keyed = shmget(key, SIZE, IPC_CREAT | IPC_EXCL | 0640), destroyed = shmget(IPC_PRIVATE, 1 << 20, 0600);
    int waiting = shmget(IPC_PRIVATE, 4096, 0600);
    char *one = shmat(keyed, 0, 0), *two = shmat(keyed, 0, SHM_RDONLY), *gone = shmat(destroyed, 0, 0);
    expect("attach", one != (char *)-1 && two != (char *)-1 && gone != (char *)-1);
    one[0] = 'a';
    one[SIZE - 1] = 'z';
    gone[1 << 19] = 'g';
    munmap(gone + (1 << 18), 4096);
    mprotect(gone + (1 << 17), 4096, PROT_READ);
    shmctl(destroyed, IPC_RMID, NULL);
    pid_t child = fork();
    if (!child) {
        wait_along(argv);
        one[1] = 'b';
        gone[1] = 'h';
        while (gone[2] != 'i')
            usleep(1000);
        _exit(0);
    }
    wait_for_go(argv);
    expect("bytes", one[0] == 'a' && two[SIZE - 1] == 'z' && gone[1 << 19] == 'g' && !gone[5]);
    gone[2] = 'i';
    expect("child", waitpid(child, &status, 0) == child && status == 0);
    expect("shared", two[1] == 'b' && gone[1] == 'h');
    expect("id", shmget(key, 0, 0) == keyed && shmctl(keyed, IPC_STAT, &ds) == 0);
    expect("counted", ds.shm_nattch == 2 && ds.shm_segsz == SIZE && (ds.shm_perm.mode & 0777) == 0640);
    expect("destroyed", shmctl(destroyed, IPC_STAT, &ds) == 0 && ds.shm_perm.mode & 01000);
    expect("not attached", shmctl(waiting, IPC_STAT, &unused) == 0 && unused.shm_nattch == 0);
    expect("detach", shmdt(one) == 0 && shmdt(two) == 0 && shmdt(gone) == 0);
    expect("gone with the last", shmctl(destroyed, IPC_STAT, &ds) < 0 && errno == EINVAL);
    shmctl(keyed, IPC_RMID, NULL);
    shmctl(waiting, IPC_RMID, NULL);
    return finish();
}
