"""Text of /proc turned into typed values. The only module that knows /proc's formats (proc(5)).

`read` and `entries` touch the filesystem; everything named `parse_…` is pure. A vanished task is TaskDiedError.
"""

import enum
import mmap
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from operator import itemgetter
from typing import Final, NamedTuple

from sls.errors import TaskDiedError, UnsupportedResourceError

_FIRST_READ_BYTES: Final = 8192  # room for most files; more costs its allocation at every read
_NEXT_READ_BYTES: Final = 1 << 16
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


def read(pid: int, name: str) -> bytes:
    """The whole of /proc/<pid>/<name>. TaskDiedError when the task is gone."""
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read_from_start(fd, name)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TaskDiedError(pid, f"reading {name}") from error


Read = Callable[[int, str], bytes]  # `read` or `reread`

_open_files: dict[
    int, dict[str, int]
] = {}  # of `reread`: number → name → descriptor, the oldest first
_MOST_OPEN: Final = 512


def reread(pid: int, name: str) -> bytes:
    """`read` of a file that is read again and again: it stays open, which saves most of the time.

    Not for what belongs to an address space (maps, auxv, mem): an open one stays with that which execve(2) replaces.
    `children` of an ended task reads as empty, also when another one has its number, until any other file of that
    number was asked for. For one thread alone.
    """
    fd = _open_files.get(pid, {}).get(name)
    if fd is not None:
        with suppress(ProcessLookupError, FileNotFoundError):  # fdinfo says the latter
            return _read_from_start(fd, name)
        _close_files(pid)  # it has ended; the number may be another one's now
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        if sum(map(len, _open_files.values())) >= _MOST_OPEN:
            _close_files(next(iter(_open_files)))
        _open_files.setdefault(pid, {})[name] = fd
        return _read_from_start(fd, name)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TaskDiedError(pid, f"reading {name}") from error


def _close_files(pid: int) -> None:
    for fd in _open_files.pop(pid).values():
        os.close(fd)


# Files of one record (ONE and single_open in fs/proc/base.c, and fdinfo): one read with room to spare has read them to
# their end.
_OF_ONE_RECORD: Final = frozenset(
    ["stat", "statm", "status", "sched", "syscall", "wchan", "limits", "cgroup", "personality"]
)


def _read_from_start(fd: int, name: str) -> bytes:
    text = os.pread(fd, _FIRST_READ_BYTES, 0)
    if not text or (len(text) < _FIRST_READ_BYTES and _is_of_one_record(name)):
        return text
    chunk = os.pread(fd, 1024 if len(text) < 1024 else _NEXT_READ_BYTES, len(text))
    if not chunk:
        return text
    chunks = [text, chunk]
    length = len(text) + len(chunk)
    while chunk := os.pread(fd, _NEXT_READ_BYTES, length):
        chunks.append(chunk)
        length += len(chunk)
    return b"".join(chunks)


def _is_of_one_record(name: str) -> bool:
    return name.rpartition("/")[2] in _OF_ONE_RECORD or name.startswith("fdinfo/")


def open_memory(pid: int) -> int:
    """A descriptor of /proc/<pid>/mem for reading and writing whatever the page protections say."""
    try:
        return os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TaskDiedError(pid, "opening its memory") from error


def link(pid: int, name: str) -> bytes:
    """Target of the symbolic link /proc/<pid>/<name>."""
    try:
        return os.readlink(f"/proc/{pid}/{name}".encode())
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TaskDiedError(pid, f"reading {name}") from error


def entries(pid: int, name: str) -> list[int]:
    """The numbers in the directory /proc/<pid>/<name> (`task`, `fd`), ascending."""
    try:
        return sorted(int(entry) for entry in os.listdir(f"/proc/{pid}/{name}"))
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TaskDiedError(pid, f"listing {name}") from error


def lowest_address() -> int:
    """Where the kernel begins when it looks for room for a mapping (vm.mmap_min_addr of proc(5))."""
    with open("/proc/sys/vm/mmap_min_addr", "rb") as file:
        return max(int(file.read()), mmap.PAGESIZE)


