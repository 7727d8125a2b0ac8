"""The controlling terminal of a session and its foreground process group (credentials(7), ioctl_tty(2)).

A session's leader takes the terminal before it has children, for they inherit it and could not take it themselves.

Not kept: nothing.
Kernel: any.
"""

import os
import struct
from typing import Final

from sls.remote import Call, In, Remote, call
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    RestoreContext,
    RestoredProcess,
    Stage,
)
from sls.resources.devpts import OURS, instance_of_session, is_slave, open_slave, pty_index
from sls.resources.tty import (
    Terminal,
    console_path,
    decoded_device,
    find_terminal,
    is_still_there,
    pair,
)

_TIOCSCTTY: Final = 0x540E  # asm-generic/ioctls.h
_TIOCSPGRP: Final = 0x5410


class ControllingTerminalRecord(ProcessRecord, frozen=True, tag="controlling-terminal"):
    """Of a session's leader: its terminal and the group in the foreground. `terminal` None: it leads none."""

    terminal: Terminal | None = None
    foreground: int = 0
    is_of_outside_session: bool = False


class ControllingTerminal(ProcessState[ControllingTerminalRecord]):
    """Who controls which terminal."""

    stage = Stage.TASKS
    record = ControllingTerminalRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return not process.stat.terminal

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess
    ) -> Remote[ControllingTerminalRecord]:
        yield from ()
        stat_line = process.stat
        if not stat_line.terminal:
            return ControllingTerminalRecord()
        if stat_line.session != process.pid:
            outside = stat_line.session not in ctx.processes
            return ControllingTerminalRecord(is_of_outside_session=outside)
        device = decoded_device(stat_line.terminal)
        return ControllingTerminalRecord(
            terminal=_terminal(ctx, process, device),
            foreground=stat_line.foreground,
        )

    def prepare(self, ctx: RestoreContext, record: ControllingTerminalRecord) -> None:
        if record.terminal is not None:
            _controlling_descriptor(ctx, record.terminal)
        if record.is_of_outside_session:
            ctx.once(
                "no controlling terminal",
                lambda: ctx.note(
                    "terminal",
                    "the controlling terminal belongs to a session outside; it has none now",
                ),
            )

    def lead(self, ctx: RestoreContext, record: ControllingTerminalRecord) -> list[Call]:
        if record.terminal is None:
            return []
        fd = _controlling_descriptor(ctx, record.terminal)
        return [] if fd < 0 else [call("ioctl", fd, _TIOCSCTTY, 0)]

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: ControllingTerminalRecord
    ) -> Remote[None]:
        if record.terminal is None:
            return
        fd = _controlling_descriptor(ctx, record.terminal)
        if fd < 0:
            return
        foreground = process.own_number(record.foreground)
        (reply,) = yield [call("ioctl", fd, _TIOCSPGRP, In(struct.pack("=i", foreground)))]
        if reply.failed:
            name = record.terminal.path.decode(errors="replace")
            ctx.note("terminal", f"{name} is another session's now", process.pid)


def _terminal(ctx: CaptureContext, process: CapturedProcess, device: int) -> Terminal:
    if not is_slave(device):
        return find_terminal(ctx, device, console_path(device), OURS)
    devpts = instance_of_session(ctx, process, pty_index(device))
    return find_terminal(ctx, device, b"", devpts)


def _controlling_descriptor(ctx: RestoreContext, terminal: Terminal) -> int:
    """A descriptor of the terminal that the processes inherit; -1 when it is gone."""

    def make() -> int:
        if terminal.is_inside:
            index = pty_index(terminal.device)
            fd = open_slave(pair(ctx, index, terminal.devpts), os.O_RDWR)
        elif is_still_there(ctx, terminal):
            with ctx.as_owner():
                fd = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        else:
            return -1
        try:
            return ctx.inheritable(fd)
        finally:
            os.close(fd)

    which = terminal.devpts.device, terminal.device
    return ctx.once(("controlling terminal", *which), make)
