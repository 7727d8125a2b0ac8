"""Going into the background: the caller returns when the mount answers, or with the reason why not.

Knows nothing of what is mounted. Call before any thread is started.
"""

import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import NoReturn


class Starter:
    """Tells whoever waits for the start how it went; once."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    def succeed(self) -> None:
        """The mount answers. In the background, let go of the terminal."""
        if self._descriptor is None:
            return
        _close_standard_streams()
        self._report(b"\0")

    def fail(self, message: str) -> None:
        """The start failed; the caller prints the reason."""
        if self._descriptor is None:
            print_error(message)
        else:
            self._report(message.encode())

    def _report(self, data: bytes) -> None:
        assert self._descriptor is not None
        os.write(self._descriptor, data)
        os.close(self._descriptor)
        self._descriptor = None


def print_error(message: str) -> None:
    """One line on standard error, under the program's name."""
    sys.stderr.write(f"slfs: {message}\n")
    sys.stderr.flush()


def start_in_background() -> Starter:
    """Fork: returns in the daemon; the caller's process waits for its report and ends."""
    receiver, sender = os.pipe()
    if pid := os.fork():
        os.close(sender)
        _wait_for_report(receiver, pid)
    os.close(receiver)
    os.setsid()
    os.chdir("/")
    return Starter(sender)


def _wait_for_report(receiver: int, pid: int) -> NoReturn:
    with os.fdopen(receiver, "rb") as pipe:
        report = pipe.read()
    if report == b"\0":
        os._exit(0)
    os.waitpid(pid, 0)
    print_error(report.decode(errors="replace") or "the daemon ended before the mount answered")
    os._exit(1)


def _close_standard_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)


def configure_logging(*, foreground: bool) -> None:
    """Foreground: to standard error. Background: to the system's log, where there is one."""
    handler: logging.Handler
    if foreground:
        handler = logging.StreamHandler()
    elif Path("/dev/log").exists():
        handler = logging.handlers.SysLogHandler("/dev/log")
    else:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("slfs[%(process)d]: %(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
