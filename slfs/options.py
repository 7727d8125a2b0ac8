"""The command line of `slfs`, also as mount(8) calls it: STORE MOUNTPOINT [-o opts] [--foreground].

Pure. A line that is not understood is UsageError (exit status 2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from libsls.protocol import FSTYPE

USAGE: Final = """\
usage: slfs STORE MOUNTPOINT [-o OPTION[,OPTION...]] [--foreground]

Mounts the object file STORE on MOUNTPOINT, making it when there is none.
  -o OPTIONS      ro, allow_root, nodev, noexec, nosuid, sync, dirsync, and what fstab(5) knows
  -f, --foreground   stay in the foreground; end with ^C or SIGTERM
  -h, --help      this text"""

# Meant for mount(8), fstab and systemd, not for a file system.
_IGNORED: Final = frozenset(
    {
        *("rw", "suid", "dev", "exec", "async"),
        *("atime", "noatime", "diratime", "nodiratime", "relatime"),
        *("auto", "noauto", "nofail", "defaults", "_netdev"),
        *("user", "users", "nouser", "owner", "group"),
        *("allow_other", "default_permissions"),
    }
)
_IGNORED_PREFIXES: Final = ("x-", "comment=", "user=", "helper=")
_PASSED: Final = frozenset({"ro", "nodev", "noexec", "nosuid", "sync", "dirsync", "allow_root"})


class UsageError(Exception):
    """The command line is not understood."""

    exit_status = 2


@dataclass(frozen=True, kw_only=True)
class MountRequest:
    """What to mount where. `store` and `mountpoint` are absolute."""

    store: Path
    mountpoint: Path
    options: frozenset[str] = frozenset()
    foreground: bool = False

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options

    def fuse_options(self) -> set[str]:
        """The options for libfuse: the kernel checks modes, every user may come."""
        source = str(self.store).replace("\\", "\\\\").replace(",", "\\,")
        subtype = FSTYPE.partition(".")[2]
        # libfuse leaves devices and set-user-ID programs out where it is not told otherwise.
        allowed = {name for name in ("dev", "suid") if f"no{name}" not in self.options}
        chosen = {f"fsname={source}", f"subtype={subtype}", "default_permissions"}
        chosen |= allowed | self.options
        return chosen if "allow_root" in chosen else chosen | {"allow_other"}


def parse_command_line(arguments: Sequence[str]) -> MountRequest | None:
    """The request; None when help is asked for. Raises UsageError."""
    places: list[str] = []
    options: set[str] = set()
    foreground = False
    remaining = iter(arguments)
    for word in remaining:
        if word in ("-h", "--help"):
            return None
        if word in ("-f", "--foreground"):
            foreground = True
        elif word.startswith("-o"):
            options.update(_parse_options(word[2:] or next(remaining, "")))
        elif word in ("-n", "-s", "-v"):  # mount(8) passes these on; they change nothing here
            continue
        elif word.startswith("-"):
            raise UsageError(f"{word} is no option")
        else:
            places.append(word)
    if len(places) != 2:
        raise UsageError(f"{len(places)} places given; give STORE and MOUNTPOINT")
    store, mountpoint = (Path(place).absolute() for place in places)
    return MountRequest(
        store=store.resolve(),
        mountpoint=mountpoint,
        options=frozenset(options),
        foreground=foreground,
    )


def _parse_options(text: str) -> Iterator[str]:
    if not text:
        raise UsageError("-o without options")
    for option in filter(None, text.split(",")):
        if option in _PASSED:
            yield option
        elif option not in _IGNORED and not option.startswith(_IGNORED_PREFIXES):
            raise UsageError(f"{option} is no mount option")
