"""What every part of the embedded log shares: the threads with their connections, the watcher, reads and writes.

Invariant: all writes of this process pass through one thread, in the order in which they were asked for, so a fence
after a cancelled write sees what became of it. Event-loop side; nothing here blocks the loop.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cutbank.clock import Clock
from cutbank.errors import StreamUnavailable
from cutbank.transports.local import records
from cutbank.transports.local.database import Reader, Writer, translate
from cutbank.transports.local.settings import LocalSettings
from cutbank.transports.local.watch import Topic, Watcher
from cutbank.transports.local.workers import Worker

T = TypeVar("T")

READERS = 2
"""Threads that read: one may decode while the other waits for the disk."""

_STALE_TRIES = 3


class Engine:
    """One process's access to one file. `open` first, `close` last."""

    def __init__(self, path: Path, settings: LocalSettings, clock: Clock) -> None:
        self.path = path
        self.settings = settings
        self.clock = clock
        self._router = records.Router()
        self._writer = Worker(lambda: Writer(path, settings), name="cutbank-local-write")
        self._readers = [Worker(lambda: Reader(path, settings), name="cutbank-local-read") for _ in range(READERS)]
        self._turn = 0
        self._watcher: Watcher | None = None

    async def open(self) -> None:
        """Open the file, make it if need be. Raises UsageError, StreamUnavailable."""
        await self._writer.start()
        try:
            for reader in self._readers:
                await reader.start()
        except BaseException:
            await self._close_workers()
            raise
        self._watcher = Watcher(lambda: Reader(self.path, self.settings), poll_s=self.settings.poll_ms / 1000)

    async def close(self) -> None:
        """Let running work end, then close everything."""
        if self._watcher is not None:
            await self._watcher.close()
            self._watcher = None
            await self._close_workers()

    async def _close_workers(self) -> None:
        for reader in self._readers:
            await reader.stop()
        await self._writer.stop()

    async def read(self, body: Callable[[sqlite3.Connection], T]) -> T:
        """Run `body` in a read transaction. Raises StreamUnavailable, LogDamaged, what `body` raises."""
        self._turn = (self._turn + 1) % READERS
        return await self._readers[self._turn].run(lambda reader: reader.query(body))

    async def write(self, body: Callable[[sqlite3.Connection], T], *, urgent: bool = False) -> T:
        """Run `body` in a write transaction. Raises as `Writer.transact`."""
        return await self._writer.run(lambda writer: self._then(writer, writer.transact(body)), urgent=urgent)

    async def append(
        self,
        route: Callable[[records.Router, sqlite3.Connection], records.Rows],
        also: Callable[[sqlite3.Connection], None],
    ) -> None:
        """Route and append messages, and do `also` first, all in one transaction.

        Raises as `Writer.transact`, and StreamMissing, MessageTooLarge, what `also` raises (nothing done).
        """
        await self._writer.run(lambda writer: self._append(writer, route, also))

    def _then(self, writer: Writer, result: T) -> T:
        """On the writer's thread, after a commit: tell those who wait; the caller does not wait for a checkpoint."""
        if self._watcher is not None:
            self._watcher.nudge()
        if writer.checkpoint_due:
            self._writer.post(Writer.checkpoint)
        return result

    def _append(
        self,
        writer: Writer,
        route: Callable[[records.Router, sqlite3.Connection], records.Rows],
        also: Callable[[sqlite3.Connection], None],
    ) -> None:
        """On the writer's thread. Encodes before it takes the lock, so that the lock is held shortly."""
        for _ in range(_STALE_TRIES):
            try:
                rows = route(self._router, writer.db)
            except sqlite3.Error as error:
                raise translate(error, self.path) from error

            def body(db: sqlite3.Connection, rows: records.Rows = rows) -> None:
                also(db)
                records.append(db, rows, now_ms=self.clock.now_ms)

            try:
                self._then(writer, writer.transact(body, size_bytes=records.size_of(rows)))
                return
            except records.StaleLayout:
                self._router.forget()
        raise StreamUnavailable(f"{self.path}: a stream is being deleted and made again while it is written to")

    def changed(self, topic: Topic, *, seen: int | None) -> "asyncio.Future[None]":
        """A future that is done once the counter is not `seen`."""
        if self._watcher is None:
            raise RuntimeError("the transport is closed")
        return self._watcher.changed(topic, seen=seen)

    async def wait(self, futures: Sequence["asyncio.Future[Any]"], *, delay_s: float) -> None:
        """Until one of the futures is done or `delay_s` has passed on the clock."""
        sleeping = asyncio.ensure_future(self.clock.sleep(delay_s))
        try:
            await asyncio.wait({sleeping, *futures}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
