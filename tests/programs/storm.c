/* Does one thing over and over until go (CASE[0]): forks, vforks, starts threads, maps, opens, runs itself anew. */
#define _GNU_SOURCE
#include "protocol.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static void fork_once(char **argv)
{
    int status;
    pid_t pid = fork();
    if (!pid)
        _exit(7);
    expect("child", pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
}

/* Without a word to the tracer of its parent, which becomes its own. */
static void fork_traced(char **argv)
{
    int status;
    pid_t pid = syscall(SYS_clone, CLONE_PTRACE | CLONE_UNTRACED | SIGCHLD, NULL, NULL, NULL, NULL);
    if (!pid)
        _exit(6);
    expect("traced child", pid > 0 && waitpid(pid, &status, __WALL) == pid && WEXITSTATUS(status) == 6);
}

static void vfork_once(char **argv)
{
    int status;
    pid_t pid = vfork();
    if (!pid) {
        usleep(300);
        _exit(8);
    }
    expect("child", pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 8);
}

static void *return_it(void *value) { return value; }

static void start_thread(char **argv)
{
    pthread_t threads[3];
    void *result;
    for (long i = 0; i < 3; i++)
        expect("thread", !pthread_create(&threads[i], NULL, return_it, (void *)i));
    for (long i = 0; i < 3; i++)
        expect("joined", !pthread_join(threads[i], &result) && result == (void *)i);
}

static void map_once(char **argv)
{
    char *area = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect("mapped", area != MAP_FAILED);
    area[5000] = 5;
    area = mremap(area, 1 << 16, 1 << 17, MREMAP_MAYMOVE);
    expect("moved", area[5000] == 5);
    munmap(area, 1 << 17);
}

static void open_once(char **argv)
{
    int ends[2], fd = open("/proc/self/exe", O_RDONLY), number = 100 + rand() % 900;
    expect("opened", fd >= 0 && !pipe(ends) && dup2(fd, number) == number);
    expect("bytes", write(ends[1], "xyz", 3) == 3 && lseek(number, 64, SEEK_SET) == 64);
    expect("shared", lseek(fd, 0, SEEK_CUR) == 64);
    close(fd);
    close(number);
    close(ends[0]);
    close(ends[1]);
}

static void run_anew(char **argv)
{
    execl("/proc/self/exe", argv[0], argv[1], argv[2], "again", NULL);
    expect("ran", 0);
}

static void *sit(void *unused)
{
    pause();
    return NULL;
}

static void run_anew_from_thread(char **argv)
{
    pthread_t thread;
    for (int i = 0; i < 3; i++)
        pthread_create(&thread, NULL, sit, NULL);
    run_anew(argv);
}

static void sleep_in_vfork(char **argv)
{
    if (!vfork()) {
        usleep(60000000);
        _exit(9);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(char **);
    } cases[] = {{"fork", fork_once},   {"fork-traced", fork_traced},   {"vfork", vfork_once}, {"thread", start_thread},
                 {"map", map_once},     {"open", open_once}, {"exec", run_anew},    {"exec-threads", run_anew_from_thread},
                 {"long-vfork", sleep_in_vfork}};
    if (argc < 4) {
        puts("ready");
        fflush(stdout);
    }
    while (access(argv[1], F_OK))
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            if (!strcmp(argv[2], cases[i].name))
                cases[i].run(argv);
    return finish();
}
