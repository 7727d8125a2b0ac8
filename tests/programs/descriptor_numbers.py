"""Descriptors with numbers that others had while it was restored: low and high ones, in rings, the highest of all."""

import fcntl
import os
import resource

from tests.programs.protocol import expect, finish, wait_for_go

FIRST, COUNT = 60, 40
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
numbers = [*range(FIRST, FIRST + COUNT), most - 1]
files = [os.memfd_create(f"file {number}") for number in numbers]
highest = max(files) + COUNT * 3
for file, number in zip(reversed(files), numbers, strict=True):  # later made, lower numbered
    os.dup2(file, highest + number if number != most - 1 else number)
for file in files:
    os.close(file)
for number in numbers[:-1]:
    os.dup2(highest + number, number, inheritable=bool(number % 2))
    os.close(highest + number)
names = {number: os.readlink(f"/proc/self/fd/{number}") for number in numbers}
counter = os.eventfd(5)
wait_for_go()
for number, name in names.items():
    expect(f"file of descriptor {number}", os.readlink(f"/proc/self/fd/{number}"), name)
for number in numbers[:-1]:
    flags = fcntl.fcntl(number, fcntl.F_GETFD)
    expect(f"close on exec of {number}", flags, 0 if number % 2 else fcntl.FD_CLOEXEC)
expect("count", os.eventfd_read(counter), 5)
expect("how many", sum(int(one) >= FIRST for one in os.listdir("/proc/self/fd")), len(numbers))
finish()
