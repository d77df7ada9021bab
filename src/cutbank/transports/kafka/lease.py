"""A lease on Kafka: reading from one partition, and the fenced transactions of whoever owns it.

Owns the partition's transactional id for as long as it is the newest owner, the records fetched ahead, and the task of
the write that is under way.

Invariants: a write runs to its own end (its deadline bounds it) even if its caller is cancelled, and the next one waits
for that: no two writes of a lease overlap. A lease that has found itself fenced never fences again, so a zombie cannot
cut off the rightful owner. One task uses a lease; the consumer may end it at any time from the same loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from cutbank.errors import CutbankError, Fenced, StreamUnavailable
from cutbank.records import Batch, Partition, Position
from cutbank.transports.base import Output
from cutbank.transports.kafka import reading, transaction
from cutbank.transports.kafka.assignment import Place
from cutbank.transports.kafka.batches import Contents
from cutbank.transports.kafka.cluster import Cluster
from cutbank.transports.kafka.reading import Shelf
from cutbank.transports.kafka.routing import Router
from cutbank.transports.kafka.transaction import GroupPosition, Transactions

T = TypeVar("T")


ABANDONED_S = 6.0
"""What failed and was not tried again for so long counts no more, s: above the longest pause between two tries."""

FETCH_BYTES_MIN = 64 << 10
"""What a fetch asks for in any case, however many partitions share the limit of all."""


class Owner(Protocol):
    """What a lease needs of its consumer."""

    @property
    def held(self) -> int:
        """How many leases there are, this one included."""
        ...

    async def confirm(self, *, always: bool) -> None:
        """Make sure that the group still counts us in. Raises Fenced, StreamUnavailable."""
        ...


class KafkaLease:
    """The right to one partition. Implements `transports.base.Lease`."""

    def __init__(
        self,
        cluster: Cluster,
        owner: Owner,
        *,
        router: Router,
        group: str,
        place: Place,
        partition: Partition,
        give_back: Callable[["KafkaLease"], None],
        fenced: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._owner = owner
        self._router = router
        self._group = group
        self._partition = partition
        self._give_back = give_back
        self._fenced = fenced
        self._transactions = Transactions(cluster, f"{group}/{partition}")
        self._reads = cluster.new_line("fetch")
        self._topic_id: str | None = None
        """The topic as it was at the first fence; empty where the broker knows no ids."""
        self._position: Position | None = None
        self._shelf: Shelf | None = None
        self._fetching: tuple[Position, asyncio.Task[Contents]] | None = None
        self._writing: asyncio.Task[Any] | None = None
        self._failing: dict[str, tuple[float, float]] = {}
        """What failed last: since when its tries have had no answer, and when the newest of them ended."""
        self._trying: dict[str, int] = {}
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._why_over = ""
        self.place = place
        self.revoked_s: float | None = None
        """When the consumer asked for it back, on the monotonic clock."""
        self.released = False

    @property
    def partition(self) -> Partition:
        """The partition that this is a lease of."""
        return self._partition

    @property
    def over(self) -> bool:
        """Whether it has ended: fenced, released, lost or left."""
        return self._over.done()

    @property
    def failing(self) -> tuple[float, str] | None:
        """Since when, on the monotonic clock, nothing could be read or written, and what; None while all is well.

        What nobody has tried for ABANDONED_S is nobody's trouble.
        """
        now_s = self._cluster.clock.monotonic_s()
        return min(
            (
                (since_s, what)
                for what, (since_s, tried_s) in self._failing.items()
                if self._trying.get(what) or now_s - tried_s < ABANDONED_S
            ),
            default=None,
        )

    async def _noted(self, what: str, call: Awaitable[T]) -> T:
        """The call, with note taken of how long its like has got no answer; any other error is one."""
        began_s = self._cluster.clock.monotonic_s()
        self._trying[what] = self._trying.get(what, 0) + 1
        try:
            result = await call
        except StreamUnavailable:
            since_s, _ = self._failing.get(what, (began_s, 0.0))
            self._failing[what] = (since_s, self._cluster.clock.monotonic_s())
            raise
        except CutbankError:
            self._failing.pop(what, None)
            raise
        finally:
            self._trying[what] -= 1
        self._failing.pop(what, None)
        return result

    def end(self, why: str) -> None:
        """Refuse everything from now on and wake a waiting `receive`. Idempotent; for the consumer."""
        if not self._over.done():
            self._why_over = why
            self._over.set_result(None)

    async def close(self) -> None:
        """After `end`: wait for the write under way, then give the connections up."""
        if self._fetching is not None:
            self._fetching[1].cancel()
            await asyncio.wait({self._fetching[1]})
        if self._writing is not None:
            await asyncio.wait({self._writing})
        self._fetching = self._shelf = None
        self._transactions.close()
        self._cluster.drop(self._reads)

    def _check_not_over(self) -> None:
        if self._over.done():
            raise Fenced(f"{self._partition}: {self._why_over}")

    async def _checked(self, call: Coroutine[Any, Any, T]) -> T:
        """A call that may find out that this lease is over."""
        try:
            return await call
        except Fenced as error:
            self.end(str(error))
            self._fenced()
            raise

    async def _write(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run to its end, after the write before it, even if the caller is cancelled."""
        while self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})
        self._check_not_over()
        task = asyncio.get_running_loop().create_task(self._checked(call()), name=f"kafka write {self._partition}")
        # A caller that was cancelled asks no more; what the write came to is found out by a fence.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._writing = task
        return await self._noted("written", asyncio.shield(task))

    async def fence(self) -> Position | None:
        """Begin a new epoch of the partition's transactional id, then read the committed position.

        The first fence cuts off whoever came before, so the group is asked first whether it still counts us in. Every
        later one succeeds only if nobody else has fenced since.
        """
        await self._write(self._fence)
        return await self._checked(self._committed())

    async def _fence(self) -> None:
        if not self._transactions.begun:
            await self._owner.confirm(always=True)
        if self._topic_id is None:
            # Whoever checks the stream's identity does so after the fence: what is read is of that one or refused.
            self._topic_id = (await self._cluster.topic(self._partition.stream, fresh=True)).id
        await self._transactions.fence()

    async def _committed(self) -> Position | None:
        number = await self._cluster.number(self._partition)
        return await transaction.committed(
            self._cluster, self._group, self._partition.stream, number, line=self._transactions.line
        )

    async def committed(self) -> Position | None:
        """The committed position, read now."""
        self._check_not_over()
        await self._checked(self._owner.confirm(always=True))
        return await self._checked(self._committed())

    def seek(self, position: Position) -> None:
        """The next `receive` reads from here."""
        self._position = position
        if self._shelf is not None and self._shelf.position != position:
            self._shelf = None

    async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        """Records from the reading position, as `transports.base.Lease.receive` says."""
        assert self._position is not None, "seek before receive"
        try:
            return await self._receive(self._position, records_max=records_max, bytes_max=bytes_max, wait_s=wait_s)
        except Exception:
            # Nothing was given, so what lies half taken apart is fetched anew, and refused again if it is damaged.
            self._shelf = None
            raise

    async def _receive(self, position: Position, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        clock = self._cluster.clock
        deadline_s = clock.monotonic_s() + wait_s
        looked = position
        while True:
            self._check_not_over()
            await self._checked(self._owner.confirm(always=False))
            # It may have been closed meanwhile: a fetch begun now would be nobody's.
            self._check_not_over()
            shelf = self._shelf
            if shelf is None or shelf.position != looked or not shelf.any():
                # What is left on a shelf without a record are markers, and what was aborted.
                looked = looked if shelf is None or shelf.position != looked else shelf.next_fetch
                shelf = await self._refill(looked, wait_s=deadline_s - clock.monotonic_s())
            if shelf.any() or deadline_s <= clock.monotonic_s():
                batch = shelf.take(records_max=records_max, bytes_max=bytes_max)
                if self._position == position:
                    self._position = batch.end
                return replace(batch, start=position)
            looked = shelf.next_fetch

    async def _refill(self, position: Position, *, wait_s: float) -> Shelf:
        """Fetch from `position`; a fetch whose caller was cancelled goes on for the next one."""
        if self._fetching is not None and self._fetching[0] != position:
            self._fetching[1].cancel()
            self._fetching = None
            # The broker may hold that fetch back for a while yet, and the next one behind it.
            self._cluster.drop(self._reads)
        if self._fetching is None:
            wait_ms = min(self._cluster.settings.fetch_wait_ms, max(0, int(wait_s * 1000)))
            task = asyncio.get_running_loop().create_task(self._fetch(position, wait_ms))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._fetching = (position, task)
        _, task = self._fetching
        waits: list[asyncio.Future[Any]] = [task, self._over]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        self._check_not_over()
        self._fetching = None
        self._shelf = shelf = Shelf(self._partition, await task, start=position)
        return shelf

    async def _fetch(self, position: Position, wait_ms: int) -> Contents:
        cluster = self._cluster
        number = await cluster.number(self._partition)
        return await self._noted(
            "read",
            reading.fetch(
                cluster,
                self._partition,
                number,
                position,
                wait_ms=wait_ms,
                bytes_max=self._fetch_bytes(),
                patience=cluster.patience(cluster.settings.call_timeout_ms + wait_ms),
                line=self._reads,
                topic_id=self._topic_id or "",
            ),
        )

    def _fetch_bytes(self) -> int:
        settings = self._cluster.settings
        share = max(FETCH_BYTES_MIN, settings.fetches_bytes_max // max(1, self._owner.held))
        return min(settings.fetch_bytes_max, share)

    async def lag(self) -> int:
        """Records between the reading position and the end; exact where they are fetched already, else by positions."""
        number = await self._cluster.number(self._partition)
        end = await reading.offset_at(self._cluster, self._partition, number, reading.LATEST)
        if self._position is None:
            return max(0, end - await reading.offset_at(self._cluster, self._partition, number, reading.EARLIEST))
        shelf = self._shelf
        if shelf is not None and shelf.position == self._position:
            return shelf.records + max(0, end - shelf.next_fetch)
        return max(0, end - self._position)

    async def commit(self, next_position: Position) -> None:
        """Store the first position not yet processed."""
        await self.publish_and_commit((), next_position)

    async def publish_and_commit(self, outputs: Sequence[Output], next_position: Position) -> None:
        """Outputs and position in one transaction."""

        async def body() -> None:
            routed = await self._router.outputs(outputs, source_id=self._partition.id)
            number = await self._cluster.number(self._partition)
            position = GroupPosition(self._group, self._partition.stream, number, next_position)
            await self._transactions.commit(routed, position)

        self._check_not_over()
        await self._write(body)

    async def release(self) -> None:
        """Give the partition back once the write under way has ended."""
        first, self.released = not self.released, True
        self.end("released")
        try:
            if first:
                await self.close()
        finally:
            self._give_back(self)
