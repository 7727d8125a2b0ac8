"""Terminals: pty masters and slaves, virtual consoles, /dev/tty (pty(7), ioctl_tty(2), termios(3)).

A pair whose master is in the partition is made again, with its number if that is free, in the devpts that it was of
(`devpts`). A terminal whose other end is
outside is opened again if it still is the same; else the restorer's stands in, else /dev/null. Bytes that wait between
master and slave come with the master (`tty_queue`), unless it is in packet mode or its output is stopped.

Not kept: bytes in packet mode or of stopped output, told; an incomplete line with no other; line disciplines, refused.
Kernel: Linux 4.13 (TIOCGPTPEER).
"""

import errno
import fcntl
import os
import select
import stat
import struct
import termios
from collections.abc import Iterator
from typing import Final

from sls.errors import RestoreConflictError
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    Record,
    RestoreContext,
)
from sls.resources.devpts import (
    OURS,
    Devpts,
    instance_of_master,
    instance_of_session,
    instance_of_slave,
    is_slave,
    masters_inside,
    open_slave,
    pty_index,
)
from sls.resources.tty_queue import (
    EMPTY,
    TCGETS2,
    TCSETS2,
    TERMIOS2_BYTES,
    TerminalQueue,
    can_be_put_back,
    look,
    put,
    waiting_bytes,
)

_MASTER: Final = os.makedev(5, 2)
_CURRENT: Final = os.makedev(5, 0)  # /dev/tty
_TTY_MAJORS: Final = (4, 5, *range(136, 144), 204, 229)
_STANDARD_ERROR: Final = 2

# asm-generic/ioctls.h
_WINSIZE_BYTES: Final = 8
_TERMIOS_BYTES: Final = 36
_TIOCGLCKTRMIOS, _TIOCSLCKTRMIOS = 0x5456, 0x5457
_TIOCPKT, _TIOCGPKT = 0x5420, 0x80045438
_TIOCSPTLCK, _TIOCGPTLCK = 0x40045431, 0x80045439
_TIOCEXCL, _TIOCGEXCL = 0x540C, 0x80045440
_TIOCGDEV, _TIOCGPTN, _TIOCGETD = 0x80045432, 0x80045430, 0x5424


class Settings(Record, frozen=True):
    """struct termios2 and struct winsize, as the kernel lays them out."""

    termios: bytes
    winsize: bytes
    locked: bytes = b""  # struct termios: the bits that cannot be changed; empty for none


class Terminal(Record, frozen=True):
    """Which terminal. `changed_ns`: its inode's ctime, to tell it from a later one of the same number."""

    path: bytes
    device: int
    changed_ns: int
    is_inside: bool  # a slave whose master is in the partition
    devpts: Devpts = OURS


class PtyMasterRecord(FileRecord, frozen=True, tag="pty-master"):
    """One master. The slave's settings, owner and mode are kept here."""

    index: int
    settings: Settings
    is_packet_mode: bool
    is_locked: bool
    is_exclusive: bool
    is_hung_up: bool
    mode: int
    uid: int
    gid: int
    queue: TerminalQueue = EMPTY
    devpts: Devpts = OURS


class TtyRecord(FileRecord, frozen=True, tag="tty"):
    """Any other terminal. `number`: the first descriptor that had it, for the restorer's to stand in."""

    terminal: Terminal
    settings: Settings
    number: int
    is_exclusive: bool = False


class PtyMaster(FileType[PtyMasterRecord]):
    """/dev/ptmx."""

    record = PtyMasterRecord

    def matches(self, file: OpenFile) -> bool:
        return stat.S_ISCHR(file.stat.st_mode) and file.stat.st_rdev == _MASTER

    def capture(self, ctx: CaptureContext, file: OpenFile) -> PtyMasterRecord:
        fd = file.descriptor
        index = int(file.info["tty-index"])
        devpts = instance_of_master(file)
        slave = file.tree.stat(devpts.path_of(index))
        return PtyMasterRecord(
            file_id=file.file_id,
            flags=file.flags,
            index=index,
            settings=_settings(file),
            is_packet_mode=bool(_read_int(fd, _TIOCGPKT)),
            is_locked=bool(_read_int(fd, _TIOCGPTLCK)),
            is_exclusive=bool(_read_int(fd, _TIOCGEXCL)),
            is_hung_up=_is_hung_up(fd),
            mode=stat.S_IMODE(slave.st_mode),
            uid=slave.st_uid,
            gid=slave.st_gid,
            queue=_queue(ctx, file),
            devpts=devpts,
        )

    def restore(self, ctx: RestoreContext, record: PtyMasterRecord) -> int:
        master = pair(ctx, record.index, record.devpts)
        path = record.devpts.path_of(_read_int(master, _TIOCGPTN))
        with ctx.trees[record.devpts.mounts].reach(path) as slave:
            os.chown(slave, record.uid, record.gid)
            os.chmod(slave, record.mode)
        if record.is_packet_mode:
            fcntl.ioctl(master, _TIOCPKT, struct.pack("=i", 1))
        if record.is_exclusive:
            fcntl.ioctl(master, _TIOCEXCL)
        return os.dup(master)

    def settle(self, ctx: RestoreContext, record: PtyMasterRecord, fd: int) -> Iterator[None]:
        """Once the slaves are open: the first open of one resets the settings."""
        if record.is_hung_up:
            os.close(open_slave(fd, os.O_RDWR))
        if record.queue != EMPTY:
            slave = open_slave(fd, os.O_RDWR | os.O_NONBLOCK)
            put(fd, slave, record.settings.termios, record.queue)
            os.close(slave)
        _set(fd, record.settings)
        fcntl.ioctl(fd, _TIOCSPTLCK, struct.pack("=i", record.is_locked))
        yield from ()


