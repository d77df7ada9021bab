"""A lease of the embedded log: all that an owner does to its partition, checked against its epoch.

Invariant: no write of this lease happens after another member has taken the partition, because owner and epoch are
checked in the same transaction. One task uses a lease; the consumer may end it at any time from the same loop.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from cutbank.errors import Fenced
from cutbank.records import Batch, Partition, Position
from cutbank.transports.base import Output
from cutbank.transports.local import groups, records, streams
from cutbank.transports.local.engine import Engine

T = TypeVar("T")


class LocalLease:
    """The right to one partition in one epoch. Implements `transports.base.Lease`."""

    def __init__(
        self,
        engine: Engine,
        *,
        group: str,
        member_id: str,
        row_id: int,
        epoch: int,
        partition: Partition,
        give_back: Callable[["LocalLease"], Awaitable[None]],
        fenced: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._group = group
        self._give_back = give_back
        self._fenced = fenced
        self._partition = partition
        self._position: Position | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._why_over = ""
        self.member_id = member_id
        self.row_id = row_id
        self.epoch = epoch
        self.revoked_s: float | None = None
        """When the consumer asked for it back, on the monotonic clock."""
        self.released = False

    @property
    def partition(self) -> Partition:
        """The partition that this is a lease of."""
        return self._partition

    @property
    def over(self) -> bool:
        """Whether it has ended: released, lost or left."""
        return self._over.done()

    def end(self, why: str) -> None:
        """Refuse everything from now on and wake a waiting `receive`. Idempotent; for the consumer."""
        if not self._over.done():
            self._why_over = why
            self._over.set_result(None)

    def _check_not_over(self) -> None:
        if self._over.done():
            raise Fenced(f"{self._partition}: {self._why_over}")

    def _check_owner(self, db: sqlite3.Connection) -> Position | None:
        return groups.check_owner(
            db, self._group, self.member_id, row_id=self.row_id, epoch=self.epoch, partition=self._partition
        )

    async def _checked(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except Fenced as error:
            self.end(str(error))
            self._fenced()
            raise

    async def fence(self) -> Position | None:
        """Wait until every earlier write of this process is done, check the epoch, read the committed position.

        Taking the partition raised its epoch, so earlier owners were cut off by the assignment itself.
        """
        self._check_not_over()
        return await self._checked(self._engine.write(self._check_owner))

    async def committed(self) -> Position | None:
        """The committed position, read now."""
        self._check_not_over()
        return await self._checked(self._engine.read(self._check_owner))

    def seek(self, position: Position) -> None:
        """The next `receive` reads from here."""
        self._position = position

    async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        """Records from the reading position, as `transports.base.Lease.receive` says."""
        self._check_not_over()
        assert self._position is not None, "seek before receive"
        position = self._position
        clock = self._engine.clock
        deadline_s = clock.monotonic_s() + wait_s

        def look(db: sqlite3.Connection) -> tuple[Batch, int]:
            self._check_owner(db)
            place = streams.place_by_row(db, self.row_id, self._partition)
            batch = records.read(db, self._partition, place, position, records_max=records_max, bytes_max=bytes_max)
            return batch, place.next_position

        while True:
            batch, end = await self._checked(self._engine.read(look))
            left_s = deadline_s - clock.monotonic_s()
            if len(batch) or left_s <= 0.0:
                if position == self._position:
                    self._position = batch.end
                return batch
            news = self._engine.changed(("partition", self.row_id), seen=end)
            try:
                await self._engine.wait([news, self._over], delay_s=left_s)
            finally:
                news.cancel()
            self._check_not_over()

    async def lag(self) -> int:
        """Records between the reading position and the end."""
        place = await self._engine.read(lambda db: streams.place_by_row(db, self.row_id, self._partition))
        return max(0, place.next_position - (place.oldest if self._position is None else self._position))

    async def commit(self, next_position: Position) -> None:
        """Store the first position not yet processed."""
        self._check_not_over()

        def body(db: sqlite3.Connection) -> None:
            self._check_owner(db)
            groups.store(db, self._group, self.row_id, next_position)

        await self._checked(self._engine.write(body))

    async def publish_and_commit(self, outputs: Sequence[Output], next_position: Position) -> None:
        """Outputs and position in one transaction."""
        self._check_not_over()

        def route(router: records.Router, db: sqlite3.Connection) -> records.Rows:
            return router.rows(db, router.addressed(db, outputs, source_id=self._partition.id))

        def commit(db: sqlite3.Connection) -> None:
            self._check_owner(db)
            groups.store(db, self._group, self.row_id, next_position)

        await self._checked(self._engine.append(route, commit))

    async def release(self) -> None:
        """Give the partition back; if the file is busy, the consumer does it a little later."""
        if self._over.done():
            self.released = True
            return
        self.end("released")
        self.released = True
        await self._give_back(self)
