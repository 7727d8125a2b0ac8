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
from slfs.access import Caller, check_may_restore, check_may_trace
from slfs.errors import EXPECTED_ERRORS, RefusedError
from slfs.registry import Entry
from sls import proc
from sls.image import MANIFEST_OBJECT, decode
from sls.requests import Backend, CheckpointRequest, Mode, RestoreRequest, Settings


@dataclass(frozen=True)
class Command:
    """One parsed write."""

    file: File
    value: Any


Reader = Callable[[Entry], bytes]
Parser = Callable[[bytes], Any]
Applier = Callable[[Entry, Caller, Any], None]


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
    return Command(file, parser(data))


def is_by_member(entry: Entry, caller: Caller) -> bool:
    """Whether the writer is a member or descends from one.

    Such a writer gets its reply first: a task that waits for this very write cannot be stopped.
    """
    members = set(entry.partition.members())
    return any(pid in members for pid in proc.ancestry(caller.pid))


def perform(entry: Entry, caller: Caller, command: Command) -> None:
    """Apply a command. On any expected error the reason is in the log before it is raised again."""
    apply = VERBS[command.file].apply
    assert apply is not None
    events = entry.events
    try:
        if entry.is_deleted:
            raise RefusedError(f"partition {entry.oid} is removed; create it anew", errno.ENOENT)
        entry.busy = command.file
        apply(entry, caller, command.value)
    except EXPECTED_ERRORS as error:
        entry.note_error(f"{command.file}: {error}", since=events)
        raise
    finally:
        entry.busy = ""


# --- members ----------------------------------------------------------------------------------


def _read_members(entry: Entry) -> bytes:
    return protocol.format_pids(entry.partition.members())


def _attach(entry: Entry, caller: Caller, pids: tuple[int, ...]) -> None:
    check_may_trace(caller, pids)
    entry.partition.attach(pids)
    entry.note(f"attached {_listed(pids)}")


def _detach(entry: Entry, _caller: Caller, pids: tuple[int, ...]) -> None:
    entry.partition.detach(pids)
    entry.note(f"detached {_listed(pids)}")


def _listed(pids: tuple[int, ...] | list[int]) -> str:
    return "pid " + ", ".join(map(str, pids))


# --- generations ------------------------------------------------------------------------------


def _read_epoch(entry: Entry) -> bytes:
    return b"%d\n" % entry.newest()


def _checkpoint(entry: Entry, caller: Caller, words: protocol.Checkpoint) -> None:
    check_may_trace(caller, entry.partition.members())
    events = entry.events
    outcome = entry.partition.checkpoint(
        CheckpointRequest(
            recursive=words.recursive, full=words.full, kill=words.kill, name=words.name
        )
    )
    if entry.events == events:
        entry.note(f"generation {outcome.epoch} taken, stopped for {outcome.stop_ns / 1e6:.3f} ms")
    entry.epoch_watch.advance()


def _read_restored(entry: Entry) -> bytes:
    return protocol.format_restored(entry.last_restore)


def _check_image(entry: Entry, caller: Caller, generation: int | None) -> None:
    epoch = generation or entry.newest()
    if epoch:  # without one, the partition says what is missing
        check_may_restore(caller, decode(entry.store.read(entry.oid, epoch, MANIFEST_OBJECT)))


def _restore(entry: Entry, caller: Caller, words: protocol.Restore) -> None:
    if words.terminal:
        check_may_trace(caller, [words.terminal])
    if not caller.is_root:
        _check_image(entry, caller, words.generation)
    events = entry.events
    outcome = entry.partition.restore(
        RestoreRequest(
            generation=words.generation,
            daemon=words.daemon,
            stopped=words.stopped,
            clone=words.clone,
            kill=words.kill,
            terminal_pid=words.terminal,
            uid=entry.owner.uid,
            gid=entry.owner.gid,
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
    entry: Entry,
    _caller: Caller,
    value: Any,
) -> None:
    settings: Settings = msgspec.structs.replace(entry.settings, **{field: convert(value)})
    entry.configure(settings)
    entry.note(f"{field} set to {value}")


def _read_retention(entry: Entry) -> bytes:
    return f"{entry.settings.thin or entry.settings.retain}\n".encode()


def _retain(entry: Entry, _caller: Caller, value: protocol.Retention) -> None:
    settings = msgspec.structs.replace(entry.settings, retain=value.count, thin=value.rule)
    entry.configure(settings)
    entry.note(f"retain set to {value.rule or value.count}")


def _setting(field: str, parse: Parser, convert: Callable[[Any], Any]) -> Verb:
    return Verb(partial(_read_setting, field), parse, partial(_set, field, convert))


# --- looking ----------------------------------------------------------------------------------


def _read_status(entry: Entry) -> bytes:
    state: dict[str, Any] = {
        "oid": entry.oid,
        "uid": entry.owner.uid,
        "busy": entry.busy,
        "members": entry.partition.members(),
        "newest": entry.newest(),
        "durable": entry.store.durable(entry.oid),
        "last_error": entry.last_error,
        "settings": msgspec.to_builtins(entry.settings),
    }
    return to_json(msgspec.to_builtins(entry.partition.status()) | state)


def _read_statistics(entry: Entry) -> bytes:
    return to_json(msgspec.to_builtins(entry.partition.statistics()))


def _read_timeline(entry: Entry) -> bytes:
    return msgspec.json.encode(entry.partition.timeline()) + b"\n"


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
    File.RETAIN: Verb(_read_retention, protocol.parse_retain, _retain),
    File.STATUS: Verb(_read_status),
    File.STATS: Verb(_read_statistics),
    File.TRACE: Verb(_read_timeline),
    File.LOG: Verb(_read_log),
}
