"""What changed between two images of a partition, in words: a line each, the path in the generation's directory first.

    + processes/7 (sleep)                                             it came
    - processes/5/fd/4 /tmp/x                                         it is gone
    ~ processes/5/fdinfo/3 pos: 0 -> 7                                it changed
    ~ processes/5/mem 7f10-7f14 rw-p [heap]: 2 of 4 pages: 7f11 7f13  these pages differ

Processes and threads are matched by their numbers, mappings by where they begin or, if they grew downwards, end. Pure;
what the pages are is asked of the caller.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from sls.address_space import Range
from sls.image import DescriptorImage, Image, ProcessImage, ThreadImage
from sls.procview import permissions, process_state
from sls.ranges import intersection, total_bytes
from sls.resources import VmaRecord, final_registers
from sls.syscalls import PAGE_BYTES, REGISTER_NAMES

SHOWN_RANGES: Final = 16


class Changes(Protocol):
    """What differs between the bytes of two generations: ranges of whole pages, ascending, merged."""

    def of_memory(self, old: ProcessImage, new: ProcessImage) -> Iterable[Range]:
        """Addresses whose private pages differ, where both have any."""
        ...

    def of_content(self, old_object: int, new_object: int) -> Iterable[Range]:
        """Offsets at which two objects differ."""
        ...


def differences(old: Image | None, new: Image, changes: Changes) -> Iterator[str]:
    """Lines, without their ends; nothing when the images are equal. `old` None: everything came."""
    before = {one.pid: one for one in old.processes} if old else {}
    after = {one.pid: one for one in new.processes}
    seen: set[int] = set()
    for pid in sorted(before.keys() | after.keys()):
        place = f"processes/{pid}"
        if pid not in after:
            yield f"- {place} ({_text(before[pid].comm)})"
        elif pid not in before:
            yield f"+ {place} ({_text(after[pid].comm)})"
        else:
            yield from _process(place, before[pid], after[pid], changes, seen)


def _process(
    place: str, old: ProcessImage, new: ProcessImage, changes: Changes, seen: set[int]
) -> Iterator[str]:
    if old.exit_status is not None or new.exit_status is not None:
        yield from _changes(f"{place}/status", "exit status", old.exit_status, new.exit_status)
        return
    for name, a, b in (
        ("comm", old.comm, new.comm),
        ("exe", old.memory.executable.path, new.memory.executable.path),
        ("cwd", process_state(old).cwd, process_state(new).cwd),
        ("root", process_state(old).root, process_state(new).root),
    ):
        if a != b:
            yield f"~ {place}/{name} {_text(a)} -> {_text(b)}"
    for name in ("ppid", "pgid", "sid"):
        yield from _changes(f"{place}/status", name, getattr(old, name), getattr(new, name))
    yield from _mappings(f"{place}/maps", old.memory.vmas, new.memory.vmas)
    yield from _pages(f"{place}/mem", old, new, changes, seen)
    yield from _descriptors(place, old.descriptors, new.descriptors)
    yield from _threads(f"{place}/threads", old.threads, new.threads)


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace").replace("\n", "\\n")


def _changes(place: str, what: str, old: object, new: object) -> Iterator[str]:
    if old != new:
        yield f"~ {place} {what}: {old} -> {new}"


# --- memory ---------------------------------------------------------------------------------------------------------


def _shown(vma: VmaRecord) -> str:
    name = f" {_text(vma.name)}" if vma.name else ""
    return f"{vma.start:x}-{vma.end:x} {permissions(vma)}{name}"


def _counterparts(
    old: Iterable[VmaRecord], new: Iterable[VmaRecord]
) -> list[tuple[VmaRecord | None, VmaRecord | None]]:
    """Mappings of both, by address; one that both have stands once."""
    left = {vma.start: vma for vma in old}
    pairs: list[tuple[int, VmaRecord | None, VmaRecord | None]] = []
    unmatched = []
    for vma in new:
        if vma.start in left:
            pairs.append((vma.start, left.pop(vma.start), vma))
        else:
            unmatched.append(vma)
    ends = {vma.end: vma for vma in left.values()}
    for vma in unmatched:
        found = ends.get(vma.end)
        if found is not None and found.name == vma.name:
            pairs.append((vma.start, left.pop(found.start), vma))
        else:
            pairs.append((vma.start, None, vma))
    pairs += [(vma.start, vma, None) for vma in left.values()]
    return [(a, b) for _, a, b in sorted(pairs, key=lambda pair: pair[0])]


def _mappings(place: str, old: Iterable[VmaRecord], new: Iterable[VmaRecord]) -> Iterator[str]:
    for before, after in _counterparts(old, new):
        if after is None:
            assert before is not None
            yield f"- {place} {_shown(before)}"
        elif before is None:
            yield f"+ {place} {_shown(after)}"
        elif _shown(before) != _shown(after):
            yield f"~ {place} {_shown(before)} -> {_shown(after)}"


def _pages(
    place: str, old: ProcessImage, new: ProcessImage, changes: Changes, seen: set[int]
) -> Iterator[str]:
    """Pages by the mapping that they are in now; of shared memory at its first mention only."""
    own = list(changes.of_memory(old, new))
    before = {vma.start: vma for vma in old.memory.vmas}
    for vma in new.memory.vmas:
        ranges = [] if vma.is_shared else intersection(own, [(vma.start, vma.end)])
        ranges = sorted([*ranges, *_inode_pages(before.get(vma.start), vma, changes, seen)])
        if ranges:
            pages = total_bytes(ranges) // PAGE_BYTES
            yield (
                f"~ {place} {_shown(vma)}: {pages} of {vma.length // PAGE_BYTES} pages: "
                + _listed(ranges)
            )


def _inode_pages(
    old: VmaRecord | None, new: VmaRecord, changes: Changes, seen: set[int]
) -> Iterator[Range]:
    """Pages of an inode without a name, at the addresses where `new` maps them."""
    if old is None or old.inode is None or new.inode is None:
        return
    number = new.inode.content.object_id
    if number in seen:
        return
    seen.add(number)
    window = (new.offset, new.offset + new.length)
    shift = new.start - new.offset
    found = changes.of_content(old.inode.content.object_id, number)
    for start, end in intersection(list(found), [window]):
        yield start + shift, end + shift


def _listed(ranges: list[Range]) -> str:
    """Single pages by their address, more by both ends."""
    words = [
        f"{start:x}" if end - start == PAGE_BYTES else f"{start:x}-{end:x}"
        for start, end in ranges[:SHOWN_RANGES]
    ]
    return " ".join([*words, "..."] if len(ranges) > SHOWN_RANGES else words)


# --- descriptors ----------------------------------------------------------------------------------------------------


def _descriptors(
    place: str, old: Iterable[DescriptorImage], new: Iterable[DescriptorImage]
) -> Iterator[str]:
    before, after = ({one.fd: one for one in group} for group in (old, new))
    for fd in sorted(before.keys() | after.keys()):
        if fd not in after:
            yield f"- {place}/fd/{fd} {_text(before[fd].target)}"
        elif fd not in before:
            yield f"+ {place}/fd/{fd} {_text(after[fd].target)}"
        elif before[fd].target != after[fd].target:
            yield f"~ {place}/fd/{fd} {_text(before[fd].target)} -> {_text(after[fd].target)}"
        else:
            yield from _information(f"{place}/fdinfo/{fd}", before[fd].info, after[fd].info)


def _information(place: str, old: bytes, new: bytes) -> Iterator[str]:
    """Lines of fdinfo: those with a key of their own by value, others as come and gone."""
    before, after = (_text_lines(info) for info in (old, new))
    gone = [line for line in before if line not in after]
    come = [line for line in after if line not in before]
    by_key = _by_key(come)
    for line in gone:
        key, _, value = line.partition(":")
        match = by_key.pop(key, None)
        if match is None or len(match) > 1:
            yield f"- {place} {line}"
            if match:
                by_key[key] = match
        else:
            yield f"~ {place} {key}: {value.strip()} -> {match[0].partition(':')[2].strip()}"
    for lines in by_key.values():
        yield from (f"+ {place} {line}" for line in lines)


def _text_lines(info: bytes) -> list[str]:
    return [" ".join(line.split()) for line in info.decode(errors="replace").splitlines()]


def _by_key(lines: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(line.partition(":")[0], []).append(line)
    return found


# --- threads --------------------------------------------------------------------------------------------------------


def _threads(place: str, old: Iterable[ThreadImage], new: Iterable[ThreadImage]) -> Iterator[str]:
    before, after = ({one.tid: one for one in group} for group in (old, new))
    for tid in sorted(before.keys() | after.keys()):
        if tid not in after:
            yield f"- {place}/{tid} ({_text(before[tid].state.comm)})"
        elif tid not in before:
            yield f"+ {place}/{tid} ({_text(after[tid].state.comm)})"
        else:
            yield from _registers(f"{place}/{tid}", before[tid], after[tid])


def _registers(place: str, old: ThreadImage, new: ThreadImage) -> Iterator[str]:
    if old.state.comm != new.state.comm:
        yield f"~ {place}/comm {_text(old.state.comm)} -> {_text(new.state.comm)}"
    before, after = _values(old), _values(new)
    for name in after:
        if before[name] != after[name]:
            yield f"~ {place}/registers {name}: {before[name]:#x} -> {after[name]:#x}"
    if old.state.xstate != new.state.xstate:
        yield f"~ {place}/registers floating-point and vector state"


def _values(thread: ThreadImage) -> Mapping[str, int]:
    registers = final_registers(thread.state)
    values = {name: int(getattr(registers, name)) for name in REGISTER_NAMES}
    return values | {"sigmask": thread.state.sigmask}
