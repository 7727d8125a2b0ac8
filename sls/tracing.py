"""The daemon's side of a worker process: start it, ask it, commit what it captures, feed what it restores.

One thread per worker receives; captures are committed in it, in order, so that a delta always builds on what is in the
store. Requests come from any thread, one at a time.
"""

import errno
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from slos.errors import SlosError
from slos.store import Store, Transaction
from sls import syscalls
from sls.beginning import Beginning, write_object
from sls.channel import (
    BytesReady,
    BytesWanted,
    Captured,
    Channel,
    Exited,
    FromWorker,
    KeepRunning,
    Kept,
    Message,
    Parted,
    Ranges,
    RangesWanted,
    Rebase,
    Release,
    RestoreDone,
    Settled,
)
from sls.errors import (
    BaseDeletedError,
    NotKeptError,
    SlsError,
    TaskDiedError,
    WorkerEndedError,
    WorkerError,
    rebuilt,
)
from sls.filetree import FileTree, Gate
from sls.image import MANIFEST_OBJECT
from sls.ranges import page_numbers
from sls.syscalls import PAGE_BYTES
from sls.times import Checkpoint

_MOST_BUFFERS: Final = 4  # a worker has two
# Arrays of many lengths, made and dropped with each generation, leave gaps that malloc(3) keeps.
_GENERATIONS_TO_TIDY: Final = 500


class Committed(NamedTuple):
    """A capture that has become a generation."""

    epoch: int
    captured: Captured
    times: Checkpoint

    @property
    def total_ns(self) -> int:
        """From the start of the capture until the generation existed."""
        return self.times.committed_ns - self.times.started_ns


class Listener:
    """What the partition wants to hear of; called in the worker's receiving thread."""

    def committed(self, done: Committed) -> None:
        """A periodic capture became a generation."""

    def continues(self, period_ms: int) -> None:
        """Periodic captures come from now on; none with a period of 0."""

    def failed(self, reason: str, *, has_ended: bool) -> None:
        """A periodic capture was lost; `has_ended`: no more come."""

    def restored(self, pids: Sequence[int]) -> None:
        """Processes live again; what is told later of their ends is of these."""

    def exited(self, pid: int, status: int) -> None:
        """A restored process ended."""


