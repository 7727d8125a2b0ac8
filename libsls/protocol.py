"""The words spoken over control files: one definition for the mount and for those who use it.

A command is one write: words separated by blanks, quoted as in a shell. Parsing is whole: a command
with one wrong word is refused as a whole with ProtocolError (EINVAL), whose text says which word and
what would be right. Knows no filesystem and no process. Standard library only; pure.
"""

import errno
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

FSTYPE: Final = "fuse.slfs"
MOUNT_VARIABLE: Final = "SLFS_MOUNT"

PARTITIONS: Final = "partitions"
GENERATIONS: Final = "generations"
FILES: Final = "files"
TAGS: Final = "tags"
LATEST: Final = "latest"

OID_MIN: Final = 1
OID_MAX: Final = 65536
PID_MAX: Final = 4194304  # PID_MAX_LIMIT, include/linux/threads.h
PERIOD_MAX_MS: Final = 86_400_000
RETAIN_MAX: Final = 2**31 - 1
NAME_MAX_BYTES: Final = 255
COMMAND_MAX_BYTES: Final = 4096
EPOCH_MAX: Final = 2**63 - 1

_THINNING_TERM: Final = re.compile(r"0*[1-9][0-9]{0,5}(ms|s|m|h|d|w):0*[1-9][0-9]{0,5}")


class File(StrEnum):
    """The control files of a partition."""

    ATTACH = "attach"
    DETACH = "detach"
    CHECKPOINT = "checkpoint"
    RESTORE = "restore"
    PERIOD = "period"
    MODE = "mode"
    BACKEND = "backend"
    RETAIN = "retain"
    STATUS = "status"
    STATS = "stats"
    TRACE = "trace"
    LOG = "log"


class Mode(StrEnum):
    """What a periodic checkpoint keeps."""

    FULL = "full"
    DELTA = "delta"


class Backend(StrEnum):
    """Where generations live."""

    SLOS = "slos"
    MEMORY = "memory"


class ProtocolError(ValueError):
    """A command that is not understood. `errno` is what the write returns."""

    def __init__(self, message: str, code: int = errno.EINVAL) -> None:
        self.errno = code
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The words of `checkpoint`."""

    recursive: bool = False
    full: bool = False
    kill: bool = False
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Restore:
    """The words of `restore`; `generation` None is the newest, `terminal` the pid whose terminal is used."""

    generation: int | None = None
    daemon: bool = False
    stopped: bool = False
    clone: bool = False
    kill: bool = False
    terminal: int = 0


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The words of `retain`: the `count` newest (0: all), or, with a `rule`, those that its terms want."""

    count: int = 0
    rule: str = ""


@dataclass(frozen=True)
class Restored:
    """What `restore` reads as: the last restore's generation and pids."""

    generation: int
    pids: tuple[int, ...]


# --- parsing ----------------------------------------------------------------------------------


def words(data: bytes) -> list[str]:
    """The words of one command. Raises ProtocolError when too long, not text or badly quoted."""
    if len(data) > COMMAND_MAX_BYTES:
        raise ProtocolError(f"{len(data)} bytes; a command has at most {COMMAND_MAX_BYTES}")
    try:
        text = data.decode()
        found = shlex.split(text)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ProtocolError(f"not a list of words: {error}") from error
    if any(not character.isprintable() for word in found for character in word):
        raise ProtocolError("a word holds an unprintable character")
    return found


def parse_text(name: bytes) -> str:
    """A name as text of printable characters. Raises ProtocolError."""
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{name!r} is not text; use UTF-8") from error
    if not text.isprintable():
        raise ProtocolError(f"{text!r} holds an unprintable character")
    return text


def _shown(word: str) -> str:
    return repr(word if len(word) <= 40 else word[:37] + "...")


def parse_number(word: str, what: str, low: int, high: int) -> int:
    """A decimal number of `low`…`high`. ProtocolError: EINVAL for no number, ERANGE outside."""
    digits = word.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        raise ProtocolError(f"{_shown(word)} is not a number; {what} is {low}…{high}")
    # A number of thousands of digits is out of range without being converted.
    value = int(word) if len(word) <= 20 else high + 1
    if word.startswith("-") or not low <= value <= high:
        raise ProtocolError(f"{_shown(word)} is out of range; {what} is {low}…{high}", errno.ERANGE)
    return value


def parse_oid(word: str) -> int:
    """A partition's number, in its one spelling."""
    value = parse_number(word, "an oid", OID_MIN, OID_MAX)
    if str(value) != word:
        raise ProtocolError(f"{_shown(word)}: write an oid without leading zeros")
    return value


def parse_epoch(word: str) -> int:
    """A generation's number."""
    return parse_number(word, "a generation", 1, EPOCH_MAX)


def parse_pids(data: bytes) -> tuple[int, ...]:
    """One or more pids, each once."""
    found = tuple(_parse_pid(word) for word in words(data))
    if not found:
        raise ProtocolError("no pid given; write one or more")
    return tuple(dict.fromkeys(found))


def _parse_pid(word: str) -> int:
    try:
        return parse_number(word, "a pid", 1, PID_MAX)
    except ProtocolError as error:
        raise ProtocolError(str(error)) from error  # EINVAL: no pid can be that


def parse_checkpoint(data: bytes) -> Checkpoint:
    """The words of `checkpoint`: recursive, full, kill, name=TEXT; a lone 1 is a plain trigger."""
    flags = dict.fromkeys(("recursive", "full", "kill"), False)
    name = ""
    given = words(data)
    for word in [] if given == ["1"] else given:
        if word in flags:
            flags[word] = True
        elif word.startswith("name="):
            name = parse_name(word.removeprefix("name="))
        else:
            known = ", ".join([*flags, "name=TEXT"])
            raise ProtocolError(f"{_shown(word)} is no word here; use {known}")
    return Checkpoint(name=name, **flags)


