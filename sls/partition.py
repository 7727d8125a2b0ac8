"""A partition: processes that are kept together, their settings, and what happened to them.

Methods are synchronous and thread-safe: each takes its turn on the partition, except `members`, `status` and
`statistics`, which never wait. Live processes are touched only by the partition's worker process (`sls.tracing`).
"""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

from slos.errors import SlosError
from slos.store import Store
from sls import proc, syscalls
from sls.channel import (
    Continue,
    MemberId,
    Message,
    Part,
    RestoreDone,
    TakeCapture,
    TakeRestore,
)
from sls.errors import (
    BaseDeletedError,
    ImageError,
    PartitionStateError,
    TaskDiedError,
    WorkerEndedError,
)
from sls.filetree import FileTree, files_epoch, is_undo, undo_note
from sls.freeze import refuse_unfit
from sls.image import MANIFEST_OBJECT, Image, decode, encode
from sls.requests import (
    Backend,
    CheckpointOutcome,
    CheckpointRequest,
    Event,
    LastRestore,
    Mode,
    PartitionStatistics,
    PartitionStatus,
    RestoreOutcome,
    RestoreRequest,
    Settings,
)
from sls.times import Times, timeline
from sls.tracing import Committed, Listener, Tracing
from sls.worker import family

__all__ = [
    "Backend",
    "CheckpointOutcome",
    "CheckpointRequest",
    "Event",
    "Mode",
    "Partition",
    "PartitionStatistics",
    "PartitionStatus",
    "RestoreOutcome",
    "RestoreRequest",
    "Settings",
]

_KILL_WAIT_S: Final = 5.0

_NO_PROCESSES: Final = Image(time_ns=0, boot_id="", kernel="", processes=(), files=())

_members_lock = threading.Lock()
_holders: dict[
    MemberId, int
] = {}  # which partition a process belongs to, across all of this daemon


