"""Puts one partition's snapshots into the store, in the background, on a period.

Owns when a snapshot is due and that at most one is on its way. The caller freezes the model at a batch boundary, after
the commit, so a snapshot never holds what isn't committed. A put that fails is said and tried again a period later;
scoring never waits for it, except for the last one, whose time is bounded.
Event-loop only. The background task belongs to the keeper: `finish` or `abandon` ends it.
"""

import asyncio
import random
from collections.abc import Awaitable

import structlog

from cutbank.clock import Clock
from cutbank.errors import StoreUnavailable
from cutbank.metrics import Metrics
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.records import Partition, Position
from cutbank.retry import RetryPolicy, retrying

PUT = RetryPolicy(attempts_max=5, delay_s_first=0.1, delay_s_max=5.0)
"""Attempts at one snapshot, before it is left to the next period."""

log = structlog.get_logger(__name__)


class SnapshotKeeper:
    """One partition's snapshots, as long as it is live in this process."""

    def __init__(
        self,
        state: StateRoom,
        *,
        partition: Partition,
        run: int,
        kept_position: Position | None,
        unusable: frozenset[str],
        period_s: float,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self._state = state
        self._partition = partition
        self._run = run
        self._unusable = unusable
        self._period_s = period_s
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._task: asyncio.Task[None] | None = None
        self._kept = kept_position
        """Where the newest usable snapshot stands, or an empty model; None: nowhere that is known."""
        self._durable_s = clock.monotonic_s()
        # The first one comes early, by chance, so that partitions taken up together don't put together for ever.
        self._due_s = self._durable_s + period_s * rng.uniform(0.5, 1.0)

    def due(self, next_position: Position) -> bool:
        """Whether the model, now at this position, should be frozen and given to `put`."""
        self._metrics.set(
            "cutbank_snapshot_age_seconds", self._clock.monotonic_s() - self._durable_s, partition=str(self._partition)
        )
        return self.needed(next_position) and not self._busy() and self._clock.monotonic_s() >= self._due_s

    def put(self, next_position: Position, body: bytes) -> None:
        """Start to put it; returns at once. Raises what ended an earlier put for good (StoreRefused)."""
        assert not self._busy(), "at most one snapshot is on its way"
        self.check()
        self._due_s = self._clock.monotonic_s() + self._period_s
        self._task = asyncio.create_task(self._keep(next_position, body), name=f"snapshot {self._partition}")

    def check(self) -> None:
        """Raise what ended an earlier put for good."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            task.result()

    async def finish(self, *, within_s: float) -> None:
        """Wait for the one on its way, at most so long; one that is late is given up, with a warning."""
        if self._task is not None and not await _in_time(self._clock, self._task, within_s):
            log.warning("snapshot given up: the store is too slow", partition=str(self._partition), within_s=within_s)
            await self.abandon()
        self.check()

    async def abandon(self) -> None:
        """Cancel the one on its way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.exception()
            self._task = None

    def needed(self, next_position: Position) -> bool:
        """Whether the model at this position knows anything that no snapshot holds yet."""
        return next_position != self._kept

    def _busy(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _keep(self, next_position: Position, body: bytes) -> None:
        try:
            key = await retrying(
                lambda: self._state.create_snapshot(self._partition, self._run, next_position, body),
                policy=PUT,
                clock=self._clock,
                rng=self._rng,
                on_retry=lambda _error, _attempt: self._metrics.add("cutbank_retries_total", operation="snapshot"),
            )
            self._kept = next_position
            self._unusable -= {key}  # what could not be read there has been replaced
            self._durable_s = self._clock.monotonic_s()
            self._metrics.add("cutbank_snapshots_total")
            # Only now that the newer one is durable may older ones go.
            await self._state.prune(self._partition, self._run, unusable=self._unusable)
        except StoreUnavailable as error:
            log.warning("snapshot failed: tried again later", partition=str(self._partition), why=str(error))


async def _in_time(clock: Clock, task: "asyncio.Task[None]", within_s: float) -> bool:
    """Wait for a task, at most so long; whether it is done."""
    late: Awaitable[None] = clock.sleep(within_s)
    sleeping = asyncio.ensure_future(late)
    try:
        await asyncio.wait({task, sleeping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeping.cancel()
    return task.done()
