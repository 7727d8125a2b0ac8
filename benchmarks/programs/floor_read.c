/* The least that reading pages back can cost: copied out of a file in its order, nothing checked.
 *
 *     floor_read FILE PLAN ROWS [cold]
 *
 * PLAN holds pairs of 64-bit numbers, ascending by the first: where a page lies in FILE, and to which
 * of ROWS rows it goes. Pages that lie near one another are read in one pread(2) of at most 2 MiB.
 * Prints the seconds of the quickest of 5 rounds; with `cold` the page cache is dropped before each.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, SPAN = 2 << 20, GAP = 64 << 10 };

struct place {
	int64_t offset, row;
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static void copy_all(int fd, const struct place *places, long count, char *window, char *out)
{
	for (long first = 0, last; first < count; first = last) {
		int64_t start = places[first].offset, end = start + PAGE;

		for (last = first + 1; last < count && places[last].offset - end <= GAP &&
				       places[last].offset + PAGE - start <= SPAN; last++)
			end = places[last].offset + PAGE;
		if (pread(fd, window, end - start, start) != end - start) {
			perror("pread");
			exit(1);
		}
		for (long i = first; i < last; i++)
			memcpy(out + places[i].row * PAGE, window + places[i].offset - start, PAGE);
	}
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	int fd = open(argv[1], O_RDONLY);
	FILE *plan = fopen(argv[2], "rb");
	long rows = atol(argv[3]);
	struct place *places = malloc(rows * sizeof(*places));
	char *out = malloc(rows * PAGE), *window = malloc(SPAN);

	if (fd < 0 || !plan || !places || !out || !window)
		return 1;
	long count = fread(places, sizeof(*places), rows, plan);
	double best = 1e9;

	memset(out, 1, rows * PAGE);
	memset(window, 1, SPAN);
	for (int round = 0; round < 5; round++) {
		if (argc > 4)
			posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		double began = now();

		copy_all(fd, places, count, window, out);
		double seconds = now() - began;
		best = seconds < best ? seconds : best;
	}
	printf("%f\n", best);
	return 0;
}