def parse_name(text: str) -> str:
    """A generation's name: what can also be a file's name."""
    if text in ("", ".", "..") or "/" in text:
        raise ProtocolError(f"{_shown(text)} cannot name a generation; use letters and digits")
    if len(text.encode()) > NAME_MAX_BYTES:
        raise ProtocolError(f"a name has at most {NAME_MAX_BYTES} bytes", errno.ENAMETOOLONG)
    return text


def parse_restore(data: bytes) -> Restore:
    """A generation or none, then daemon, stopped, clone, kill, terminal=PID in any order."""
    generation: int | None = None
    terminal = 0
    flags = dict.fromkeys(("daemon", "stopped", "clone", "kill"), False)
    for word in words(data):
        if word in flags:
            flags[word] = True
        elif word.startswith("terminal="):
            terminal = _parse_pid(word.removeprefix("terminal="))
        elif word[:1] in "-0123456789" and generation is None:
            generation = parse_epoch(word)
        elif word != LATEST:
            known = ", ".join([*flags, "terminal=PID"])
            raise ProtocolError(f"{_shown(word)} is no word here; use a generation, {known}")
    if terminal and flags["daemon"]:
        raise ProtocolError("daemon and terminal=PID exclude each other; give one")
    if flags["clone"] and flags["kill"]:
        raise ProtocolError("clone leaves live members alone, kill ends them; give one")
    return Restore(generation=generation, terminal=terminal, **flags)


def _only_word(data: bytes, what: str) -> str:
    found = words(data)
    if len(found) != 1:
        raise ProtocolError(f"{len(found)} words given; write {what}")
    return found[0]


def parse_period(data: bytes) -> int:
    """Milliseconds between checkpoints; 0 for none."""
    return parse_number(_only_word(data, "milliseconds"), "a period in ms", 0, PERIOD_MAX_MS)


def parse_retain(data: bytes) -> Retention:
    """How many generations to keep (0 for all), or INTERVAL:COUNT terms such as `1s:60 1m:60 1h:24`."""
    given = words(data)
    if given and all(":" in word for word in given):
        for word in given:
            if not _THINNING_TERM.fullmatch(word):
                raise ProtocolError(
                    f"{_shown(word)} is no term; write INTERVAL:COUNT such as 1s:60 1m:60 1h:24, "
                    "in ms, s, m, h, d or w"
                )
        return Retention(rule=" ".join(given))
    word = _only_word(data, "a number or terms such as 1s:60 1m:60")
    return Retention(count=parse_number(word, "a number to retain", 0, RETAIN_MAX))


def parse_tag_target(target: bytes) -> int:
    """The generation that a tag's link leads to: `../generations/<n>`."""
    try:
        head, _, epoch = target.decode().removesuffix("/").rpartition("/")
        if head == f"../{GENERATIONS}":
            return parse_epoch(epoch)
    except ValueError:
        pass
    raise ProtocolError(
        f"{_shown(repr(target)[2:-1])} is no place of a generation; "
        f"make tags by: ln -s ../{GENERATIONS}/3 {TAGS}/good"
    )


def parse_mode(data: bytes) -> Mode:
    """`full` or `delta`."""
    word = _only_word(data, "full or delta")
    if word not in list(Mode):
        raise ProtocolError(f"{_shown(word)} is no mode; write full or delta")
    return Mode(word)


def parse_backend(data: bytes) -> Backend:
    """`slos` or `memory`."""
    word = _only_word(data, "slos or memory")
    if word not in list(Backend):
        raise ProtocolError(f"{_shown(word)} is no backend; write slos or memory")
    return Backend(word)


# --- formatting -------------------------------------------------------------------------------


def _flag_words(command: object, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if getattr(command, name))


def format_checkpoint(command: Checkpoint) -> bytes:
    """The inverse of `parse_checkpoint`."""
    found = [*_flag_words(command, ("recursive", "full", "kill"))]
    if command.name:
        found.append(f"name={command.name}")
    return _line(found)


def format_restore(command: Restore) -> bytes:
    """The inverse of `parse_restore`."""
    found = [] if command.generation is None else [str(command.generation)]
    found += _flag_words(command, ("daemon", "stopped", "clone", "kill"))
    if command.terminal:
        found.append(f"terminal={command.terminal}")
    return _line(found)


def _line(found: Iterable[str]) -> bytes:
    return (shlex.join(found) + "\n").encode()


def format_pids(pids: Iterable[int]) -> bytes:
    """One pid a line."""
    return b"".join(b"%d\n" % pid for pid in pids)


def format_restored(restored: Restored | None) -> bytes:
    """The last restore: its generation, then its pids, on one line; empty when there was none."""
    if restored is None:
        return b""
    return _line(map(str, (restored.generation, *restored.pids)))


def parse_restored(data: bytes) -> Restored | None:
    """The inverse of `format_restored`."""
    numbers = [int(word) for word in data.split()]
    return Restored(numbers[0], tuple(numbers[1:])) if numbers else None


# --- the mount table --------------------------------------------------------------------------


@dataclass(frozen=True)
class Mount:
    """One mounted slfs: the store's path and where it is mounted."""

    store: str
    place: str


def parse_mounts(text: str) -> list[Mount]:
    """Every slfs in the text of /proc/mounts, the last mounted last."""
    rows = (line.split(" ") for line in text.splitlines())
    return [Mount(_unescape(row[0]), _unescape(row[1])) for row in rows if row[2] == FSTYPE]


def _unescape(field: str) -> str:
    # proc(5): blank, tab, newline and backslash are written as three octal digits.
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        field = field.replace(f"\\{code}", character)
    return field
