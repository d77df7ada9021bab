"""A lease of a log in memory: all that an owner does to its partition, checked against its epoch.

Invariant: no write of this lease happens after another member has taken the partition (of outputs: where the log is
atomic), because owner and epoch are checked in the same step. Everything that has an effect waits on the process's
clock first. One task uses a lease; the consumer may end it at any time from the same loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cutbank.clock import Clock
from cutbank.errors import Fenced
from cutbank.records import Batch, Partition, Position
from cutbank.testing.memory_broker import Broker
from cutbank.testing.memory_groups import Cursor, Place
from cutbank.transports.base import Output

T = TypeVar("T")


class MemoryLease:
    """The right to one partition in one epoch. Implements `transports.base.Lease`."""

    def __init__(
        self,
        broker: Broker,
        *,
        clock: Clock,
        group: str,
        member_id: str,
        place: Place,
        epoch: int,
        partition: Partition,
        give_back: Callable[["MemoryLease"], None],
        fenced: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._group = broker.group(group)
        self._give_back = give_back
        self._fenced = fenced
        self._partition = partition
        self._position: Position | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._why_over = ""
        self.member_id = member_id
        self.place = place
        self.epoch = epoch
        self.revoked_s: float | None = None
        """When it was asked for back, on the handle's monotonic clock."""
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

    def _owned(self) -> Cursor:
        return self._group.cursor_of(self.member_id, self.place, self.epoch, self._partition)

    async def _step(self, call: Callable[[], T]) -> T:
        """One atomic step at the broker."""
        self._check_not_over()
        await self._clock.sleep(0.0)
        try:
            return call()
        except Fenced as error:
            self.end(str(error))
            self._fenced()
            raise

    async def fence(self) -> Position | None:
        """Check the epoch, which the assignment itself raised, and read the committed position."""
        return await self._step(lambda: self._owned().committed)

    async def committed(self) -> Position | None:
        """The committed position, read now."""
        return await self._step(lambda: self._owned().committed)

    def seek(self, position: Position) -> None:
        """The next `receive` reads from here."""
        self._position = position

    async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        """Records from the reading position, as `transports.base.Lease.receive` says."""
        assert self._position is not None, "seek before receive"
        position = self._position
        deadline_s = self._clock.monotonic_s() + wait_s

        def look() -> Batch:
            self._owned()
            shelf = self._broker.shelf_at(self.place, self._partition)
            return shelf.read(position, records_max=records_max, bytes_max=bytes_max)

        while True:
            batch = await self._step(look)
            left_s = deadline_s - self._clock.monotonic_s()
            if len(batch) or left_s <= 0.0:
                if position == self._position:
                    self._position = batch.end
                return batch
            news = self._broker.shelf_at(self.place, self._partition).news()
            try:
                await first_of([news, self._over], clock=self._clock, delay_s=left_s)
            finally:
                news.cancel()

    async def lag(self) -> int:
        """Records at and after the reading position: their exact number, gaps or not."""
        await self._clock.sleep(0.0)
        shelf = self._broker.shelf_at(self.place, self._partition)
        return shelf.count_from(shelf.oldest if self._position is None else self._position)

    async def commit(self, next_position: Position) -> None:
        """Store the first position not yet processed."""
        await self._step(lambda: self._store(next_position))

    def _store(self, next_position: Position) -> None:
        self._owned().committed = next_position
        self._broker.tell_committed(self._group.name, self._partition, next_position)

    async def publish_and_commit(self, outputs: Sequence[Output], next_position: Position) -> None:
        """Outputs and position in one step; where the log is not atomic, the outputs first, unchecked."""

        def both() -> None:
            cursor = self._owned()
            parts = self._broker.addressed(outputs, source_id=self._partition.id)
            cursor.committed = next_position
            self._broker.appended(parts)
            self._broker.tell_committed(self._group.name, self._partition, next_position)

        if self._broker.settings.atomic:
            await self._step(both)
        else:
            await self._step(
                lambda: self._broker.appended(self._broker.addressed(outputs, source_id=self._partition.id))
            )
            await self._step(lambda: self._store(next_position))

    async def release(self) -> None:
        """Give the partition back; if that is cut short, the consumer does it with its next heartbeat."""
        was_over, self.released = self._over.done(), True
        self.end("released")
        if not was_over:
            await self._clock.sleep(0.0)
            self._give_back(self)


async def first_of(waits: Sequence[asyncio.Future[Any]], *, clock: Clock, delay_s: float) -> None:
    """Wait until one of the futures is done or the clock has let `delay_s` pass; what the clock raises is raised."""
    timer = asyncio.ensure_future(clock.sleep(delay_s))
    # A dead clock's error that nobody waits for any more is no news.
    timer.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.wait([timer, *waits], return_when=asyncio.FIRST_COMPLETED)
        if timer.done():
            timer.result()
    finally:
        timer.cancel()