class Tty(FileType[TtyRecord]):
    """Slaves, virtual consoles, serial lines, /dev/tty."""

    record = TtyRecord

    def matches(self, file: OpenFile) -> bool:
        return stat.S_ISCHR(file.stat.st_mode) and os.major(file.stat.st_rdev) in _TTY_MAJORS

    def capture(self, ctx: CaptureContext, file: OpenFile) -> TtyRecord:
        if discipline := _read_int(file.descriptor, _TIOCGETD):
            raise file.unsupported(f"a terminal with line discipline {discipline} is not supported")
        device = _device(file)
        devpts = OURS
        if is_slave(file.stat.st_rdev):
            devpts = instance_of_slave(file)
        elif is_slave(device):
            devpts = instance_of_session(ctx, file.process, pty_index(device))
        terminal = find_terminal(ctx, device, file.target, devpts)
        if devpts.device and not terminal.is_inside:
            raise file.unsupported(
                "a terminal of another devpts than ours, whose master is outside, is not supported"
            )
        settings = _settings(file)
        return TtyRecord(
            file_id=file.file_id,
            flags=file.flags,
            terminal=terminal,
            settings=settings,
            number=file.fd,
            is_exclusive=bool(settings.termios and _read_int(file.descriptor, _TIOCGEXCL)),
        )

    def restore(self, ctx: RestoreContext, record: TtyRecord) -> int:
        terminal = record.terminal
        flags = record.flags | os.O_NOCTTY | os.O_CLOEXEC
        if terminal.is_inside:
            fd = open_slave(pair(ctx, pty_index(terminal.device), terminal.devpts), flags)
            if record.is_exclusive:
                fcntl.ioctl(fd, _TIOCEXCL)
            return fd
        is_standard = record.number <= _STANDARD_ERROR
        if not (ctx.terminal and is_standard) and is_still_there(ctx, terminal):
            with ctx.as_owner():
                return os.open(terminal.path, flags | os.O_NONBLOCK)
        if ctx.terminal:
            return _stand_in(ctx, record, flags)
        name = terminal.path.decode(errors="replace")
        ctx.note("terminal", f"{name} is gone; /dev/null stands in for it")
        return os.open("/dev/null", flags)


# --- capture --------------------------------------------------------------------------------------------------------


def _read_int(fd: int, request: int) -> int:
    return int(struct.unpack("=i", fcntl.ioctl(fd, request, bytes(4)))[0])


def _settings(file: OpenFile) -> Settings:
    fd = file.descriptor
    try:
        locked = fcntl.ioctl(fd, _TIOCGLCKTRMIOS, bytes(_TERMIOS_BYTES))
        return Settings(
            termios=fcntl.ioctl(fd, TCGETS2, bytes(TERMIOS2_BYTES)),
            winsize=fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(_WINSIZE_BYTES)),
            locked=locked if any(locked) else b"",
        )
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return Settings(termios=b"", winsize=b"")  # hung up


def _queue(ctx: CaptureContext, file: OpenFile) -> TerminalQueue:
    """What waits in both directions. The program's own descriptor may block, so it is looked at by another one."""
    fd = file.descriptor
    if _is_hung_up(fd):
        if waiting := waiting_bytes(fd):
            ctx.lose(file.pid, f"fd {file.fd}", f"{waiting} bytes of output not read yet")
        return EMPTY
    if _read_int(fd, _TIOCGPTLCK):
        return EMPTY
    slave = open_slave(fd, os.O_RDWR | os.O_NONBLOCK)
    try:
        output, incoming = waiting_bytes(fd), waiting_bytes(slave)
        if not output and not incoming:
            return EMPTY
        if _read_int(fd, _TIOCGPKT) or not can_be_put_back(slave):
            ctx.lose(
                file.pid,
                f"fd {file.fd}",
                f"{output} bytes of output, {incoming} of input not read yet",
            )
            return EMPTY
        return look(fd, slave)
    finally:
        os.close(slave)


