"""Kinds of files that are refused, each with a sentence of its own.

The first of the register, for some look like files with a path.

Not kept: all of it: refused, each with its reason.
Kernel: any.
"""

from typing import Final, NoReturn

from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile

# start of the link in /proc/<pid>/fd → why
_REASONS: Final = {
    b"anon_inode:[userfaultfd]": "a userfaultfd handles page faults of memory that would not wait for it",
    b"anon_inode:bpf": "a bpf object lives in the kernel and cannot be read back",
    b"anon_inode:btf": "a bpf type description lives in the kernel and cannot be read back",
    b"anon_inode:[perf_event]": "a perf event counts on the hardware and cannot be set",
    b"anon_inode:[fanotify]": "fanotify decides on accesses of other programs, which would not wait for it",
    b"anon_inode:kvm": "a virtual machine of kvm cannot be read back",
    b"anon_inode:seccomp notify": "a seccomp listener decides on calls of another task",
    b"anon_inode:[landlock-ruleset]": "a landlock rule set cannot be read back",
    b"anon_inode:[fscontext]": "a mount that is being made cannot be read back",
    b"anon_inode:[secretmem]": "secret memory is hidden from everyone else by intent",
    b"/secretmem": "secret memory is hidden from everyone else by intent",
    b"/dev/fuse": "/dev/fuse carries requests of programs that would not wait for the answer",
}


class RefusedRecord(FileRecord, frozen=True, tag="refused"):
    """There is none."""


class Refused(FileType[RefusedRecord]):
    """What cannot be kept."""

    record = RefusedRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target.startswith(tuple(_REASONS))

    def capture(self, ctx: CaptureContext, file: OpenFile) -> NoReturn:
        name = file.target.decode(errors="replace").removeprefix("anon_inode:")
        reason = next(reason for start, reason in _REASONS.items() if file.target.startswith(start))
        raise file.unsupported(f"{name}: {reason}; close it before the checkpoint")