def free_huge_pages(page_bytes: int) -> int:
    """How many huge pages of that size a new mapping may have (Documentation/admin-guide/mm/hugetlbpage.rst)."""
    folder = f"/sys/kernel/mm/hugepages/hugepages-{page_bytes >> 10}kB"

    def count(name: str) -> int:
        try:
            with open(f"{folder}/{name}", "rb") as file:
                return int(file.read())
        except FileNotFoundError:
            return 0  # a size that this machine has not

    spare = count("nr_overcommit_hugepages") - count("surplus_hugepages")
    return count("free_hugepages") - count("resv_hugepages") + spare


def descriptors(pid: int, likely: Collection[int]) -> dict[int, bytes]:
    """Descriptors of a process that stands still, ascending, and their links.

    `likely`: numbers that are tried first. If there are so many and no more (st_size of the directory, Linux 6.2), and
    each of them is there, these are all.
    """
    try:
        if likely and os.stat(f"/proc/{pid}/fd").st_size == len(likely):
            return {fd: os.readlink(f"/proc/{pid}/fd/{fd}".encode()) for fd in likely}
    except (FileNotFoundError, ProcessLookupError):
        pass
    return {fd: link(pid, f"fd/{fd}") for fd in entries(pid, "fd")}


def has_ended(pid: int) -> bool:
    """Whether the process is a zombie or gone."""
    try:
        return stat(pid).is_zombie
    except TaskDiedError:
        return True


def exists(pid: int) -> bool:
    """Whether a task of this number exists, zombies included."""
    return os.path.exists(f"/proc/{pid}")


