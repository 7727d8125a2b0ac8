"""The tracer process of one partition: `python -m sls.worker FD GATE_FD`.

One thread does it all, as ptrace demands; a second one only helps to copy (`sls.helper`). It is a process of its own,
so that nothing else holds its interpreter while a program stands still. It ends when its channel does; the kernel then
lets every task go. It adopts orphans of what it restored, so that their numbers become free at once.
"""

import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import cycle

from sls import proc, syscalls
from sls.capture import Capture, Tracer
from sls.channel import (
    BytesReady,
    BytesWanted,
    Captured,
    CapturedBytes,
    Channel,
    Continue,
    Exited,
    Failed,
    KeepRunning,
    Kept,
    MemberId,
    Part,
    Parted,
    Ranges,
    RangesWanted,
    Rebase,
    Release,
    RestoreDone,
    Settled,
    TakeCapture,
    TakeRestore,
    ToWorker,
)
from sls.errors import (
    BaseDeletedError,
    BusyResourceError,
    NotKeptError,
    SlsError,
    TaskDiedError,
    WorkerError,
    rebuilt,
)
from sls.filetree import SERIAL
from sls.freeze import let_go_strays
from sls.image import decode, encode
from sls.pages import CopyBuffer
from sls.ranges import RangeArray
from sls.ranges import Ranges as RangeList
from sls.resources import Loss, Parting, Writer
from sls.restore import part, restore
from sls.warm_up import AHEAD_NS, WarmUp

_PIECE_BYTES = 8 << 20
_BUFFERS = 2
_IDLE_S = 1.0
_NO_MORE = Continue(serial=0, period_ms=0, members=(), full=False)
_END_WAIT_S = 5.0
_PASSING = (
    NotKeptError,
    BaseDeletedError,
    BusyResourceError,
)  # one capture fails, the next may not
_BUSY_TRIES, _BUSY_WAIT_S = 100, 0.01


def family(members: Sequence[MemberId], read: proc.Read = proc.read) -> list[int]:
    """The members that still are who they were, and all their descendants; parents before children."""
    found: dict[int, None] = {}
    read = cache(read)  # of this one moment
    for member in members:
        try:
            if proc.start_time(member.pid, read) != member.start_time:
                continue
        except TaskDiedError:
            continue
        found[member.pid] = None
        found.update(dict.fromkeys(proc.descendants(member.pid, read)))
    return list(found)


def _when_idle(take: Callable[[], Capture]) -> Capture:
    """A capture that waits for what is busy; BusyResourceError when it does not end."""
    for _ in range(_BUSY_TRIES):
        with suppress(BusyResourceError):
            return take()
        time.sleep(_BUSY_WAIT_S)
    return take()


class ChannelContents:
    """Contents of a generation, asked for over the channel and handed over in shared memory."""

    def __init__(
        self, channel: "Channel[ToWorker]", receive: Callable[[], ToWorker], buffer: CopyBuffer
    ) -> None:
        self._channel = channel
        self._receive = receive
        self._buffer = buffer
        buffer.reserve(2 * _PIECE_BYTES)
        self._view = buffer.view(0, 2 * _PIECE_BYTES)

    def data_ranges(self, object_id: int) -> Sequence[tuple[int, int]]:
        self._channel.send(RangesWanted(object_id=object_id))
        answer = self._receive()
        if isinstance(answer, BytesReady):
            raise _content_error(answer)
        assert isinstance(answer, Ranges)
        return answer.ranges

    def copy_to(self, object_id: int, ranges: Sequence[tuple[int, int]], write: Writer) -> None:
        """Write what the daemon reads, piece by piece; it reads the next one meanwhile."""
        places = cycle((0, _PIECE_BYTES))
        asked: deque[tuple[int, list[tuple[int, int]]]] = deque()
        try:
            for piece in _pieces(ranges, _PIECE_BYTES):
                place = next(places)
                wanted = BytesWanted(object_id=object_id, ranges=tuple(piece), offset=place)
                self._channel.send(wanted, [self._buffer.fd])
                asked.append((place, piece))
                if len(asked) > 1:
                    self._write_next(asked, write)
            while asked:
                self._write_next(asked, write)
        finally:
            for (
                _
            ) in asked:  # where something went wrong, answers are on their way that nobody wants
                self._receive()

    def _write_next(self, asked: deque[tuple[int, list[tuple[int, int]]]], write: Writer) -> None:
        position, piece = asked.popleft()
        answer = self._receive()
        assert isinstance(answer, BytesReady)
        if answer.error:
            raise _content_error(answer)
        for start, end in piece:
            write(start, self._view[position : position + end - start])
            position += end - start

    def close(self) -> None:
        self._view.release()


