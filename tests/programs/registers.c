/* A thread that spins with every register holding a pattern of its own; after go it finds them all as they were. */
#include "protocol.h"
#include <asm/prctl.h>
#include <pthread.h>
#include <sys/syscall.h>

volatile int go;
/* named by the assembly below, so not static */
unsigned char vectors[16][32] __attribute__((aligned(32))), found[16][32] __attribute__((aligned(32)));
unsigned long general[15]; /* all but rsp, in the order of the pushes below */
unsigned long gs_pattern = 0x123456789abc, gs_found;
unsigned short fpu_control = 0x0f7f, fpu_found;
unsigned mxcsr = 0x1f80 | 0x6000 | 1, mxcsr_found;
unsigned long flags_found;
double stack_top = 1.0 / 3, stack_found;

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD(n) "vmovdqa vectors+32*" #n "(%%rip), %%ymm" #n "\n"
#define STORE(n) "vmovdqa %%ymm" #n ", found+32*" #n "(%%rip)\n"
#define LOAD_X(n) "movdqa vectors+32*" #n "(%%rip), %%xmm" #n "\n"
#define STORE_X(n) "movdqa %%xmm" #n ", found+32*" #n "(%%rip)\n"

#define SPIN(LOADS, STORES)                                                                        \
    asm volatile(                                                                                  \
        "push %%rbp\n push %%rbx\n" LOADS                                                          \
        "fldcw fpu_control(%%rip)\n ldmxcsr mxcsr(%%rip)\n fldl stack_top(%%rip)\n"                \
        "movabs $0x1111111111111101, %%rax\n movabs $0x2222222222222202, %%rbx\n"                  \
        "movabs $0x3333333333333303, %%rcx\n movabs $0x4444444444444404, %%rdx\n"                  \
        "movabs $0x5555555555555505, %%rsi\n movabs $0x6666666666666606, %%rdi\n"                  \
        "movabs $0x7777777777777707, %%rbp\n movabs $0x8888888888888808, %%r8\n"                   \
        "movabs $0x9999999999999909, %%r9\n movabs $0xaaaaaaaaaaaaaa0a, %%r10\n"                   \
        "movabs $0xbbbbbbbbbbbbbb0b, %%r11\n movabs $0xcccccccccccccc0c, %%r12\n"                  \
        "movabs $0xdddddddddddddd0d, %%r13\n movabs $0xeeeeeeeeeeeeee0e, %%r14\n"                  \
        "movabs $0xffffffffffffff0f, %%r15\n std\n"                                                \
        "1: pause\n cmpl $0, go(%%rip)\n je 1b\n"                                                  \
        "mov %%rax, general(%%rip)\n pushfq\n pop %%rax\n cld\n mov %%rax, flags_found(%%rip)\n"   \
        "mov %%rbx, general+8(%%rip)\n mov %%rcx, general+16(%%rip)\n"                             \
        "mov %%rdx, general+24(%%rip)\n mov %%rsi, general+32(%%rip)\n"                            \
        "mov %%rdi, general+40(%%rip)\n mov %%rbp, general+48(%%rip)\n"                            \
        "mov %%r8, general+56(%%rip)\n mov %%r9, general+64(%%rip)\n"                              \
        "mov %%r10, general+72(%%rip)\n mov %%r11, general+80(%%rip)\n"                            \
        "mov %%r12, general+88(%%rip)\n mov %%r13, general+96(%%rip)\n"                            \
        "mov %%r14, general+104(%%rip)\n mov %%r15, general+112(%%rip)\n" STORES                   \
        "fnstcw fpu_found(%%rip)\n stmxcsr mxcsr_found(%%rip)\n fstpl stack_found(%%rip)\n"        \
        "fninit\n pop %%rbx\n pop %%rbp\n" ::                                                      \
            : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",    \
              "r15", "memory", "cc")

static void *spin(void *has_avx)
{
    syscall(SYS_arch_prctl, ARCH_SET_GS, gs_pattern);
    if (has_avx)
        SPIN(EACH(LOAD), EACH(STORE) "vzeroupper\n");
    else
        SPIN(EACH(LOAD_X), EACH(STORE_X));
    syscall(SYS_arch_prctl, ARCH_GET_GS, &gs_found);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    long has_avx = __builtin_cpu_supports("avx");
    for (int i = 0; i < 16 * 32; i++)
        ((unsigned char *)vectors)[i] = i * 37 + 11;
    expect("thread", !pthread_create(&thread, NULL, spin, (void *)has_avx));
    wait_for_go(argv);
    go = 1;
    pthread_join(thread, NULL);
    for (unsigned long i = 0; i < 15; i++)
        expect("general register", general[i] == (0x1111111111111111 * (i + 1) & ~0xfful) + i + 1);
    for (int i = 0; i < 16; i++)
        expect("vector register", !memcmp(vectors[i], found[i], has_avx ? 32 : 16));
    expect("direction flag", flags_found & 0x400);
    expect("x87 control word", fpu_found == fpu_control);
    expect("mxcsr", mxcsr_found == mxcsr);
    expect("x87 stack", stack_found == stack_top);
    expect("gs base", gs_found == gs_pattern);
    return finish();
}