class Partition(Listener):
    """One partition of a store."""

    def __init__(
        self, oid: int, store: Store, settings: Settings, on_event: Callable[[Event], None]
    ) -> None:
        self.oid = oid
        self.settings = settings
        self.files: FileTree | None = None
        self._store = store
        self._on_event = on_event
        self._turn = threading.RLock()
        self._pinned: frozenset[int] = frozenset()
        self._retaining = threading.Lock()
        self._members: tuple[MemberId, ...] = ()
        self._tracing: Tracing | None = None
        self._work = ""  # what is under way, in a word
        self._is_continuous = False  # written by the thread that listens to the worker
        self._last_error = ""
        self._last_restore: LastRestore | None = None
        self._exits: dict[int, int] = {}
        self._times = Times(lambda epoch: store.durable_since_ns(oid, epoch))

    # --- members ---

    def attach(self, pids: Sequence[int]) -> None:
        """Take processes in, all or none. FreezeError, PartitionStateError (EBUSY: it belongs to a partition)."""
        with self._turn:
            new = [self._identify(pid) for pid in dict.fromkeys(pids)]
            with _members_lock:
                for member in new:
                    holder = _holder_of(member)
                    if holder is not None:
                        raise PartitionStateError(
                            f"pid {member.pid} is in partition {holder} already; detach it there first",
                            errno.EEXIST if holder == self.oid else errno.EBUSY,
                        )
                _holders.update(dict.fromkeys(new, self.oid))
            self._members += tuple(new)
            self._follow_members()

    def _identify(self, pid: int) -> MemberId:
        _refuse_own(pid)
        refuse_unfit(pid)
        return MemberId(pid, proc.stat(pid).start_time_ticks)

    def detach(self, pids: Sequence[int]) -> None:
        """Let processes go on without being kept. PartitionStateError (ESRCH) for one that is no member."""
        with self._turn:
            known = {member.pid: member for member in self._members}
            for pid in pids:
                if pid not in known:
                    raise PartitionStateError(
                        f"pid {pid} is not attached here; `cat attach` shows who is", errno.ESRCH
                    )
            self._set_members(member for member in self._members if member.pid not in pids)
            self._follow_members()

    def members(self) -> tuple[int, ...]:
        """The members that live, and their descendants."""
        return tuple(family(self._members))

    def _set_members(self, members: Any) -> None:
        kept = tuple(members)
        with _members_lock:
            for member in set(self._members) - set(kept):
                _holders.pop(member, None)
            _holders.update(dict.fromkeys(kept, self.oid))
        self._members = kept

    def _follow_members(self) -> None:
        """Tell a continuous worker who belongs to the partition now."""
        self._go_on(self.settings.period_ms if self._members else 0)

    def _live_members(self) -> tuple[MemberId, ...]:
        alive = tuple(member for member in self._members if _is_alive(member))
        if not alive:
            raise PartitionStateError(
                f"partition {self.oid} has no live member; write a pid to `attach` first",
                errno.ESRCH,
            )
        for member in alive:
            _refuse_own(member.pid)  # orphans go to whoever adopts them: it may have become one
        return alive

    # --- settings ---

    def configure(self, settings: Settings) -> None:
        """Change settings. A period of 0 ends continuous checkpoints; the next `checkpoint` starts them."""
        with self._turn:
            self.settings = settings
            self._go_on(settings.period_ms)

    def _go_on(self, period_ms: int) -> None:
        """On return a continuous worker goes by it, and what it captured before is a generation.

        Continuous checkpoints of one that has ended have ended with it, which is told.
        """
        if self._is_continuous and self._tracing is not None:
            with suppress(WorkerEndedError):
                self._tracing.ask(lambda serial: self._continuing(serial, period_ms))

    def _continuing(self, serial: int, period_ms: int) -> Continue:
        is_full = self.settings.mode is Mode.FULL
        return Continue(serial=serial, period_ms=period_ms, members=self._members, full=is_full)

    def continues(self, period_ms: int) -> None:
        self._is_continuous = period_ms > 0

    # --- checkpoints ---

    def checkpoint(self, request: CheckpointRequest) -> CheckpointOutcome:
        """Take a generation; it exists on return, durability is the store's to tell.

        With a period set it is also the first of continuous ones. Raises SlsError, SlosError; the members are unharmed.
        With `kill` they have ended when it returns, and what is outside waits for their return, as far as it can.
        """
        with self._turn, self._noting("checkpoint"):
            alive = self._live_members()
            if request.recursive:
                self._set_members(_identified(family(alive)))
                alive = self._members
            full = request.full or self.settings.mode is Mode.FULL
            if request.kill:
                self._go_on(0)
            self._work = "capturing"
            if self.files is not None:
                self.files.prepare()
            try:
                done = self._capture(alive, request, full=full)
            except BaseDeletedError:
                done = self._capture(alive, request, full=True)
            self.committed(done)
            if request.kill:
                self._await_end(done.captured.pids)
                self._set_members(())
            elif period_ms := self.settings.period_ms:
                self._ask(lambda serial: self._continuing(serial, period_ms), is_repeatable=True)
        return CheckpointOutcome(done.epoch, done.captured.stop_ns, done.total_ns)

    def _capture(
        self, members: tuple[MemberId, ...], request: CheckpointRequest, *, full: bool
    ) -> Committed:
        with_files = self.files is not None and self.files.is_used
        done: Committed = self._ask(
            lambda serial: TakeCapture(
                serial=serial,
                members=members,
                full=full,
                track=self.settings.mode is Mode.DELTA,
                with_files=with_files,
                kill=request.kill,
            ),
            is_repeatable=not request.kill,  # the members of a tracer that ends are unharmed
            name=request.name,
        )
        return done

    def committed(self, done: Committed) -> None:
        captured = done.captured
        self._times.add(done.times, captured.missed)
        self._let_go()
        text = (
            f"generation {done.epoch}: {len(captured.pids)} processes, {captured.pages} pages, "
            f"stopped for {captured.stop_ns / 1e6:.2f} ms"
        )
        self._tell("info", text, done.epoch)
        for loss in captured.losses:
            self._tell("info", f"generation {done.epoch}: {loss}")

    def pin(self, epochs: frozenset[int]) -> None:
        """These generations, and no others, are left alone by retention from the return on."""
        with self._retaining:
            self._pinned = epochs

    def delete_generation(self, epoch: int) -> None:
        """Delete a generation; a delta that would build on it is full instead. Waits for no capture. SlosError."""
        tracing = self._tracing
        if tracing is not None:
            tracing.delete_generation(epoch)
        else:
            self._store.delete_generation(self.oid, epoch)

    def _let_go(self) -> None:
        """Delete what the settings do not retain; named and pinned generations stay."""
        settings = self.settings
        if not settings.retain and not settings.thin:
            return
        with self._retaining:
            keep = {one.epoch for one in self._store.generations(self.oid) if one.name}
            keep |= self._pinned
            if settings.retain:
                self._store.retain(self.oid, settings.retain, keep)
            if settings.thin:
                self._store.thin(self.oid, settings.thin, keep)

    def failed(self, reason: str, *, has_ended: bool) -> None:
        self._times.fail()
        if has_ended:
            self._is_continuous = False
        self._fail(reason)

    # --- restores ---

    def restore(self, request: RestoreRequest) -> RestoreOutcome:
        """Bring a generation back; its processes are the members then. All or nothing.

        Raises RestoreConflictError (a pid in use: EEXIST), ImageError, PartitionStateError (ENOENT), SlosError.
        """
        with self._turn, self._noting("restore"):
            if request.clone:
                raise PartitionStateError(
                    "restoring a clone into a pid namespace of its own is not supported yet; restore without `clone`",
                    errno.EOPNOTSUPP,
                )
            epoch = self._chosen(request.generation)
            image = self._image(epoch)
            if not image.processes:
                return self._restore_files(epoch, image)
            if request.kill:
                self._part(epoch)
                self._kill_members()
            self._work = "restoring"
            start = time.monotonic_ns()
            with self._files_of(epoch, image):
                done = self._ask_restore(epoch, request)
            self._last_restore = LastRestore(
                epoch, done.pids, time.monotonic_ns() - start, done.stages_ns, done.notes
            )
            self._set_members(_identified(done.roots))
            self._tell("info", f"generation {epoch} restored: pids {' '.join(map(str, done.pids))}")
            for note in done.notes:
                self._tell("info", f"restore of generation {epoch}: {note}")
        return RestoreOutcome(epoch, done.pids)

    def _restore_files(self, epoch: int, image: Image) -> RestoreOutcome:
        """Undo what a restore did to the files; live members are left alone."""
        with self._files_of(epoch, image):
            self._tell("info", f"generation {epoch} restored: files alone")
        return RestoreOutcome(epoch, ())

    @contextmanager
    def _files_of(self, epoch: int, image: Image) -> Iterator[None]:
        """Roll the file tree back to a generation; forward again where the restore fails.

        What it was before stays as a generation of its own. Where a pid is in use, the restore will not
        succeed, and the tree is left alone.
        """
        wanted = files_epoch(self._store.generation(self.oid, epoch))
        if self.files is None or not (wanted or self.files.is_used):
            yield
            return
        if not all(proc.has_ended(one.pid) for one in image.processes):
            yield
            return
        before = self.files.freeze().epoch()
        if before == wanted:
            yield
            return
        undo = self._keep_files(before)
        try:
            self.files.roll_back(wanted)
        except SlosError:
            self._drop_files(undo)
            raise
        try:
            yield
        except BaseException:
            self.files.roll_back(before)
            self._drop_files(undo)
            raise
        if undo is not None:
            text = f"files as they were before are generation {undo}"
            self._tell("info", f"restore of generation {epoch}: {text}", undo)

    def _keep_files(self, epoch: int) -> int | None:
        """A generation of the file tree alone; none where a generation has that tree already."""
        if not epoch or any(files_epoch(one) == epoch for one in self._store.generations(self.oid)):
            return None
        with self._store.begin(self.oid) as transaction:
            transaction.put(MANIFEST_OBJECT, encode(_NO_PROCESSES))
            return transaction.commit(wait=False, note=undo_note(epoch)).epoch

    def _drop_files(self, undo: int | None) -> None:
        if undo is not None:
            self._store.delete_generation(self.oid, undo)

    def _ask_restore(self, epoch: int, request: RestoreRequest) -> RestoreDone:
        data = self._store.read(self.oid, epoch, MANIFEST_OBJECT)
        terminal = _terminal_of(request.terminal_pid)
        try:
            done: RestoreDone = self._ask(
                lambda serial: TakeRestore(
                    serial=serial,
                    image=data,
                    stopped=request.stopped,
                    uid=request.uid,
                    gid=request.gid,
                ),
                descriptors=terminal,
                source_epoch=epoch,
            )
        finally:
            for fd in terminal:
                os.close(fd)
        return done

    def _chosen(self, generation: int | None) -> int:
        kept = self._store.generations(self.oid)
        epochs = [one.epoch for one in kept]
        if not epochs:
            raise PartitionStateError(
                "there is no generation yet; touch `checkpoint` first", errno.ENOENT
            )
        if generation is None:
            return next((one.epoch for one in reversed(kept) if not is_undo(one)), epochs[-1])
        if generation not in epochs:
            raise PartitionStateError(
                f"there is no generation {generation}; `ls generations` shows which there are",
                errno.ENOENT,
            )
        return generation

    def _image(self, epoch: int) -> Image:
        image = decode(self._store.read(self.oid, epoch, MANIFEST_OBJECT))
        if not image.processes and not is_undo(self._store.generation(self.oid, epoch)):
            raise ImageError(f"generation {epoch} holds no process; choose another")
        return image

    def _kill_members(self) -> None:
        """SIGKILL the live members, and wait until their numbers are free or theirs to wait for alone.

        They are stopped first: a child that one makes meanwhile would escape, and keep its session's number in use.
        """
        doomed: list[int] = []
        while new := [pid for pid in family(self._members) if pid not in doomed]:
            doomed += new
            for pid in new:
                _signal(pid, signal.SIGSTOP)
        for pid in doomed:
            _signal(pid, signal.SIGKILL)
        self._await_end(doomed)

    def _part(self, epoch: int) -> None:
        """Have held up what is outside of the members, who come back from that generation."""
        if any(map(_is_alive, self._members)):
            image = self._store.read(self.oid, epoch, MANIFEST_OBJECT)
            self._ask(lambda serial: Part(serial=serial, image=image))

    def _await_end(self, pids: Sequence[int]) -> None:
        deadline = time.monotonic() + _KILL_WAIT_S
        while not all(map(proc.has_ended, pids)):
            if time.monotonic() > deadline:
                raise PartitionStateError(
                    "a member does not end; it sleeps uninterruptibly", errno.EBUSY
                )
            time.sleep(0.001)

    # --- the worker ---

    def _ask(
        self, make: Callable[[int], Message], *, is_repeatable: bool = False, **particulars: Any
    ) -> Any:
        """Ask the worker (`Tracing.ask`). One that has ended is followed by another, which is asked as well.

        Not where the first may have begun what is not `is_repeatable`: that raises WorkerEndedError.
        """
        try:
            return self._worker().ask(make, **particulars)
        except WorkerEndedError as error:
            if error.has_begun and not is_repeatable:
                raise
        return self._worker().ask(make, **particulars)

    def _worker(self) -> Tracing:
        if self._tracing is not None and not self._tracing.is_alive:
            self._tracing.close()
            self._tracing = None
        if self._tracing is None:
            self._tracing = Tracing(self.oid, self._store, self, self.files)
        return self._tracing

    def restored(self, pids: Sequence[int]) -> None:
        for pid in pids:
            self._exits.pop(pid, None)

    def exited(self, pid: int, status: int) -> None:
        self._exits[pid] = status
        self._tell("info", f"pid {pid} ended: {_end_in_words(status)}")

    def close(self) -> None:
        """Let every member go on by itself; what is under way is finished first."""
        with self._turn:
            if self._tracing is not None:
                self._go_on(0)
                self._tracing.close()
                self._tracing = None
            self._set_members(())

    # --- what to tell ---

    def status(self) -> PartitionStatus:
        """Now."""
        return PartitionStatus(
            state=self._work or ("continuous" if self._is_continuous else "idle"),
            members=self.members(),
            newest=self._store.newest(self.oid) or 0,
            last_error=self._last_error,
            last_restore=self._last_restore,
            exits=dict(self._exits),
        )

    def statistics(self) -> PartitionStatistics:
        """Counters and times since this partition was opened."""
        return self._times.statistics()

    def timeline(self) -> dict[str, Any]:
        """The stages of the last checkpoints, as a trace viewer reads them: JSON values."""
        return timeline(self.oid, self._times.last())

    def _noting(self, verb: str) -> "_Noting":
        return _Noting(self, verb)

    def rest(self) -> None:
        """What was under way has ended."""
        self._work = ""

    def refused(self, verb: str, error: BaseException) -> None:
        """A request ended with `error`: count and log it."""
        if verb == "checkpoint":
            self._times.fail()
        self._fail(f"{verb}: {error}")

    def _fail(self, reason: str) -> None:
        self._last_error = reason
        self._tell("error", reason)

    def _tell(self, level: str, text: str, epoch: int = 0) -> None:
        self._on_event(Event(time.time_ns(), level, text, epoch))