class Tracing:
    """One worker process and the thread that listens to it."""

    def __init__(
        self, oid: int, store: Store, listener: Listener, files: FileTree | None = None
    ) -> None:
        self._oid = oid
        self._store = store
        self._listener = listener
        self._futures: dict[int, Future[Any]] = {}
        self._names: dict[int, str] = {}
        self._serial = 0
        self._last_sent = 0  # a request's serial; 0 for another message
        self._last: tuple[int, int] = (
            0,
            0,
        )  # serial and epoch of the newest generation made from a capture
        self._last_objects: set[int] = set()
        self._source_epoch = 0
        self._base_was_deleted = False
        self._base_lock = threading.Lock()  # guards these, from the look at the base to the commit
        self._send_lock = threading.Lock()
        self._beginning = Beginning(store, oid)
        self._buffers = _Buffers()
        self._is_closing = False
        self._has_ended = False
        ours, theirs = socket.socketpair()
        gate, their_gate = socket.socketpair(type=socket.SOCK_SEQPACKET)
        descriptors = [theirs.fileno(), their_gate.fileno()]
        self._process = _start_worker(descriptors)
        theirs.close()
        their_gate.close()
        self._files = files
        self._gate = Gate(files, gate) if files is not None else None
        if files is None:
            gate.close()
        self._channel: Channel[FromWorker] = Channel(ours, FromWorker)
        self._thread = threading.Thread(target=self._listen, name=f"partition-{oid}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The worker's."""
        return self._process.pid

    @property
    def has_files(self) -> bool:
        """Whether there is a file tree to be frozen with the members."""
        return self._files is not None and self._files.is_used

    @property
    def is_alive(self) -> bool:
        """Whether there is a worker to be asked: one that has ended is none, also before its end is heard of."""
        return not self._has_ended and self._process.poll() is None

    # --- requests ---

    def ask(
        self,
        make: Callable[[int], Message],
        *,
        descriptors: Sequence[int] = (),
        name: str = "",
        source_epoch: int = 0,
    ) -> Any:
        """Send the message made from a new serial and wait for its outcome; raises what the worker raised.

        WorkerEndedError when it ends before. `name`: of the generation that comes of it. `source_epoch`: the
        generation that a restore reads.
        """
        future: Future[Any] = Future()
        with self._send_lock:
            self._serial += 1
            serial = self._serial
            self._futures[serial] = future
            if name:
                self._names[serial] = name
            self._source_epoch = source_epoch
            self._last_sent = serial
            try:
                self._send(make(serial), descriptors)
            except WorkerEndedError:
                self._futures.pop(serial, None)
                raise
        return future.result()

    def tell(self, message: Message) -> None:
        """Send a message that has no outcome."""
        with self._send_lock:
            self._last_sent = 0
            self._send(message)

    def _send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        try:
            self._channel.send(message, descriptors)
        except OSError as error:
            self._has_ended = True
            raise WorkerEndedError(has_begun=False) from error

    def close(self) -> None:
        """Let every task go and end the worker. What is under way is finished first.

        The listener still hears of the end of a worker that had ended by itself.
        """
        self._is_closing = self.is_alive
        self._channel.shut()
        self._process.wait()
        self._thread.join()
        self._channel.close()
        if self._gate is not None:
            self._gate.close()

    # --- the receiving thread ---

    def _listen(self) -> None:
        unread = 0
        try:
            while True:
                message, descriptors = self._channel.receive()
                try:
                    self._take(message, descriptors)
                finally:
                    for fd in descriptors:
                        os.close(fd)
        except ConnectionResetError:
            # it ended without reading all: net/unix/af_unix.c, unix_release_sock
            unread = self._last_sent
        except (EOFError, OSError):
            pass  # the worker has ended
        finally:
            self._channel.shut_both()  # whatever happened: nobody waits for what does not come
            self._abandon(unread)

    def _abandon(self, unread: int) -> None:
        """Nothing more comes; the request of the serial `unread` has not even been read."""
        self._has_ended = True
        self._beginning.drop()
        self._buffers.forget()
        for serial, future in list(self._futures.items()):
            future.set_exception(WorkerEndedError(has_begun=serial != unread))
        self._futures.clear()
        if not self._is_closing:
            self._listener.failed(
                "the tracer process has ended; the members go on, the next checkpoint starts another",
                has_ended=True,
            )

    def _take(self, message: FromWorker, descriptors: Sequence[int]) -> None:
        if isinstance(message, Captured):
            self._commit(message, descriptors[0])
        elif isinstance(message, KeepRunning):
            self.tell_quietly(self._keep_running(message))
        elif isinstance(message, RangesWanted):
            self._reply_guarded(lambda: self._ranges(message))
        elif isinstance(message, BytesWanted):
            self._reply_guarded(lambda: self._bytes(message, descriptors[0]))
        elif isinstance(message, Exited):
            self._listener.exited(message.pid, message.status)
        elif isinstance(message, RestoreDone):
            self._listener.restored(message.pids)
            self._futures.pop(message.serial).set_result(message)
        elif isinstance(message, Settled):
            self._listener.continues(message.period_ms)
            self._futures.pop(message.serial).set_result(None)
        elif isinstance(message, Parted):
            self._futures.pop(message.serial).set_result(message)
        elif message.serial:
            self._beginning.drop()
            self._futures.pop(message.serial).set_exception(
                rebuilt(message.kind, message.text, message.errno)
            )
        else:
            self._beginning.drop()
            if message.kind != BaseDeletedError.__name__:
                self._listener.failed(message.text, has_ended=not message.goes_on)

    # --- commits ---

    def _commit(self, captured: Captured, buffer_fd: int) -> None:
        try:
            with self._base_lock:
                done = self._store_capture(captured, buffer_fd)
        except (SlosError, OSError, WorkerError, BaseDeletedError) as error:
            self._last = (0, 0)
            self._beginning.drop()
            self.tell_quietly(Release(serial=captured.serial, kept=False))
            future = self._futures.pop(captured.serial, None)
            if future is not None:
                future.set_exception(error)
            elif not isinstance(error, BaseDeletedError):
                self._listener.failed(str(error), has_ended=False)
            return
        self.tell_quietly(Release(serial=captured.serial, kept=True, with_files=self.has_files))
        future = self._futures.pop(captured.serial, None)
        if future is not None:
            future.set_result(done)
        else:
            self._listener.committed(done)
        if done.epoch % _GENERATIONS_TO_TIDY == 0:
            syscalls.give_back_memory()

    def tell_quietly(self, message: Message) -> None:
        """Send to a worker that may have ended; the receiving thread will learn of that by itself."""
        try:
            self.tell(message)
        except WorkerError:
            return

    def _store_capture(self, captured: Captured, buffer_fd: int) -> Committed:
        received_ns = time.monotonic_ns()
        parent = self._parent(captured.base)
        files = self._gate.epoch(captured.serial) if self._gate is not None else 0
        view = self._buffers.view(buffer_fd)
        with self._beginning.take(captured, parent) as transaction:
            if parent is not None:
                self._drop_stale(transaction, captured)
            transaction.put(MANIFEST_OBJECT, captured.image)
            for one in captured.objects:
                write_object(transaction, one, view)
            name = self._names.pop(captured.serial, "")
            info = transaction.commit(
                wait=captured.is_last_word, name=name, note=_note(captured, files)
            )
        self._last = (captured.serial, info.epoch)
        self._last_objects = {one.object_id for one in captured.objects}
        self._base_was_deleted = False
        return Committed(info.epoch, captured, _times(info.epoch, captured, received_ns))

    def _parent(self, base: int) -> int | None:
        """The generation of the capture that another one builds on. Under the lock."""
        if not base:
            return None
        serial, parent = self._last
        if base != serial and self._base_was_deleted:
            raise BaseDeletedError
        if base != serial:
            raise WorkerError(
                "a delta lost its base, as the checkpoint before it failed; the next one is full"
            )
        return parent

    def _keep_running(self, wanted: KeepRunning) -> Kept:
        try:
            with self._base_lock:
                parent = self._parent(wanted.base)
            self._beginning.keep(wanted, parent)
        except (SlosError, SlsError, OSError) as error:
            self._beginning.drop()
            passed_on = isinstance(error, (TaskDiedError, BaseDeletedError))
            kind = type(error) if passed_on else NotKeptError
            return Kept(kind=kind.__name__, error=str(error), errno=error.errno or errno.EIO)
        return Kept()

    def delete_generation(self, epoch: int) -> None:
        """Delete a generation; a delta that would build on it is full instead. Raises SlosError."""
        with self._base_lock:
            self._store.delete_generation(self._oid, epoch)
            if epoch != self._last[1]:
                return
            self._last = (0, 0)
            self._base_was_deleted = True
        self.tell_quietly(Rebase())

    def _drop_stale(self, transaction: Transaction, captured: Captured) -> None:
        """Remove the objects of the generation before that this capture no longer has: of processes that ended."""
        for object_id in self._last_objects - {one.object_id for one in captured.objects}:
            transaction.remove(object_id)

    # --- contents for a restore ---

    def _reply_guarded(self, work: Callable[[], Message]) -> None:
        try:
            answer = work()
        except (SlosError, OSError) as error:
            answer = BytesReady(error=str(error), errno=error.errno or errno.EIO)
        self.tell_quietly(answer)

    def _ranges(self, wanted: RangesWanted) -> Message:
        found = self._store.data_ranges(self._oid, self._source_epoch, wanted.object_id)
        return Ranges(ranges=tuple(found))

    def _bytes(self, wanted: BytesWanted, fd: int) -> Message:
        numbers = page_numbers(np.array(wanted.ranges, dtype=np.uint64).reshape(-1, 2))
        end = wanted.offset + len(numbers) * PAGE_BYTES
        pages = _mapped(fd, mmap.PROT_READ | mmap.PROT_WRITE)[wanted.offset : end]
        self._store.read_pages(self._oid, self._source_epoch, wanted.object_id, numbers, pages)
        return BytesReady()

    def kill(self) -> None:
        """End the worker at once, as a crash would; for tests."""
        self._process.send_signal(signal.SIGKILL)


def _start_worker(descriptors: Sequence[int]) -> "subprocess.Popen[bytes]":
    """The worker process. Each thread of it, a library's too, is born with SIGCHLD blocked.

    The tracer waits for that signal; a thread that does not block it would take it away.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "sls.worker", *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class CaptureNote(msgspec.Struct, frozen=True):
    """What a generation's `info` tells of its capture: a JSON object. Times in nanoseconds.

    `files`: the epoch of the file tree.
    """

    kind: str
    processes: int
    pages: int
    stop_ns: int
    stages_ns: dict[str, int]
    files: int = 0


class _Buffers:
    """The worker's copies, mapped for as long as it uses them: their pages in a new mapping cost faults each time."""

    def __init__(self) -> None:
        # by inode, which is nobody else's number while it is mapped
        self._views: dict[int, memoryview] = {}

    def view(self, fd: int) -> memoryview:
        """All of a buffer."""
        status = os.fstat(fd)
        known = self._views.get(status.st_ino)
        if known is None or len(known) < status.st_size:
            if len(self._views) >= _MOST_BUFFERS:
                self._views.clear()
            known = self._views[status.st_ino] = _mapped(fd, mmap.PROT_READ)
        return known

    def forget(self) -> None:
        """The worker has ended."""
        self._views.clear()


def _mapped(fd: int, protection: int) -> memoryview:
    """A worker's memory, for as long as anything refers to it.

    Not closed by name: while an error passes its frames refer to parts of it, and closing would
    raise another one.
    """
    return memoryview(mmap.mmap(fd, 0, mmap.MAP_SHARED, protection))


def _times(epoch: int, captured: Captured, received_ns: int) -> Checkpoint:
    return Checkpoint(
        epoch=epoch,
        kind=_kind(captured),
        started_ns=captured.started_ns,
        stop_ns=captured.stop_ns,
        stages_ns=captured.stages_ns,
        received_ns=received_ns,
        committed_ns=time.monotonic_ns(),
        processes=len(captured.pids),
        pages=captured.pages,
    )


def _kind(captured: Captured) -> str:
    return "delta" if captured.base else "full"


def _note(captured: Captured, files: int) -> bytes:
    return msgspec.json.encode(
        CaptureNote(
            kind=_kind(captured),
            processes=len(captured.pids),
            pages=captured.pages,
            stop_ns=captured.stop_ns,
            stages_ns=captured.stages_ns,
            files=files,
        )
    )
