"""The verbs: what reading and writing each control file of a partition does.

One table, verb → how to read, parse and apply. A write is parsed whole before anything happens.
Knows no FUSE. Everything here blocks and runs in a worker thread, one command a partition at a time.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from libsls import protocol
from libsls.protocol import File
from slfs.access import Caller, ancestry, check_may_trace
from slfs.contract import Backend, CheckpointRequest, Mode, RestoreRequest, Settings
from slfs.errors import EXPECTED_ERRORS, RefusedError
from slfs.registry import Entry, Registry


@dataclass(frozen=True)
class Command:
    """One parsed write: what to do, and the pids it names."""

    file: File
    value: Any
    pids: tuple[int, ...] = ()


Reader = Callable[[Entry], bytes]
Parser = Callable[[bytes], Any]
Applier = Callable[[Registry, Entry, Caller, Any], None]


@dataclass(frozen=True)
class Verb:
    """A control file: `parse` and `apply` are there when it can be written."""

    read: Reader
    parse: Parser | None = None
    apply: Applier | None = None

    @property
    def is_writable(self) -> bool:
        return self.apply is not None


# --- parse, decide, perform -------------------------------------------------------------------


def parse(file: File, data: bytes) -> Command:
    """A write as a command. Raises ProtocolError."""
    parser = VERBS[file].parse
    assert parser is not None
    value = parser(data)
    pids = value if file in (File.ATTACH, File.DETACH) else ()
    return Command(file, value, pids)


def is_by_member(entry: Entry, caller: Caller, command: Command) -> bool:
    """Whether the writer is, or by this command becomes, a member, or descends from one.

    Such a writer gets its reply first: a task that waits for this very write cannot be stopped.
    """
    members = {*entry.partition.members(), *entry.joining, *command.pids}
    return any(pid in members for pid in ancestry(caller.pid))


def check_unattached(registry: Registry, entry: Entry, command: Command) -> None:
    """Refuse an attach of what is a member already, before a reply that cannot be taken back."""
    try:
        _refuse_members(registry, command.pids)
    except RefusedError as error:
        entry.note_error(f"{command.file}: {error}", since=entry.events)
        raise


def perform(registry: Registry, entry: Entry, caller: Caller, command: Command) -> None:
    """Apply a command. On any expected error the reason is in the log before it is raised again."""
    apply = VERBS[command.file].apply
    assert apply is not None
    events = entry.events
    try:
        if entry.is_deleted:
            raise RefusedError(f"partition {entry.oid} is removed; create it anew", errno.ENOENT)
        apply(registry, entry, caller, command.value)
    except EXPECTED_ERRORS as error:
        entry.note_error(f"{command.file}: {error}", since=events)
        raise


# --- members ----------------------------------------------------------------------------------


def _read_members(entry: Entry) -> bytes:
    return protocol.format_pids(entry.partition.members())


def _attach(registry: Registry, entry: Entry, caller: Caller, pids: tuple[int, ...]) -> None:
    check_may_trace(caller, pids)
    _refuse_members(registry, pids)
    entry.partition.attach(pids)
    entry.note(f"attached {_listed(pids)}")


def _refuse_members(registry: Registry, pids: tuple[int, ...]) -> None:
    for pid in pids:
        holder = registry.holder_of(pid)
        if holder is not None:
            raise RefusedError(
                f"pid {pid} is a member of partition {holder.oid}; detach it there first",
                errno.EBUSY,
            )


def _detach(_registry: Registry, entry: Entry, _caller: Caller, pids: tuple[int, ...]) -> None:
    strangers = [pid for pid in pids if pid not in entry.partition.members()]
    if strangers:
        raise RefusedError(
            f"{_listed(strangers)} not in partition {entry.oid}; read attach for its members",
            errno.ESRCH,
        )
    entry.partition.detach(pids)
    entry.note(f"detached {_listed(pids)}")


def _listed(pids: tuple[int, ...] | list[int]) -> str:
    return "pid " + ", ".join(map(str, pids))


# --- generations ------------------------------------------------------------------------------


def _read_epoch(entry: Entry) -> bytes:
    return b"%d\n" % entry.newest()


def _checkpoint(
    _registry: Registry, entry: Entry, caller: Caller, words: protocol.Checkpoint
) -> None:
    check_may_trace(caller, entry.partition.members())
    events = entry.events
    outcome = entry.partition.checkpoint(
        CheckpointRequest(recursive=words.recursive, full=words.full, name=words.name)
    )
    if entry.events == events:
        entry.note(f"generation {outcome.epoch} taken, stopped for {outcome.stop_ns / 1e6:.3f} ms")
    entry.epoch_watch.advance()


def _read_restored(entry: Entry) -> bytes:
    return protocol.format_restored(entry.last_restore)


def _restore(_registry: Registry, entry: Entry, caller: Caller, words: protocol.Restore) -> None:
    if words.terminal:
        check_may_trace(caller, [words.terminal])
    events = entry.events
    outcome = entry.partition.restore(
        RestoreRequest(
            generation=words.generation,
            daemon=words.daemon,
            stopped=words.stopped,
            clone=words.clone,
            kill=words.kill,
            terminal_pid=words.terminal,
        )
    )
    entry.last_restore = protocol.Restored(outcome.generation, tuple(outcome.pids))
    if entry.events == events:
        entry.note(f"generation {outcome.generation} restored as {_listed(outcome.pids)}")
    entry.status_watch.advance()


# --- settings ---------------------------------------------------------------------------------


def _read_setting(field: str, entry: Entry) -> bytes:
    return f"{getattr(entry.settings, field)}\n".encode()


def _set(
    field: str,
    convert: Callable[[Any], Any],
    _registry: Registry,
    entry: Entry,
    _caller: Caller,
    value: Any,
) -> None:
    settings: Settings = msgspec.structs.replace(entry.settings, **{field: convert(value)})
    entry.configure(settings)
    entry.note(f"{field} set to {value}")


def _setting(field: str, parse: Parser, convert: Callable[[Any], Any]) -> Verb:
    return Verb(partial(_read_setting, field), parse, partial(_set, field, convert))


# --- looking ----------------------------------------------------------------------------------


def _read_status(entry: Entry) -> bytes:
    state: dict[str, Any] = {
        "oid": entry.oid,
        "uid": entry.owner.uid,
        "members": entry.partition.members(),
        "newest": entry.newest(),
        "durable": entry.store.durable(entry.oid),
        "last_error": entry.last_error,
        "settings": msgspec.to_builtins(entry.settings),
        "last_restore": entry.last_restore and vars(entry.last_restore),
    }
    return to_json(msgspec.to_builtins(entry.partition.status()) | state)


def _read_statistics(entry: Entry) -> bytes:
    return to_json(msgspec.to_builtins(entry.partition.statistics()))


def _read_log(entry: Entry) -> bytes:
    return entry.journal.read(0, entry.journal.size())


def to_json(value: object) -> bytes:
    """JSON for people: indented, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


VERBS: Final[dict[File, Verb]] = {
    File.ATTACH: Verb(_read_members, protocol.parse_pids, _attach),
    File.DETACH: Verb(lambda entry: b"", protocol.parse_pids, _detach),
    File.CHECKPOINT: Verb(_read_epoch, protocol.parse_checkpoint, _checkpoint),
    File.RESTORE: Verb(_read_restored, protocol.parse_restore, _restore),
    File.PERIOD: _setting("period_ms", protocol.parse_period, int),
    File.MODE: _setting("mode", protocol.parse_mode, Mode),
    File.BACKEND: _setting("backend", protocol.parse_backend, Backend),
    File.RETAIN: _setting("retain", protocol.parse_retain, int),
    File.STATUS: Verb(_read_status),
    File.STATS: Verb(_read_statistics),
    File.LOG: Verb(_read_log),
}