def _content_error(answer: BytesReady) -> WorkerError:
    error = WorkerError(answer.error)
    error.errno = answer.errno
    return error


def _pieces(ranges: Iterable[tuple[int, int]], limit: int) -> Iterable[list[tuple[int, int]]]:
    """Ranges in groups of at most `limit` bytes; long ones are cut."""
    group: list[tuple[int, int]] = []
    room = limit
    for start, stop in ranges:
        position = start
        while position < stop:
            end = min(stop, position + room)
            group.append((position, end))
            room -= end - position
            position = end
            if not room:
                yield group
                group, room = [], limit
    if group:
        yield group


class Worker:
    """The loop: commands, periods, ended children."""

    def __init__(self, channel: "Channel[ToWorker]", gate: socket.socket) -> None:
        self._channel = channel
        self._gate = gate
        self._with_files = False
        self._tracer = Tracer()
        self._free = [CopyBuffer() for _ in range(_BUFFERS)]
        self._taken: dict[int, CopyBuffer] = {}
        self._last_serial = 0  # of the capture that the next delta builds on
        self._periodic_serial = 0
        self._continue = _NO_MORE
        self._due_ns = 0
        self._warm_up = WarmUp()
        self._is_warm = False  # for the capture that is due next
        self._missed = 0
        self._restored: dict[int, int] = {}  # root → pidfd
        self._deferred: deque[tuple[ToWorker, Sequence[int]]] = deque()
        self._parting: Parting | None = None  # since the members were ended, to come back

    def run(self) -> None:
        """Serve until the channel ends."""
        while True:
            self._wait()
            if self._readable():
                self._serve_one()
            self._reap()
            let_go_strays()
            if self._continue.period_ms and time.monotonic_ns() >= self._due_ns:
                self._capture_due()
            elif self._is_warm_up_due():
                self._is_warm = True
                if self._free and self._warm_up.is_worth_it(self._continue.period_ms):
                    self._warm_up.run(self._tracer)

    # --- waiting ---

    def _wait(self) -> None:
        if self._deferred:
            return
        timeout_s = _IDLE_S
        if self._continue.period_ms:
            due_ns = self._due_ns if self._is_warm else self._due_ns - AHEAD_NS
            timeout_s = min(timeout_s, max(0, due_ns - time.monotonic_ns()) / 1e9)
        select.select([self._channel.fileno(), *self._restored.values()], [], [], timeout_s)

    def _is_warm_up_due(self) -> bool:
        if self._is_warm or not self._continue.period_ms:
            return False
        return time.monotonic_ns() >= self._due_ns - AHEAD_NS

    def _readable(self) -> bool:
        return bool(self._deferred) or bool(select.select([self._channel], [], [], 0)[0])

    def _reap(self) -> None:
        """Wait for ended children: restored roots, and orphans that came to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            pidfd = self._restored.pop(pid, None)
            if pidfd is not None:
                os.close(pidfd)
            self._channel.send(Exited(pid=pid, status=status))

    # --- commands ---

    def _serve_one(self) -> None:
        message, descriptors = (
            self._deferred.popleft() if self._deferred else self._channel.receive()
        )
        if isinstance(message, TakeCapture):
            self._with_files = message.with_files
            self._capture_as_told(message)
        elif isinstance(message, Part):
            self._part(message)
        elif isinstance(message, Continue):
            if not message.period_ms:
                self._end_continuous()
            self._continue = message
            self._due_ns = time.monotonic_ns() + message.period_ms * 10**6
            self._missed = 0
            self._channel.send(Settled(serial=message.serial, period_ms=message.period_ms))
        elif not self._serve_aside(message):
            assert isinstance(message, TakeRestore), "answers come only when they were asked for"
            self._restore(message, descriptors)

    def _serve_aside(self, message: ToWorker) -> bool:
        """Serve what may come at any time; whether it was that."""
        if isinstance(message, Release):
            self._release(message)
        elif isinstance(message, Rebase):
            self._forget()
        else:
            return False
        return True

    def _forget(self) -> None:
        """The next capture is full."""
        self._tracer.forget()
        self._last_serial = 0

    def _receive_answer(self) -> ToWorker:
        """The answer to what was just asked. A request that comes first waits for the capture under way."""
        while True:
            message, descriptors = self._channel.receive()
            if isinstance(message, (TakeCapture, Part, Continue, TakeRestore)):
                self._deferred.append((message, descriptors))
            elif not self._serve_aside(message):
                return message

    def _release(self, message: Release) -> None:
        self._with_files = message.with_files
        buffer = self._taken.pop(message.serial)
        buffer.clear(keep=self._continue.period_ms > 0)
        self._free.append(buffer)
        if not message.kept:
            self._forget()

    # --- captures ---

    def leave(self) -> None:
        """Take what stays in the members between captures out of them."""
        members = self._continue.members
        self._tracer.leave(lambda: family(members))
        self._warm_up.end()
        self._last_serial = 0

    def _end_continuous(self) -> None:
        self.leave()
        for buffer in self._free:
            buffer.clear()
        self._continue = _NO_MORE

    def _capture_due(self) -> None:
        period_ns = self._continue.period_ms * 10**6
        late = (time.monotonic_ns() - self._due_ns) // period_ns
        self._missed += late
        self._due_ns += (late + 1) * period_ns
        self._is_warm = False
        if not self._free:
            self._missed += 1
            return
        self._periodic_serial -= 1
        self._capture(
            self._periodic_serial,
            self._continue.members,
            full=self._continue.full,
            track=not self._continue.full,
        )

    def _capture(
        self,
        serial: int,
        members: Sequence[MemberId],
        *,
        full: bool,
        track: bool,
        parting: Parting | None = None,
    ) -> Capture | None:
        """None when it failed, which is told. With a `parting` the members stand still."""
        buffer = self._free_buffer()
        started_ns = time.monotonic_ns()
        try:
            take = partial(
                self._tracer.capture,
                lambda: family(members, proc.reread),
                full=full,
                track=track,
                stay=self._continue.period_ms > 0,
                buffer=buffer,
                at_rest=(lambda: self._freeze_files(serial)) if self._with_files else None,
                keep=partial(self._keep_running, serial, self._base(full=full)),
                parting=parting,
            )
            capture = take() if serial < 0 else _when_idle(take)
        except (SlsError, OSError) as error:
            goes_on = serial < 0 and isinstance(error, _PASSING)
            self._free.append(buffer)
            self._forget()
            if serial < 0 and not goes_on:
                self._end_continuous()
            self._fail(max(serial, 0), error, goes_on=goes_on)
            return None
        self._taken[serial] = buffer
        told = self._captured(serial, capture, started_ns, is_last_word=parting is not None)
        self._channel.send(told, [buffer.fd])
        self._last_serial = serial
        gc.collect(0)
        return capture

    def _base(self, *, full: bool) -> int:
        """Serial of the capture that the next one builds on; 0 for a full one."""
        return self._last_serial if not full and self._tracer.has_base else 0

    def _keep_running(
        self, serial: int, base: int, pid: int, object_id: int, ranges: RangeArray, gone: RangeList
    ) -> None:
        """Have the daemon copy memory of a running task straight into the generation, and wait until it has."""
        what = CapturedBytes(object_id, 0, ranges.tobytes(), _packed(gone))
        self._channel.send(KeepRunning(serial=serial, base=base, pid=pid, what=what))
        answer = self._receive_answer()
        assert isinstance(answer, Kept)
        if answer.error:
            raise rebuilt(answer.kind, answer.error, answer.errno)

    def _free_buffer(self) -> CopyBuffer:
        """A buffer that nobody uses; the daemon gives one back if it has to be waited for."""
        while not self._free:
            is_served = self._serve_aside(self._channel.receive()[0])
            assert is_served, "one request is made at a time"
        return self._free.pop()

    def _freeze_files(self, serial: int) -> None:
        """Have the daemon hold on to the file tree as it is now, and wait until it has."""
        self._gate.send(SERIAL.pack(serial))
        if not self._gate.recv(1):
            raise WorkerError("the filesystem has ended")

    def _captured(
        self, serial: int, capture: Capture, started_ns: int, *, is_last_word: bool
    ) -> Captured:
        return Captured(
            serial=serial,
            base=self._last_serial if capture.is_delta else 0,
            image=encode(capture.image),
            objects=tuple(
                CapturedBytes(one.object_id, one.offset, one.ranges.tobytes(), _packed(one.gone))
                for one in capture.objects
            ),
            pids=tuple(one.pid for one in capture.image.processes),
            losses=tuple(map(_in_words, capture.image.losses)),
            stop_ns=capture.stop_ns,
            stages_ns=capture.stages,
            pages=capture.pages,
            started_ns=started_ns,
            missed=self._missed,
            is_continued=capture.is_continued,
            is_last_word=is_last_word,
        )

    # --- the end of the members ---

    def _capture_as_told(self, message: TakeCapture) -> None:
        parting = Parting() if message.kill else None
        capture = self._capture(
            message.serial,
            message.members,
            full=message.full,
            track=message.track and not message.kill,
            parting=parting,
        )
        if parting is not None:
            is_over = capture is not None and self._end(message.serial, capture)
            self._begin_parting(parting if is_over else None)
            if capture is not None and is_over:
                parting.image_time_ns = capture.image.time_ns
                parting.seal()
            else:
                parting.close()

    def _end(self, serial: int, capture: Capture) -> bool:
        """End the members, who stand still, if their image is kept, and wait for it; else they go on."""
        pids = [one.pid for one in capture.image.processes]
        with capture.hold:
            is_kept = self._await_release(serial)
            if is_kept:
                for pid in pids:
                    _kill(pid)
        deadline = time.monotonic() + _END_WAIT_S
        while is_kept and not all(map(proc.has_ended, pids)) and time.monotonic() < deadline:
            time.sleep(0.001)
        return is_kept

    def _await_release(self, serial: int) -> bool:
        """Whether the capture became a generation."""
        while True:
            message, descriptors = self._channel.receive()
            if not self._serve_aside(message):
                self._deferred.append((message, descriptors))
            if isinstance(message, Release) and message.serial == serial:
                return message.kept

    def _part(self, message: Part) -> None:
        if self._parting is None:
            self._parting = Parting()
        try:
            part(decode(message.image), self._parting)
        except (SlsError, OSError) as error:
            self._fail(message.serial, error)
            return
        self._channel.send(Parted(serial=message.serial))

    def _begin_parting(self, parting: Parting | None) -> None:
        """One parting at a time: what an older one held up is let go."""
        if self._parting is not None:
            self._parting.close()
        self._parting = parting

    # --- restores ---

    def _restore(self, message: TakeRestore, terminal: Sequence[int]) -> None:
        buffer = self._free_buffer()  # its pages are there, which those of a new one are not
        contents = ChannelContents(self._channel, self._receive_answer, buffer)
        self._reap()  # an orphan of those that were killed keeps the number of its session in use
        try:
            done = restore(
                decode(message.image),
                contents,
                terminal=terminal,
                stopped=message.stopped,
                uid=message.uid,
                gid=message.gid,
                parting=self._parting,
            )
            self._parting = None  # the restore has ended it
        except (SlsError, OSError) as error:
            self._fail(message.serial, error)
            return
        finally:
            contents.close()
            buffer.clear()
            self._free.append(buffer)
            for fd in terminal:
                os.close(fd)
        for root in done.roots:
            self._watch(root)
        self._channel.send(
            RestoreDone(
                serial=message.serial,
                pids=done.pids,
                roots=done.roots,
                notes=tuple(map(_in_words, done.notes)),
                stages_ns=done.stages,
            )
        )

    def _watch(self, pid: int) -> None:
        try:
            self._restored[pid] = os.pidfd_open(pid)
        except ProcessLookupError:
            return  # it has ended and was waited for already

    def _fail(self, serial: int, error: SlsError | OSError, *, goes_on: bool = False) -> None:
        self._channel.send(
            Failed(
                serial=serial,
                kind=type(error).__name__,
                text=str(error),
                errno=error.errno or 5,
                goes_on=goes_on,
            )
        )


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _packed(ranges: Sequence[tuple[int, int]]) -> bytes:
    return array("Q", [address for pair in ranges for address in pair]).tobytes()


def _in_words(loss: Loss) -> str:
    return (
        f"pid {loss.pid}: {loss.resource}: {loss.detail}"
        if loss.pid
        else f"{loss.resource}: {loss.detail}"
    )


def _prepare_process() -> None:
    """Ignore the terminal's signals, adopt orphans, keep the garbage collector out of the stop window.

    Descriptors of all members may be held at once, so as many as can be had are allowed.
    """
    _allow_many_files()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    syscalls.become_tracer()
    syscalls.syscall("prctl", 36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    gc.disable()
    gc.freeze()


def _allow_many_files() -> None:
    """As many descriptors as the kernel allows anyone; without CAP_SYS_RESOURCE, as the mount's daemon was allowed."""
    most = proc.most_open_files()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except ValueError:  # Python's word for EPERM
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(fd: int, gate_fd: int) -> None:
    """Serve the channel on descriptor `fd`; `gate_fd` is asked for the file tree."""
    _prepare_process()
    channel: Channel[ToWorker] = Channel(socket.socket(fileno=fd), ToWorker)
    worker = Worker(channel, socket.socket(fileno=gate_fd))
    try:
        worker.run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        worker.leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
