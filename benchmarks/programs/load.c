/* load PORT KEYS CONNECTIONS SECONDS: 90 % GET and 10 % SET of random keys of a redis server, 100 bytes each, at full rate.

Each connection asks again as soon as it is answered. Prints requests a second, and latency in microseconds: p50, p99,
max. Keys are called key:N, as DEBUG POPULATE calls them. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define BUCKETS 2000000 /* of a microsecond */
#define VALUE 100

struct connection { int fd; long asked_ns; };

static unsigned latency[BUCKETS];
static uint64_t state = 88172645463325252ull;

static uint64_t chance(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000l + time.tv_nsec;
}

static void ask(struct connection *one, unsigned long keys) {
    static char text[256], value[VALUE + 1];
    char key[32];
    int key_bytes = sprintf(key, "key:%lu", (unsigned long)(chance() % keys)), length;
    if (chance() % 10 == 0) {
        for (int at = 0; at < VALUE; at++) value[at] = 'a' + chance() % 26;
        length = sprintf(text, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", key_bytes, key, VALUE, value);
    } else
        length = sprintf(text, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", key_bytes, key);
    one->asked_ns = now();
    if (write(one->fd, text, length) != length) perror("load: write"), exit(1);
}

static int connect_to(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) perror("load: connect"), exit(1);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static int percentile(unsigned long total, double share) {
    unsigned long seen = 0;
    for (int at = 0; at < BUCKETS; at++)
        if ((seen += latency[at]) > total * share) return at;
    return BUCKETS;
}

int main(int count, char **words) {
    if (count != 5) return 2;
    unsigned long keys = strtoul(words[2], NULL, 10), done = 0;
    int connections = atoi(words[3]), epoll = epoll_create1(0);
    struct connection *all = calloc(connections, sizeof *all);
    for (int at = 0; at < connections; at++) {
        all[at].fd = connect_to(atoi(words[1]));
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[at]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[at].fd, &event);
    }
    long began = now(), end = began + (long)(atof(words[4]) * 1e9), time = began;
    int worst = 0;
    for (int at = 0; at < connections; at++) ask(&all[at], keys);
    while (time < end) {
        static char answer[65536];
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, 1000);
        for (int at = 0; at < ready; at++) {
            struct connection *one = events[at].data.ptr;
            if (read(one->fd, answer, sizeof answer) <= 0) fprintf(stderr, "load: the server has gone\n"), exit(1);
            time = now();
            int microseconds = (time - one->asked_ns) / 1000;
            if (microseconds > worst) worst = microseconds;
            latency[microseconds < BUCKETS ? microseconds : BUCKETS - 1]++;
            done++;
            ask(one, keys);
        }
        if (!ready) time = now();
    }
    printf("%.0f %d %d %d\n", done / ((time - began) / 1e9), percentile(done, 0.5), percentile(done, 0.99), worst);
    return 0;
}