def _is_hung_up(master: int) -> bool:
    """Whether every slave was closed: reading gives EIO then."""
    poller = select.poll()
    poller.register(master, 0)
    return bool(poller.poll(0))


def decoded_device(number: int) -> int:
    """A dev_t of /proc/<pid>/stat (new_encode_dev of include/linux/kdev_t.h) as st_rdev has it."""
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)


def _device(file: OpenFile) -> int:
    """The terminal behind a descriptor: /dev/tty is whichever its opener had."""
    if file.stat.st_rdev != _CURRENT:
        return file.stat.st_rdev
    return decoded_device(_read_int(file.descriptor, _TIOCGDEV) & 0xFFFFFFFF)


def console_path(device: int) -> bytes:
    """Where a terminal of that device number, which is no pty, is found in /dev."""
    major, minor = os.major(device), os.minor(device)
    return b"/dev/tty%d" % minor if major == 4 and minor < 64 else b"/dev/ttyS%d" % (minor - 64)


def find_terminal(ctx: CaptureContext, device: int, path: bytes, devpts: Devpts) -> Terminal:
    """The terminal of a device number; `path` counts only for what is no pty."""
    master = None
    if is_slave(device):
        path = devpts.path_of(pty_index(device))
        masters = map(instance_of_master, masters_inside(ctx, pty_index(device)))
        master = next((one for one in masters if one.device == devpts.device), None)
    try:
        changed_ns = 0 if devpts.device else os.stat(path).st_ctime_ns
    except FileNotFoundError:
        changed_ns = 0
    return Terminal(
        path=path,
        device=device,
        changed_ns=changed_ns,
        is_inside=master is not None,
        devpts=master or devpts,
    )


# --- restore --------------------------------------------------------------------------------------------------------


def _set(fd: int, settings: Settings) -> None:
    if settings.termios:
        fcntl.ioctl(fd, TCSETS2, settings.termios)
        fcntl.ioctl(fd, termios.TIOCSWINSZ, settings.winsize)
    if settings.locked:
        fcntl.ioctl(fd, _TIOCSLCKTRMIOS, settings.locked)


def pair(ctx: RestoreContext, index: int, devpts: Devpts) -> int:
    """The master of a new pair, numbered `index` if possible."""
    return ctx.once(("pty", devpts.device, index), lambda: _numbered(ctx, index, devpts))


def _numbered(ctx: RestoreContext, index: int, devpts: Devpts) -> int:
    """The lowest free number is given each time: pairs below are kept for those that want their numbers."""
    passed: dict[int, int] = ctx.once(("ptys passed", devpts.device), dict)
    while index not in passed:
        try:
            fd = ctx.opened(_open_master(ctx, devpts))
        except OSError as error:
            name = devpts.multiplexer.decode(errors="replace")
            raise RestoreConflictError(
                f"{name}: {error.strerror}; close terminals and restore again",
                error.errno or errno.ENOSPC,
            ) from error
        given = _read_int(fd, _TIOCGPTN)
        if given > index:
            old, new = (devpts.path_of(one).decode(errors="replace") for one in (index, given))
            ctx.note("terminal", f"{old} is in use; it is {new} now")
            given = index
        passed[given] = fd
    fd = passed.pop(index)
    fcntl.ioctl(fd, _TIOCSPTLCK, struct.pack("=i", 0))
    return fd


def _open_master(ctx: RestoreContext, devpts: Devpts) -> int:
    flags = os.O_RDWR | os.O_NOCTTY
    if not devpts.device:
        return os.open(devpts.multiplexer, flags | os.O_CLOEXEC)
    with ctx.as_owner():
        return ctx.trees[devpts.mounts].open(devpts.multiplexer, flags)


def is_still_there(ctx: RestoreContext, terminal: Terminal) -> bool:
    """Whether the terminal of that path is the one of the checkpoint."""
    try:
        found = os.stat(terminal.path)
    except OSError:
        return False
    is_same_slave = ctx.is_same_boot and found.st_ctime_ns == terminal.changed_ns
    return found.st_rdev == terminal.device and (is_same_slave or not is_slave(terminal.device))


def _stand_in(ctx: RestoreContext, record: TtyRecord, flags: int) -> int:
    """The restorer's terminal, set as the program had set its own; it learns of the size by SIGWINCH."""
    wanted = record.number if record.number < len(ctx.terminal) else 0
    source = next(
        (fd for fd in (ctx.terminal[wanted], *ctx.terminal) if os.isatty(fd)), ctx.terminal[wanted]
    )
    if not os.isatty(source):
        return os.dup(source)
    fd = os.open(f"/proc/self/fd/{source}", flags | os.O_NONBLOCK)
    if record.settings.termios:
        fcntl.ioctl(fd, TCSETS2, record.settings.termios)
    return fd
