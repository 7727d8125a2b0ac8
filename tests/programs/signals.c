/* Signal actions, masks, alternate stacks, and queues of the process and of a thread with their siginfo (208). */
#define _GNU_SOURCE
#include "protocol.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

enum { LOG = 64 };
static siginfo_t seen[LOG];
static volatile int count;
static char stack[65536];
static int on_stack;

static void handle(int number, siginfo_t *info, void *context)
{
    char here;
    on_stack = &here > stack && &here < stack + sizeof stack;
    if (count < LOG)
        seen[count++] = *info;
}

static void queue(int number, int value)
{
    union sigval data = {.sival_int = value};
    expect("queued", !sigqueue(getpid(), number, data));
}

static pthread_barrier_t barrier;

static void *wait_for_own(void *argv)
{
    sigset_t set;
    siginfo_t info;
    stack_t stack;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_barrier_wait(&barrier);
    wait_along(argv);
    expect("no other stack here", !sigaltstack(NULL, &stack) && stack.ss_flags == SS_DISABLE);
    expect("own signal", sigwaitinfo(&set, &info) == SIGUSR2);
    expect("sender", info.si_pid == getpid() && info.si_code == SI_USER); /* glibc turns SI_TKILL so */
    return NULL;
}

int main(int argc, char **argv)
{
    sigset_t blocked, found;
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct sigaction one = {.sa_handler = SIG_IGN}, old;
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    pthread_t thread;
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGWINCH);
    for (int number = SIGRTMIN; number <= SIGRTMIN + 3; number++)
        sigaction(number, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGURG, &action, NULL);
    sigaction(SIGPIPE, &one, NULL);
    one.sa_flags = SA_NOCLDWAIT | SA_RESETHAND;
    one.sa_handler = SIG_DFL;
    sigaction(SIGCHLD, &one, NULL);
    expect("stack", !sigaltstack(&other, NULL));
    sigfillset(&blocked);
    pthread_sigmask(SIG_SETMASK, &blocked, NULL);
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, wait_for_own, argv);
    pthread_barrier_wait(&barrier);
    pthread_kill(thread, SIGUSR2);
    queue(SIGRTMIN + 2, 1);
    queue(SIGRTMIN + 1, 2);
    queue(SIGRTMIN + 2, 3);
    queue(SIGRTMIN + 1, 4);
    queue(SIGURG, 5);
    queue(SIGUSR1, 6);
    raise(SIGRTMIN + 3);
    wait_for_go(argv);

    pthread_sigmask(SIG_SETMASK, NULL, &found);
    for (int number = 1; number < 65; number++)
        if (number != SIGKILL && number != SIGSTOP && (number < 32 || number >= SIGRTMIN))
            expect("mask", sigismember(&found, number) == 1);
    sigaction(SIGPIPE, NULL, &old);
    expect("ignored", old.sa_handler == SIG_IGN);
    sigaction(SIGCHLD, NULL, &old);
    expect("flags", (old.sa_flags & ~0x04000000) == (SA_NOCLDWAIT | SA_RESETHAND));
    sigaction(SIGUSR1, NULL, &old);
    expect("handler", old.sa_sigaction == handle && sigismember(&old.sa_mask, SIGWINCH));
    expect("nothing was delivered", count == 0);
    pthread_join(thread, NULL);
    sigemptyset(&blocked);
    pthread_sigmask(SIG_SETMASK, &blocked, NULL);
    expect("all were delivered", count == 7);
    expect("on the alternate stack", on_stack);
    for (int order = 0, i = 0; i < count; i++) {
        int value = seen[i].si_value.sival_int;
        expect("sender", seen[i].si_pid == getpid() && seen[i].si_uid == getuid());
        if (seen[i].si_signo == SIGRTMIN + 3)
            expect("code of raise", seen[i].si_code == SI_TKILL);
        else
            expect("code of sigqueue", seen[i].si_code == SI_QUEUE);
        if (seen[i].si_signo == SIGRTMIN + 1 || seen[i].si_signo == SIGRTMIN + 2) {
            /* handlers nest: the highest number dequeued runs first */
            static const int wanted[] = {1, 3, 2, 4};
            expect("order", value == wanted[order++]);
        }
    }
    return finish();
}
