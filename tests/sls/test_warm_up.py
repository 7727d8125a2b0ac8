"""A dry run before a capture: it captures a process of our own, and changes nothing of the members."""

import os
import signal
import subprocess
import sys

import pytest

from sls import proc
from sls.capture import Tracer
from sls.ranges import as_list, intersection
from sls.syscalls import PAGE_BYTES
from sls.warm_up import WarmUp
from tests.conftest import WaitUntil
from tests.sls.apart import apart

pytestmark = pytest.mark.root

_KILLED = """
import os
from sls.capture import Tracer
from sls.warm_up import WarmUp
from tests.conftest import WaitUntil
from tests.sls.apart import apart

WarmUp().run(Tracer())
with open(f"/proc/self/task/{os.getpid()}/children") as children:
    print(children.read(), flush=True)
os.kill(os.getpid(), 9)
"""
_WRITER = """
import ctypes, sys
memory = bytearray(b"1") * (32 << 20)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
for line in sys.stdin:
    memory[int(line)] = 7
    print("written", flush=True)
"""


def _children() -> set[int]:
    return {int(pid) for pid in proc.read(os.getpid(), f"task/{os.getpid()}/children").split()}


def test_the_stand_in_goes() -> None:
    apart(_start_and_end)


def _start_and_end() -> None:
    warm_up = WarmUp()
    warm_up.run(Tracer())
    (stand_in,) = _children()
    warm_up.run(Tracer())
    assert _children() == {stand_in}
    warm_up.end()
    assert not _children()


def test_the_stand_in_ends_with_who_was_killed(wait_until: WaitUntil) -> None:
    process = subprocess.run(
        [sys.executable, "-c", _KILLED], stdout=subprocess.PIPE, text=True, check=False
    )
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: proc.has_ended(int(process.stdout)))


def test_what_was_written_before_is_seen_after() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            apart(lambda: _write_and_look(process))
        finally:
            process.kill()


def _write_and_look(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    page = int(process.stdout.readline()) + (20 << 20) & -PAGE_BYTES
    tracer, warm_up = Tracer(), WarmUp()

    def is_copied() -> bool:
        capture = tracer.capture(lambda: [process.pid], full=False, track=True, stay=True)
        wanted = [(page, page + PAGE_BYTES)]
        return any(intersection(as_list(one.ranges), wanted) for one in capture.objects)

    assert is_copied()
    assert not is_copied()
    process.stdin.write(f"{20 << 20}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"
    warm_up.run(tracer)
    assert is_copied()
    tracer.leave(lambda: [process.pid])
    warm_up.end()
