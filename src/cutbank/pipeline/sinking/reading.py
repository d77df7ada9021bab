"""Reads a lease's records for the sink: with retries, ended by a stop, and heavy work off the loop.

Owns broker time: the newest arrival seen, plus the monotonic time since; it never goes back, and no machine's wall
clock enters. Event-loop only; one task a partition.
"""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from cutbank.clock import Clock
from cutbank.metrics import Metrics
from cutbank.pipeline.sinking.budget import Budget
from cutbank.pipeline.sinking.claims import ChainId, Claim
from cutbank.pipeline.sinking.layout import arrival_in_range
from cutbank.pipeline.sinking.patience import unless
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Batch
from cutbank.retry import RetryPolicy, retrying
from cutbank.transports.base import Lease

T = TypeVar("T")

log = structlog.get_logger(__name__)

RECEIVE = RetryPolicy()
"""The transport's reads; after the last failure the partition is taken up again from the start."""

RECEIVE_RECORDS_MAX = 16_384
"""Records asked for in one read."""

IN_THREAD_RECORDS = 256
"""From so many records on, a batch is decoded in a thread."""


class Reader:
    """What one partition's worker reads with."""

    def __init__(
        self,
        lease: Lease,
        *,
        chain: ChainId,
        stop: asyncio.Event,
        budget: Budget,
        spec_hash: str | None,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.lease = lease
        self._chain = chain
        self._stop = stop
        self._budget = budget
        self._spec_hash = spec_hash
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._said_others = False
        self._broker_ms = 0.0
        self._seen_s = clock.monotonic_s()

    def broker_ms(self) -> int:
        """Broker time now, at least, ms since the epoch; meaningless before the first record."""
        return int(self._broker_ms + (self._clock.monotonic_s() - self._seen_s) * 1000.0)

    async def receive(self, *events: asyncio.Event, wait_s: float) -> Batch:
        """The next records, a bounded number of bytes.

        Raises Interrupted when stopped or one of the events is set, PositionLost, Fenced, StreamUnavailable.
        """
        batch = await unless(
            retrying(
                lambda: self.lease.receive(
                    records_max=RECEIVE_RECORDS_MAX, bytes_max=self._budget.read_bytes, wait_s=wait_s
                ),
                policy=RECEIVE,
                clock=self._clock,
                rng=self._rng,
                on_retry=lambda _error, _attempt: self._metrics.add("cutbank_retries_total", operation="receive"),
            ),
            self._stop,
            *events,
        )
        if len(batch):
            now_ms = self.broker_ms()
            self._seen_s = self._clock.monotonic_s()
            self._broker_ms = float(max(now_ms, arrival_in_range(max(batch.arrivals_ms))))
        return batch

    async def take(self, stretch: Stretch, batch: Batch, index: int = 0) -> int:
        """`stretch.take`, in a thread where it is long; counts what it left out."""
        dropped, foreign, others = stretch.dropped, stretch.foreign, stretch.others
        broker_ms = self.broker_ms()
        if len(batch) - index < IN_THREAD_RECORDS:
            taken = stretch.take(batch, index, broker_ms=broker_ms)
        else:
            taken = await asyncio.to_thread(stretch.take, batch, index, broker_ms=broker_ms)
        if stretch.dropped > dropped:
            self._metrics.add("cutbank_repeats_dropped_total", stretch.dropped - dropped)
        if stretch.foreign > foreign:
            self._metrics.add("cutbank_record_errors_total", stretch.foreign - foreign, reason="foreign")
        if stretch.others > others:
            self._metrics.add("cutbank_others_left_out_total", stretch.others - others)
            if not self._said_others:
                self._said_others = True
                log.warning("anomalies of another pipeline are left to its own sink", chain=str(self._chain))
        return taken

    async def claim(self, stretch: Stretch) -> tuple[Claim, list[bytes]]:
        """`stretch.claim`, in a thread."""
        return await asyncio.to_thread(stretch.claim, self._chain, spec_hash=self._spec_hash)

    async def bodies_of(self, stretch: Stretch, claim: Claim) -> list[bytes] | None:
        """`stretch.bodies_of`, in a thread."""
        return await asyncio.to_thread(stretch.bodies_of, claim)

    async def unless_stopped(self, call: Coroutine[Any, Any, T]) -> T:
        """The call's result. Raises Interrupted when stopped first."""
        return await unless(call, self._stop)