def pids() -> list[int]:
    """All process numbers of this pid namespace."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def ancestry(pid: int) -> Iterator[int]:
    """`pid`, its parent, and so on up to, but without, pid 1."""
    seen: set[int] = set()
    while pid > 1 and pid not in seen:
        yield pid
        seen.add(pid)
        try:
            pid = stat(pid).ppid
        except (TaskDiedError, OSError):
            return


def is_traceable(pid: int) -> bool:
    """Whether the kernel would let us attach: PTRACE_MODE_ATTACH_FSCREDS, of which `mem` asks for the same."""
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return False
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TaskDiedError(pid, "opening its memory") from error
    return True


def threads(pid: int, read: Read = read) -> list[int]:
    """Numbers of all threads of a process, ascending."""
    return [pid] if thread_count(pid, read) == 1 else entries(pid, "task")


def thread_count(pid: int, read: Read = read) -> int:
    """How many threads a process has, an ended leader among them."""
    return _stat_number(pid, 20, read)


def _stat_number(pid: int, field: int, read: Read) -> int:
    """One field of /proc/<pid>/stat behind the name, by its number in proc(5)."""
    return _number_in(pid, read(pid, "stat"), field)


def _number_in(pid: int, stat: bytes, field: int) -> int:
    words = stat.rpartition(b")")[2].split(None, field - 2)
    if len(words) < field - 2:  # it is being taken away
        raise TaskDiedError(pid, "reading stat")
    return int(words[field - 3])


def children(pid: int, reader: Read = read) -> list[int]:
    """Children of every thread of `pid`, from /proc/<pid>/task/<tid>/children."""
    found: list[int] = []
    for tid in threads(pid, reader):
        try:
            found += map(int, reader(tid, f"task/{tid}/children").split())
        except TaskDiedError:
            continue  # that thread ended: its children moved to another one or away
    return found


def descendants(pid: int, reader: Read = read) -> list[int]:
    """Children, their children, and so on, parents before children; `pid` itself not included."""
    found: list[int] = []
    queue = [pid]
    while queue:
        try:
            below = children(queue.pop(0), reader)
        except TaskDiedError:
            continue
        found += below
        queue += below
    return found


def find_descriptor(pid: int, target: bytes) -> int | None:
    """A descriptor of `pid` whose link reads `target`; None when there is none or it may not be looked at."""
    try:
        for fd in entries(pid, "fd"):
            if link(pid, f"fd/{fd}") == target:
                return fd
    except (TaskDiedError, PermissionError):
        pass
    return None


# --- stat and status ------------------------------------------------------------------------------------------------


class MemoryFailure(enum.IntEnum):
    """What becomes of a thread whose memory the hardware has lost: PR_MCE_KILL of prctl(2)."""

    LATE = 0
    EARLY = 1
    DEFAULT = 2


class Stat(NamedTuple):
    """The fields of /proc/<pid>/stat that are used; addresses are 0 without permission to ptrace."""

    pid: int
    comm: bytes
    state: str
    ppid: int
    pgrp: int
    session: int
    terminal: int  # a dev_t as new_encode_dev makes it; 0 is none
    foreground: int  # the terminal's foreground process group
    flags: int
    start_time_ticks: int
    exit_signal: int
    priority: int
    nice: int
    rt_priority: int
    policy: int
    start_code: int
    end_code: int
    start_stack: int
    start_data: int
    end_data: int
    start_brk: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    exit_code: int
    processor: int

    @property
    def is_zombie(self) -> bool:
        return self.state in "ZX"

    @property
    def is_exiting(self) -> bool:
        return bool(self.flags & 0x4)  # PF_EXITING

    @property
    def memory_failure(self) -> MemoryFailure:
        """PF_MCE_PROCESS says that the thread has a choice of its own, PF_MCE_EARLY which."""
        if not self.flags & 0x80:
            return MemoryFailure.DEFAULT
        return MemoryFailure.EARLY if self.flags & 0x08000000 else MemoryFailure.LATE

    @property
    def is_kernel_thread(self) -> bool:
        return bool(self.flags & 0x00200000)  # PF_KTHREAD, include/linux/sched.h


# Stat's fields from `ppid` on, by their numbers in proc(5); the first word behind the name is number 3.
_STAT_FIELDS: Final = (
    4,
    5,
    6,
    7,
    8,
    9,
    22,
    38,
    18,
    19,
    40,
    41,
    26,
    27,
    28,
    45,
    46,
    47,
    48,
    49,
    50,
    51,
    52,
    39,
)
_pick_stat = itemgetter(*(number - 3 for number in _STAT_FIELDS))


def parse_stat(text: bytes) -> Stat:
    """One line of /proc/<pid>/stat."""
    head, _, tail = text.partition(b"(")
    comm, _, rest = tail.rpartition(b")")
    words = rest.split()
    return Stat(int(head), comm, words[0].decode(), *map(int, _pick_stat(words)))


def stat(pid: int) -> Stat:
    """/proc/<pid>/stat, parsed."""
    return parse_stat(read(pid, "stat"))


def start_time(pid: int, read: Read = read) -> int:
    """When the process started, in clock ticks since boot: with its number, what tells it from all others."""
    return start_time_in(pid, read(pid, "stat"))


def start_time_in(pid: int, stat: bytes) -> int:
    """The same from the text of its `stat`."""
    return _number_in(pid, stat, 22)


def private_bytes(pid: int) -> int:
    """About how much resident memory is the process's own: anonymous, from /proc/<pid>/statm."""
    words = read(pid, "statm").split()
    return (int(words[1]) - int(words[2])) * 4096


def mapped_bytes(pid: int) -> int:
    """How much address space the process has mapped, from /proc/<pid>/statm."""
    return int(read(pid, "statm").split()[0]) * 4096


class Fields(Mapping[str, str]):
    """`Name:<blank>value` lines, looked up when asked for. Of repeated names the last one counts."""

    def __init__(self, text: bytes) -> None:
        self._text = "\n" + text.decode(errors="surrogateescape")

    def __getitem__(self, name: str) -> str:
        start = self._text.rfind(f"\n{name}:")
        if start < 0:
            raise KeyError(name)
        start += len(name) + 2
        end = self._text.find("\n", start)
        return self._text[start : end if end >= 0 else None].strip()

    def __iter__(self) -> Iterator[str]:
        names = (line.partition(":")[0] for line in self._text.splitlines() if line)
        return iter(dict.fromkeys(names))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def status(pid: int, tid: int | None = None) -> Fields:
    """/proc/<pid>/status (or a thread's), as a mapping."""
    return Fields(read(pid, "status" if tid is None else f"task/{tid}/status"))


