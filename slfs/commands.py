"""Carries commands out: in order, in worker threads, and for members after the reply.

The one place where a partition's blocking methods meet the event loop.
"""

import logging

import trio

from libsls.protocol import File, ProtocolError
from slfs import control
from slfs.access import Caller
from slfs.errors import EXPECTED_ERRORS
from slfs.registry import Entry
from slos.errors import SlosError

logger = logging.getLogger("slfs")

MAX_COMMANDS = 256  # commands under way at once, each a thread that mostly waits


class Commands:
    """Runs commands of all partitions; lives as long as the mount.

    The tasks of members' commands run in `nursery`, which the unmount waits for: what was accepted
    is carried out.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._limiter = trio.CapacityLimiter(MAX_COMMANDS)
        self._durability_watched: set[int] = set()

    async def execute(self, entry: Entry, file: File, data: bytes, caller: Caller) -> None:
        """One write to a control file: returns when the outcome is known.

        A writer that is a member gets its reply at once; the outcome is in the log.
        Raises whatever the command raises.
        """
        try:
            command = control.parse(file, data)
        except ProtocolError as error:
            entry.note_error(f"{file}: {error}", since=entry.events)
            raise
        if control.is_by_member(entry, caller):
            self._nursery.start_soon(self._perform_later, entry, caller, command)
        else:
            await self._perform(entry, caller, command)

    async def _perform_later(self, entry: Entry, caller: Caller, command: control.Command) -> None:
        try:
            await self._perform(entry, caller, command)
        except EXPECTED_ERRORS as error:
            logger.info("partition %d: %s: %s", entry.oid, command.file, error)

    async def _perform(self, entry: Entry, caller: Caller, command: control.Command) -> None:
        async with entry.turn:
            await trio.to_thread.run_sync(
                control.perform, entry, caller, command, limiter=self._limiter
            )

    async def wait_durable(self, entry: Entry) -> None:
        """Returns when all that was committed lasts; raises where some of it never will.

        The newest generation alone would not tell: one that was lost is no generation any more.
        """
        since = entry.events
        try:
            await trio.to_thread.run_sync(entry.store.sync, limiter=self._limiter)
        except SlosError as error:
            entry.note_error(f"durability: {error}", since=since)
            raise

    def watch_durability(self, entry: Entry) -> None:
        """Advance the partition's watches once more when what is there now is durable."""
        if entry.serial not in self._durability_watched:
            self._durability_watched.add(entry.serial)
            self._nursery.start_soon(self._follow_durability, entry)

    async def _follow_durability(self, entry: Entry) -> None:
        try:
            while not entry.is_deleted and entry.store.durable(entry.oid) < entry.newest():
                await self.wait_durable(entry)
                entry.epoch_watch.advance()
                entry.status_watch.advance()
        except EXPECTED_ERRORS as error:
            logger.info("partition %d: durability: %s", entry.oid, error)
        finally:
            self._durability_watched.discard(entry.serial)
