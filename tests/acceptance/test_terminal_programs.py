"""Programs that hold other people's terminals: tmux and screen.

In each a counter writes a line every 50 ms; after each of three cycles of checkpoint, SIGKILL and restore it goes on
from where the checkpoint found it.
"""

import subprocess
from functools import partial

import pytest

from tests.acceptance.job import Job
from tests.acceptance.test_real_programs import CYCLES, needs

pytestmark = [pytest.mark.root, pytest.mark.fuse]

COUNTER = "for ((n = 0; ; n++)); do echo $n; sleep 0.05; done"
AHEAD = 400  # numbers that are told between the look at the last one and the stop


def numbers(job: Job) -> list[int]:
    return [int(line) for line in job.lines() if line.isdigit()]


def counts_on(job: Job) -> None:
    """Numbers appear in the job's output, across the cycles."""
    job.wait_for(lambda: len(numbers(job)) > 5, "numbers")
    for _ in range(CYCLES):
        last = numbers(job)[-1]
        job.checkpoint("recursive")
        job.kill()
        told = len(numbers(job))
        job.restore()
        job.wait_more_lines(10)
        new = numbers(job)[told:]
        assert new == list(range(new[0], new[0] + len(new)))
        assert new[0] <= last + AHEAD


@needs("screen")
def test_x27_screen(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = job.directory / "sockets"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("SCREENDIR", str(folder))
    job.start("screen", "-D", "-m", "bash", "-c", f"{{ {COUNTER}; }} >> {job.output}")
    counts_on(job)


@needs("tmux")
def test_x27_tmux(job: Job) -> None:
    """Asked by its clients, who come and go: what is on its screen."""
    server = job.directory / "server"

    def tmux(*words: str) -> str:
        command = ["tmux", "-S", str(server), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def newest() -> int:
        shown = [word for word in tmux("capture-pane", "-p").split() if word.isdigit()]
        return int(shown[-1]) if shown else -1

    def is_past(number: int) -> bool:
        return newest() > number

    job.start("tmux", "-S", server, "-f", "/dev/null", "-D", attach=False)
    job.wait_for(server.exists, "its socket")
    tmux("new-session", "-d", "-x", "80", "-y", "24", "bash --norc --noprofile")
    job.attach()
    tmux("send-keys", COUNTER, "Enter")
    job.wait_for(lambda: newest() > 5, "numbers")
    for _ in range(CYCLES):
        job.checkpoint("recursive")
        last = newest()
        job.kill()
        job.restore()
        assert newest() <= last + AHEAD
        job.wait_for(partial(is_past, last + 10), "more numbers")