class _Noting:
    """Logs an error that leaves the block, and puts the state back."""

    def __init__(self, partition: Partition, verb: str) -> None:
        self._partition = partition
        self._verb = verb

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._partition.rest()
        if error is not None:
            self._partition.refused(self._verb, error)


def _refuse_own(pid: int) -> None:
    """PartitionStateError (EINVAL) for this process, its workers, and those whose descendants they are.

    Who is stopped by us must not be whom we wait for. Restored processes are children of a worker, never ours.
    """
    if pid == os.getpid() or _parent_of(pid) == os.getpid():
        raise PartitionStateError(
            f"pid {pid} is this filesystem's own; choose another", errno.EINVAL
        )
    if pid == 1 or pid in proc.ancestry(os.getpid()):
        raise PartitionStateError(
            f"pid {pid} has this filesystem's daemon among its descendants, which are members with it; "
            "attach a descendant of it",
            errno.EINVAL,
        )


def _parent_of(pid: int) -> int:
    try:
        return proc.stat(pid).ppid
    except TaskDiedError:
        return 0


def _holder_of(member: MemberId) -> int | None:
    """The partition of a process: its own, or that of the nearest ancestor that has one. Under the lock."""
    found = _holders.get(member)
    pid = member.pid
    while found is None and pid > 1:
        try:
            pid = proc.stat(pid).ppid
            found = (
                _holders.get(MemberId(pid, proc.stat(pid).start_time_ticks)) if pid > 1 else None
            )
        except TaskDiedError:
            break
    return found