# --- maps -----------------------------------------------------------------------------------------------------------


class VmaLine(NamedTuple):
    """One line of /proc/<pid>/maps. `permissions` as printed: `rwxp`."""

    start: int
    end: int
    permissions: str
    offset: int
    major: int
    minor: int
    inode: int
    name: bytes

    @property
    def is_shared(self) -> bool:
        return self.permissions[3] == "s"

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def device(self) -> int:
        return os.makedev(self.major, self.minor)


def _unescape(name: bytes) -> bytes:
    return name.replace(b"\\012", b"\n")


def parse_maps(text: bytes) -> list[VmaLine]:
    """All of /proc/<pid>/maps; proc(5): a newline in a path is written as an octal escape."""
    found = []
    for line in text.split(b"\n"):
        if not line:
            continue
        words = line.split(None, 5)
        start, _, end = words[0].partition(b"-")
        major, _, minor = words[3].partition(b":")
        found.append(
            VmaLine(
                int(start, 16), int(end, 16), words[1].decode(), int(words[2], 16),
                int(major, 16), int(minor, 16), int(words[4]),
                _unescape(words[5]) if len(words) > 5 else b"",
            )
        )  # fmt: skip
    return found


def parse_smaps_flags(text: bytes) -> dict[int, frozenset[str]]:
    """Start address → VmFlags (two-letter codes) of every mapping in /proc/<pid>/smaps; `pk` for a protection key."""
    flags: dict[int, frozenset[str]] = {}
    key: tuple[str, ...] = ()
    start = 0
    for line in text.split(b"\n"):
        if line.startswith(b"VmFlags:"):
            flags[start] = frozenset([*line[8:].decode().split(), *key])
            key = ()
        elif line.startswith(b"ProtectionKey:") and int(line[14:]):
            key = ("pk",)
        elif line and (line[:1].isdigit() or b"a" <= line[:1] <= b"f"):
            start = int(line.partition(b"-")[0], 16)
    return flags


# --- fdinfo ---------------------------------------------------------------------------------------------------------


class FdInfo(Mapping[str, str]):
    """/proc/<pid>/fdinfo/<fd> as a mapping; a field that this kernel does not print is UnsupportedResourceError."""

    def __init__(self, pid: int, fd: int, text: bytes) -> None:
        self._pid = pid
        self._fd = fd
        self.text = text
        self._fields = Fields(text)

    def __getitem__(self, name: str) -> str:
        try:
            return self._fields[name]
        except KeyError as error:
            raise UnsupportedResourceError(
                self._pid,
                f"fd {self._fd}",
                f"this kernel does not print `{name}` in fdinfo; a newer kernel is needed",
            ) from error

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    @cached_property
    def position(self) -> int:
        return int(self["pos"])

    @cached_property
    def flags(self) -> int:
        return int(self["flags"], 8)

    def lines(self, prefix: str) -> list[str]:
        """Every line that starts with `prefix`, for the kinds that print tables (epoll, inotify, locks)."""
        return [line for line in self.text.decode().splitlines() if line.startswith(prefix)]


def fdinfo(pid: int, fd: int) -> FdInfo:
    """/proc/<pid>/fdinfo/<fd>, parsed."""
    return FdInfo(pid, fd, read(pid, f"fdinfo/{fd}"))


# --- limits ---------------------------------------------------------------------------------------------------------


def parse_limits(text: bytes) -> list[tuple[int, int]]:
    """(soft, hard) of each resource in the order of their numbers, from /proc/<pid>/limits; -1 is unlimited."""
    return [(_limit(line[26:47]), _limit(line[47:68])) for line in text.splitlines()[1:]]


def _limit(word: bytes) -> int:
    return -1 if word.strip() == b"unlimited" else int(word)


# --- control groups -------------------------------------------------------------------------------------------------


def parse_cgroup(text: bytes) -> list[tuple[bytes, bytes]]:
    """(controllers, path) of each line of /proc/<pid>/cgroup; version 2 has no controllers there."""
    found = []
    for line in text.splitlines():
        _, controllers, path = line.split(b":", 2)
        found.append((controllers, path))
    return found


