"""How far one partition is behind, as gauges: in records, and in seconds.

Owns the two lag gauges of a scorer's partition, from the moment that this process takes it up until it lets go of it,
and the tasks that keep them true: while it replays and while it is parked too. What was received and is not published
yet counts as behind, so a publish that hangs shows as a lag that grows, though everything has been read; what is only
learnt again does not. Event-loop only.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from cutbank.clock import Clock
from cutbank.errors import CutbankError
from cutbank.metrics import Metrics
from cutbank.records import Batch, Partition, Position
from cutbank.transports.base import Lease

ROLE = "scorer"

LAG_S = 1.0
"""Seconds between two looks at the lag."""


@dataclass(frozen=True, slots=True)
class _InHand:
    """A batch that was received and is not published yet."""

    end: Position
    records: int
    arrival_ms_first: int


class LagGauges:
    """The lag of one partition, as long as this process has its lease."""

    def __init__(self, partition: Partition, *, clock: Clock, metrics: Metrics) -> None:
        self._label = str(partition)
        self._clock = clock
        self._metrics = metrics
        # Bounded as what is received is: a batch each that was received and is scored, and the backlog's and the
        # step's pieces.
        self._in_hand: deque[_InHand] = deque()
        self._unread = 0
        self._known = False
        """Whether anything is known to tell of."""
        self._learnt_again = 0
        """Records between the reading position and the committed one: unread, and published long ago."""
        self._after_ms: int | None = None
        """What is unread arrived after this, as far as is known."""
        self.placed = asyncio.Event()
        """Set once the lease's reading position tells how far this partition has come."""

    def taken_up(self) -> None:
        """The reading position is the committed one now, so what is in hand will be read again."""
        if self._in_hand:
            self._after_ms = self._in_hand[0].arrival_ms_first
            self._unread += sum(batch.records for batch in self._in_hand)
            self._in_hand.clear()
        self._learnt_again = 0
        self.placed.set()

    def learning(self, start: Position, end: Position) -> None:
        """The reading position is `start`; all up to `end`, the committed position, is only learnt again."""
        self._learnt_again = max(0, end - start)

    def seen(self, batch: Batch) -> None:
        """Records of which none is in hand; what lies unread is newer."""
        if len(batch):
            self._after_ms = batch.arrivals_ms[-1]

    def received(self, batch: Batch) -> None:
        """Records are in hand, and no longer unread."""
        if len(batch):
            self._known = True
            self._in_hand.append(_InHand(batch.end, len(batch), batch.arrivals_ms[0]))
            self._unread = max(0, self._unread - len(batch))
            self.seen(batch)

    def published(self, end: Position) -> None:
        """All before this position is durable."""
        while self._in_hand and self._in_hand[0].end <= end:
            self._in_hand.popleft()

    def unread(self, records: int) -> None:
        """What the log has beyond the reading position."""
        self._known = True
        self._unread = max(0, records - self._learnt_again)
        if not self._unread or self._after_ms is None:
            # Whatever comes from now on is newer; of what nobody has seen a record of yet, time counts from here.
            self._after_ms = self._clock.now_ms()

    def tell(self) -> None:
        """Set both, as of now."""
        if not self._known:
            return
        records = self._unread + sum(batch.records for batch in self._in_hand)
        oldest_ms = self._in_hand[0].arrival_ms_first if self._in_hand else self._after_ms
        self._set(records, self._since_s(oldest_ms) if records and oldest_ms is not None else 0.0)

    def clear(self) -> None:
        """The partition is somebody else's to report."""
        self._set(0, 0.0)

    def _since_s(self, arrival_ms: int) -> float:
        return max(0.0, (self._clock.now_ms() - arrival_ms) / 1000.0)

    def _set(self, records: int, seconds: float) -> None:
        self._metrics.set("cutbank_lag_records", records, role=ROLE, partition=self._label)
        self._metrics.set("cutbank_lag_seconds", seconds, role=ROLE, partition=self._label)


@asynccontextmanager
async def gauging(lag: LagGauges, lease: Lease, *, clock: Clock) -> "AsyncIterator[set[asyncio.Task[None]]]":
    """Keep the gauges true meanwhile, by the tasks given. Raises what ended one of them, if nothing else did."""
    name = f"lag {lease.partition}"
    tasks = {
        asyncio.create_task(call, name=name) for call in (_keep_asking(lag, lease, clock), _keep_telling(lag, clock))
    }
    try:
        yield tasks
    finally:
        failed = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
    for task in failed:
        task.result()


async def _keep_asking(lag: LagGauges, lease: Lease, clock: Clock) -> None:
    """Ask the log now and then how much is unread, beside the steps, which wait for no such answer."""
    await lag.placed.wait()
    while True:
        with suppress(CutbankError):  # whoever reads and writes meets it too
            lag.unread(await lease.lag())
            lag.tell()
        await clock.sleep(LAG_S)


async def _keep_telling(lag: LagGauges, clock: Clock) -> None:
    """Let the gauges grow with time, also while everything else hangs."""
    while True:
        await clock.sleep(LAG_S)
        lag.tell()
