"""A captured process as /proc would show it: text made from its image. Pure; knows no FUSE.

`entries` gives what the directory of a process holds, as a nested mapping of names to `File` (text made on demand),
`Bytes` (read by offset), `Link` (target) or directories. Where /proc shows what a capture does not hold, the line is
left out, never guessed.
"""

import os
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol, TypeAlias

from sls.address_space import AddressSpace, UnmappedError
from sls.core import Core
from sls.image import DescriptorImage, ProcessImage, ThreadImage
from sls.resources import (
    AnyProcessRecord,
    AnyThreadRecord,
    CredentialsRecord,
    ProcessStateRecord,
    VmaRecord,
    final_registers,
)
from sls.syscalls import PAGE_BYTES, REGISTER_NAMES


class File(NamedTuple):
    """A regular file; `is_private`: only for the owner, as memory and environment are."""

    text: Callable[[], bytes]
    is_private: bool = False


class Bytes(NamedTuple):
    """A file too large to be held, only for the owner: `open` gives what reads it by (offset, length).

    `open().size_bytes` is what stat(2) tells; `is_stable`: bytes of one opening stay as they are.
    """

    open: "Callable[[], Readable]"
    is_stable: bool


class Readable(Protocol):
    """Bytes by offset: short where they end, OSError (EIO) where there are none."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...


class Link(NamedTuple):
    """A symbolic link."""

    target: bytes


Entry: TypeAlias = "File | Bytes | Link | Mapping[str, Entry]"


class Memory:
    """`mem`: an address space by virtual address.

    As that of /proc its size is 0, for it has no beginning: programs that read files from front to back (cp, grep, tar,
    diff) find an empty file, as a read of more than a page from address 0 is the end of file. Every other read of what
    is not mapped is EIO.
    """

    size_bytes: Final = 0

    def __init__(self, space: AddressSpace) -> None:
        self._space = space

    def read(self, offset: int, length: int) -> bytes:
        try:
            return self._space.read(offset, length)
        except UnmappedError:
            if offset == 0 and length > PAGE_BYTES:
                return b""
            raise


def entries(process: ProcessImage, open_space: Callable[[], AddressSpace]) -> Mapping[str, Entry]:
    """The directory of one process. A zombie has `comm` and `status` only."""
    if process.exit_status is not None:
        return {
            "comm": File(lambda: process.comm + b"\n"),
            "status": File(lambda: _zombie_status(process)),
        }
    memory = process.memory
    _, _, _, _, _, _, _, arg_start, arg_end, env_start, env_end = memory.layout
    state = process_state(process)

    def read(start: int, end: int) -> bytes:
        try:
            return open_space().read(start, end - start)
        except UnmappedError:
            return b""  # the process moved its area (prctl(2) PR_SET_MM) or unmapped it

    return {
        "comm": File(lambda: process.comm + b"\n"),
        "cmdline": File(lambda: read(arg_start, arg_end)),
        "environ": File(lambda: read(env_start, env_end), is_private=True),
        "status": File(lambda: _status(process, process.threads[0])),
        "maps": File(lambda: b"".join(map(_maps_line, memory.vmas))),
        "auxv": File(lambda: memory.auxv),
        "mem": Bytes(lambda: Memory(open_space()), is_stable=False),
        "core": Bytes(lambda: Core(process, open_space()), is_stable=True),
        "limits": File(lambda: _limits(state)),
        "exe": Link(memory.executable.path),
        "cwd": Link(state.cwd),
        "root": Link(state.root),
        "fd": {str(one.fd): Link(one.target) for one in process.descriptors},
        "fdinfo": {str(one.fd): File(_constant(one)) for one in process.descriptors},
        "threads": {str(one.tid): _thread(process, one) for one in process.threads},
    }


def _constant(descriptor: DescriptorImage) -> Callable[[], bytes]:
    return lambda: descriptor.info


def _thread(process: ProcessImage, thread: ThreadImage) -> Mapping[str, Entry]:
    return {
        "comm": File(lambda: thread.state.comm + b"\n"),
        "status": File(lambda: _status(process, thread)),
        "registers": File(lambda: _registers(thread), is_private=True),
    }


def _find(states: "tuple[AnyProcessRecord | AnyThreadRecord, ...]", kind: type) -> object:
    return next(one for one in states if isinstance(one, kind))


def process_state(process: ProcessImage) -> ProcessStateRecord:
    """Directories, limits and settings of a live process."""
    found = _find(process.states, ProcessStateRecord)
    assert isinstance(found, ProcessStateRecord)
    return found


# --- texts ----------------------------------------------------------------------------------------------------------


def _registers(thread: ThreadImage) -> bytes:
    """One register a line, in hexadecimal, as the thread will go on with."""
    registers = final_registers(thread.state)
    return b"".join(
        b"%-9s 0x%016x\n" % (name.encode(), getattr(registers, name)) for name in REGISTER_NAMES
    )


def permissions(vma: VmaRecord) -> str:
    """`rw-p` and its like, as in /proc/<pid>/maps."""
    letters = "".join(
        letter if vma.protection & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4))
    )
    return letters + ("s" if vma.is_shared else "p")


def _maps_line(vma: VmaRecord) -> bytes:
    """A line as in /proc/<pid>/maps; device and inode are not kept and read as 0."""
    head = f"{vma.start:08x}-{vma.end:08x} {permissions(vma)} {vma.offset:08x} 00:00 0"
    return head.ljust(73).encode() + vma.name + b"\n" if vma.name else head.encode() + b"\n"


_LIMIT_NAMES = (
    ("Max cpu time", "seconds"), ("Max file size", "bytes"), ("Max data size", "bytes"),
    ("Max stack size", "bytes"), ("Max core file size", "bytes"), ("Max resident set", "bytes"),
    ("Max processes", "processes"), ("Max open files", "files"), ("Max locked memory", "bytes"),
    ("Max address space", "bytes"), ("Max file locks", "locks"), ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"), ("Max nice priority", ""), ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
)  # fmt: skip


def _limits(state: ProcessStateRecord) -> bytes:
    lines = [f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} {'Units':<10}\n"]
    for limit in state.limits:
        name, unit = _LIMIT_NAMES[limit.number]
        lines.append(f"{name:<25} {_limit(limit.soft):<20} {_limit(limit.hard):<20} {unit:<10}\n")
    return "".join(lines).encode()


def _limit(value: int) -> str:
    return "unlimited" if value < 0 else str(value)


def _status(process: ProcessImage, thread: ThreadImage) -> bytes:
    credentials = _find(thread.states, CredentialsRecord)
    assert isinstance(credentials, CredentialsRecord)
    state = thread.state
    text = "".join(
        f"{name}:\t{value}\n"
        for name, value in (
            ("Name", state.comm.decode(errors="replace")),
            ("Umask", f"{process_state(process).umask:04o}"),
            ("State", "t (captured)"),
            ("Tgid", process.pid),
            ("Pid", thread.tid),
            ("PPid", process.ppid),
            ("Uid", "\t".join(map(str, credentials.uids))),
            ("Gid", "\t".join(map(str, credentials.gids))),
            ("FDSize", len(process.descriptors)),
            ("Groups", " ".join(map(str, credentials.groups))),
            ("NSpgid", process.pgid),
            ("NSsid", process.sid),
            ("VmSize", f"{sum(vma.length for vma in process.memory.vmas) >> 10} kB"),
            ("Threads", len(process.threads)),
            ("SigBlk", f"{state.sigmask:016x}"),
            ("CapInh", f"{credentials.inheritable:016x}"),
            ("CapPrm", f"{credentials.permitted:016x}"),
            ("CapEff", f"{credentials.effective:016x}"),
            ("CapBnd", f"{credentials.bounding:016x}"),
            ("CapAmb", f"{credentials.ambient:016x}"),
            ("NoNewPrivs", int(credentials.no_new_privs)),
            ("Cpus_allowed_list", ",".join(map(str, state.affinity))),
        )
    )
    return text.encode()


def _zombie_status(process: ProcessImage) -> bytes:
    status = process.exit_status
    assert status is not None
    end = (
        f"signal {os.WTERMSIG(status)}"
        if os.WIFSIGNALED(status)
        else f"exit {os.WEXITSTATUS(status)}"
    )
    name = process.comm.decode(errors="replace")
    return f"Name:\t{name}\nState:\tZ (zombie, {end})\nPid:\t{process.pid}\nPPid:\t{process.ppid}\n".encode()