def parse_cgroup_mounts(text: bytes) -> dict[bytes, bytes]:
    """Controllers → mount point of each hierarchy, from /proc/<pid>/mountinfo; the whole of it, not a subtree."""
    found: dict[bytes, bytes] = {}
    for line in text.splitlines():
        head, _, tail = line.partition(b" - ")
        kind, _, options = tail.split(b" ", 2)
        root, mount = head.split()[3:5]
        if kind == b"cgroup2" and root == b"/":
            found.setdefault(b"", mount)
        elif kind == b"cgroup" and root == b"/":
            names = [
                name
                for name in options.split(b",")
                if name not in (b"rw", b"ro", b"xattr", b"noprefix", b"clone_children")
                and not name.startswith(b"release_agent=")
            ]
            found.setdefault(b",".join(names), mount)
    return found


def cgroup_mounts() -> dict[bytes, bytes]:
    """`parse_cgroup_mounts` of this process."""
    return parse_cgroup_mounts(read(os.getpid(), "mountinfo"))


# --- sockets --------------------------------------------------------------------------------------------------------


def net_table(name: str, *, heading: bool = True) -> list[list[str]]:
    """Rows of /proc/net/<name> of this process's network namespace, in words, without the heading."""
    try:
        with open(f"/proc/net/{name}", encoding="ascii") as file:
            return [line.split() for line in file.read().splitlines()[heading:]]
    except FileNotFoundError:
        return []  # a kernel without that protocol


def multicast_groups() -> list[tuple[str, bytes]]:
    """(device, address in network order) of every group that some socket of the machine is in."""
    found = [(row[1], bytes.fromhex(row[2])) for row in net_table("igmp6", heading=False)]
    device = ""
    for row in net_table("igmp"):
        if row[0].isdigit():
            device = row[1]
        else:
            found.append((device, bytes.fromhex(row[0])[::-1]))
    return found


def has_netlink_dump(inode: int) -> bool:
    """Whether the kernel is in the middle of answering a request over that netlink socket."""
    return any(row[9] == str(inode) and row[6] != "0" for row in net_table("netlink"))


def portless_remote(inode: int) -> bytes | None:
    """The address that a raw or ping socket is connected to, in network order; None when it is not."""
    for name in ("raw", "raw6", "icmp", "icmp6"):
        for row in net_table(name):
            if row[9] == str(inode) and row[3] == "01":
                words = bytes.fromhex(row[2].partition(":")[0])
                return b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    return None


# --- the machine ----------------------------------------------------------------------------------------------------


NAMESPACES: Final = (
    "mnt", "net", "pid", "ipc", "uts", "user", "time", "cgroup", "pid_for_children", "time_for_children",
)  # fmt: skip


def has_idle_processor() -> bool:
    """Whether fewer tasks want to run, this one among them, than there are processors."""
    with open("/proc/loadavg", "rb") as file:
        running = file.read().split()[3].partition(b"/")[0]
    return int(running) < (os.cpu_count() or 1)


