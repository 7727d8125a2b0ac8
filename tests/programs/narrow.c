/* A 32-bit program that needs no C library: says `ready`, waits for the go file, says `ok`. */

static int call(int number, int one, int two, int three)
{
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(one), "c"(two), "d"(three) : "memory");
    return result;
}

enum { EXIT = 1, WRITE = 4, ACCESS = 33, NANOSLEEP = 162 };

__attribute__((used)) void run(int *stack)
{
    const char *go = (const char *)stack[2]; /* behind argc and argv[0] */
    int pause[2] = {0, 5000000};
    call(WRITE, 1, (int)"ready\n", 6);
    while (call(ACCESS, (int)go, 0, 0))
        call(NANOSLEEP, (int)pause, 0, 0);
    call(WRITE, 1, (int)"ok\n", 3);
    call(EXIT, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\tpush %esp\n\tcall run\n");
