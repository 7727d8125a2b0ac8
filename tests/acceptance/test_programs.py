"""Self-checking programs, each checkpointed, killed and restored through the mount, twice in a row."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from tests.acceptance.conftest import ComesBack
from tests.acceptance.job import READY, Job
from tests.sls.driver import command_of

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def test_203_cpu_bound_loop(comes_back: ComesBack) -> None:
    comes_back("busy.c")


def test_204_printing_to_an_inherited_pipe(job: Job, binaries: Path) -> None:
    """The reader stays outside, and reads on; what was printed after the checkpoint comes again."""
    read_end, write_end = os.pipe()
    try:
        job.start(
            *command_of("sums.c", binaries), job.directory / "go", 10**9, 1000, stdout=write_end
        )
        with os.fdopen(read_end, closefd=False) as stream:
            numbers = [int(stream.readline().split()[0])]
            for _ in range(2):
                job.checkpoint()
                job.kill()
                job.restore()
                numbers += [int(stream.readline().split()[0]) for _ in range(100)]
        assert all(b <= a + 1 for a, b in pairwise(numbers)), "a line is missing"
        (job.directory / "go").touch()
        assert job.wait_end() == 7
    finally:
        os.close(read_end)
        os.close(write_end)


def test_205_heap_array_walk(comes_back: ComesBack) -> None:
    comes_back("mappings.c", "heap")


def test_206_shared_file_mapping(comes_back: ComesBack) -> None:
    comes_back("mapped_file.c")


def test_207_anonymous_mapping(comes_back: ComesBack) -> None:
    comes_back("mappings.c", "anonymous")


def test_208_signal_handler_and_mask(comes_back: ComesBack) -> None:
    comes_back("signals.c")


@pytest.mark.parametrize("count", [5, 16])
def test_209_threads_on_a_mutex_and_a_condition(comes_back: ComesBack, count: int) -> None:
    comes_back("condition.c", count)


def test_210_file_offset(comes_back: ComesBack) -> None:
    comes_back("regular.py")


def test_211_parent_reaps_its_five_restored_children(comes_back: ComesBack) -> None:
    """With a pipe between each pair of them."""
    comes_back("tree.c")


def test_212_blocked_read_on_a_fifo(job: Job, binaries: Path) -> None:
    job.start(*command_of("fifo.c", binaries))
    call = Path(f"/proc/{job.pid}/syscall")
    for _ in range(2):
        job.wait_for(lambda: call.read_text().startswith("0 "), "read(2)")
        job.checkpoint()
        job.kill()
        job.restore()
    (job.directory / "fifo").write_bytes(b"hello")
    assert (job.wait_end(), job.text()) == (0, f"{READY}ok\n")


@pytest.mark.parametrize(("count", "size"), [(0, 65536), (65536, 65536)], ids=["empty", "full"])
def test_214_pipe_between_processes(comes_back: ComesBack, count: int, size: int) -> None:
    comes_back("pipe.py", count, size)


def test_217_bound_udp_socket(comes_back: ComesBack) -> None:
    comes_back("udp.py", "127.0.0.1", 1000, 3, "plain")


def test_218_tcp_listener_accepts(comes_back: ComesBack) -> None:
    comes_back("tcp_listener.py", "127.0.0.1", 5, "plain")


def test_219_epoll_over_event_objects(comes_back: ComesBack) -> None:
    comes_back("epoll.c")


def test_220_two_process_groups(comes_back: ComesBack) -> None:
    comes_back("groups.c")