def boot_id() -> str:
    """The number of this boot: inode numbers of pipes and sockets mean something only within one."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def most_open_files() -> int:
    """RLIMIT_NOFILE can be no higher, whoever asks (proc_sys_fs(5), nr_open)."""
    with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
        return int(file.read())


def boot_time_s() -> int:
    """When the machine started, in seconds since the epoch."""
    with open("/proc/stat", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("btime "))


class Numbers(NamedTuple):
    """What a task, its process, group and session are called in the pid namespaces below ours, the outermost first.

    Empty in ours. 0: it is of another namespace.
    """

    task: tuple[int, ...]
    process: tuple[int, ...]
    group: tuple[int, ...]
    session: tuple[int, ...]


def numbers_below(status: Mapping[str, str]) -> Numbers:
    """From /proc/<pid>/status."""
    names = ("NSpid", "NStgid", "NSpgid", "NSsid")
    return Numbers(*(tuple(map(int, status[name].split()))[1:] for name in names))


class MountLine(NamedTuple):
    """One line of mountinfo. `device`: st_dev of what is mounted; `root`: the part of it that is shown.

    `parent`: the number of the mount that it is on. `shared`, `master`: peer groups, 0 for none.
    """

    number: int
    parent: int
    device: int
    root: bytes
    point: bytes
    options: frozenset[bytes]
    shared: int
    master: int
    is_unbindable: bool
    kind: bytes
    source: bytes
    settings: bytes  # of the filesystem

    @property
    def setting_words(self) -> list[bytes]:
        """Each of the settings; a comma within one is written in digits."""
        return [_unescape_all(one) for one in self.settings.split(b",")]


def parse_mountinfo(text: bytes) -> list[MountLine]:
    """All of /proc/<pid>/mountinfo, in its order."""
    return [_mount_line(*line.split(b" - ", 1)) for line in text.splitlines()]


def _mount_line(head: bytes, tail: bytes) -> MountLine:
    number, parent, device, root, point, options, *fields = head.split()
    kind, source, settings = tail.split(b" ", 2)
    groups = dict(field.split(b":", 1) for field in fields if b":" in field)
    major, _, minor = device.partition(b":")
    return MountLine(
        number=int(number), parent=int(parent), device=os.makedev(int(major), int(minor)),
        root=_unescape_all(root), point=_unescape_all(point), options=frozenset(options.split(b",")),
        shared=int(groups.get(b"shared", 0)), master=int(groups.get(b"master", 0)),
        is_unbindable=b"unbindable" in fields, kind=kind, source=_unescape_all(source), settings=settings,
    )  # fmt: skip


def _unescape_all(word: bytes) -> bytes:
    """Blanks, tabs, newlines, backslashes and # are written as three octal digits."""
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), word)


def mount_points(device: int) -> list[bytes]:
    """Where the filesystem of that st_dev is mounted, as far as this process sees."""
    lines = parse_mountinfo(read(os.getpid(), "mountinfo"))
    return [one.point for one in lines if one.device == device]


class SysvSegment(NamedTuple):
    """One line of /proc/sysvipc/shm; `mode` with SHM_DEST and SHM_LOCKED."""

    key: int
    identifier: int
    mode: int
    size_bytes: int
    creator: int
    last: int
    attached: int
    uid: int
    gid: int
    creator_uid: int
    creator_gid: int


class SysvSemaphores(NamedTuple):
    """One line of /proc/sysvipc/sem."""

    key: int
    identifier: int
    mode: int
    semaphores: int
    uid: int
    gid: int
    creator_uid: int
    creator_gid: int
    used_s: int
    changed_s: int


class SysvQueue(NamedTuple):
    """One line of /proc/sysvipc/msg; times are seconds since the epoch."""

    key: int
    identifier: int
    mode: int
    queued_bytes: int
    messages: int
    last_sender: int
    last_receiver: int
    uid: int
    gid: int
    creator_uid: int
    creator_gid: int
    sent_s: int
    received_s: int
    changed_s: int


def sysv_segments() -> list[SysvSegment]:
    """All System V shared memory segments of this IPC namespace."""
    return [SysvSegment(*words[:11]) for words in _sysv_table("shm")]


def sysv_semaphores() -> list[SysvSemaphores]:
    """All System V semaphore sets of this IPC namespace."""
    return [SysvSemaphores(*words[:10]) for words in _sysv_table("sem")]


def sysv_queues() -> list[SysvQueue]:
    """All System V message queues of this IPC namespace."""
    return [SysvQueue(*words[:14]) for words in _sysv_table("msg")]


def _sysv_table(name: str) -> list[list[int]]:
    """Key, id and mode first, in each of the three tables; a kernel without them has none."""
    try:
        fd = os.open(f"/proc/sysvipc/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        lines = _read_from_start(fd, name).splitlines()[1:]
    finally:
        os.close(fd)
    return [
        [int(words[0]) & 0xFFFFFFFF, int(words[1]), int(words[2], 8), *map(int, words[3:])]
        for words in map(bytes.split, lines)
    ]