def _identified(pids: Sequence[int]) -> tuple[MemberId, ...]:
    found = []
    for pid in pids:
        try:
            found.append(MemberId(pid, proc.stat(pid).start_time_ticks))
        except TaskDiedError:
            continue
    return tuple(found)


def _is_alive(member: MemberId) -> bool:
    try:
        stat = proc.stat(member.pid)
        return stat.start_time_ticks == member.start_time and (
            not stat.is_zombie or len(proc.entries(member.pid, "task")) > 1
        )
    except TaskDiedError:
        return False


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _terminal_of(pid: int) -> list[int]:
    """Duplicates of descriptors 0, 1, 2 of `pid`; none for 0."""
    if not pid:
        return []
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise PartitionStateError(
            f"pid {pid}, whose terminal was to be used, is gone", errno.ESRCH
        ) from error
    with ExitStack() as unwanted:  # those that were had before one that could not be
        found = []
        try:
            for fd in (0, 1, 2):
                found.append(syscalls.pidfd_getfd(pidfd, fd))
                unwanted.callback(os.close, found[-1])
        except OSError as error:
            raise PartitionStateError(
                f"descriptors of pid {pid} cannot be had: {error.strerror}", errno.EPERM
            ) from error
        finally:
            os.close(pidfd)
        unwanted.pop_all()
    return found


def _end_in_words(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"
