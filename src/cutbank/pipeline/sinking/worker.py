"""A sink's work on its partitions: reads, cuts, claims, puts, commits. Durable first, commit last.

Per partition one task and one open stretch. Order: the claim, then its objects, then the commit of its end, then the
next stretch. A crash leaves at most one unfinished claim, which whoever takes the partition next finishes; what was
held without a claim is read again. A stop leaves a claim only where the store is unavailable.
Event-loop only; decoding, sorting and hashing run in threads.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from cutbank.clock import Clock
from cutbank.errors import CutbankError, PositionLost, StreamUnavailable
from cutbank.metrics import Metrics
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.budget import Budget, Holder
from cutbank.pipeline.sinking.chain import Chain
from cutbank.pipeline.sinking.claims import ChainId
from cutbank.pipeline.sinking.config import SinkConfig
from cutbank.pipeline.sinking.layout import names_check
from cutbank.pipeline.sinking.patience import Interrupted, Patience, unless
from cutbank.pipeline.sinking.reading import Reader
from cutbank.pipeline.sinking.resume import Place, Resumption, place_after
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Batch, Position
from cutbank.transports.base import Lease, Transport

log = structlog.get_logger(__name__)

WAIT_S_MAX = 1.0
"""Longest wait for records in one read, seconds."""

QUIET_COMMIT_S = 5.0
"""A partition that brings nothing to keep commits its reading position at most this often, seconds."""

LAG_S = 1.0
"""How often lag is asked for, seconds."""


class Sink:
    """What one process's partitions share. `work` is for `PartitionRunner`."""

    def __init__(
        self,
        transport: Transport,
        store: ObjectStore,
        config: SinkConfig,
        *,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self._transport = transport
        self._store = store
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._budget = Budget(bytes_max=config.held_bytes_max)

    @property
    def held_bytes(self) -> int:
        """Memory for records held now, all partitions together, bytes."""
        return self._budget.held_bytes

    async def work(self, lease: Lease, stop: asyncio.Event) -> None:
        """Sink one partition until `stop`. Raises PartitionStopped, Fenced, StoreRefused, passing faults of the log."""
        config = self._config.of(lease.partition.stream)
        chain_id = ChainId(config.pipeline, config.stream, lease.partition.id)
        names_check(chain_id, config.layout)
        patience = Patience(clock=self._clock, rng=self._rng, metrics=self._metrics, stop=stop)
        chain = Chain(self._store, chain_id, patience=patience, metrics=self._metrics)
        reader = Reader(
            lease,
            chain=chain_id,
            stop=stop,
            budget=self._budget,
            spec_hash=config.spec_hash,
            clock=self._clock,
            metrics=self._metrics,
            rng=self._rng,
        )
        with self._budget.holder() as holder:
            resumption = Resumption(
                transport=self._transport,
                chain=chain,
                config=config,
                reader=reader,
                budget=self._budget,
                holder=holder,
            )
            gauges = _Gauges(lease, clock=self._clock, metrics=self._metrics)
            worker = _Worker(chain, resumption, reader, config, self._budget, holder, gauges, self._clock, stop)
            telling = asyncio.create_task(gauges.keep_telling(), name=f"lag {lease.partition}")
            try:
                await worker.run()
            except Interrupted as error:
                log.info("sink stopped", chain=str(chain_id), why=str(error))
            finally:
                telling.cancel()
                await asyncio.wait({telling})
                gauges.clear()


class _Worker:
    """One partition."""

    def __init__(
        self,
        chain: Chain,
        resumption: Resumption,
        reader: Reader,
        config: SinkConfig,
        budget: Budget,
        holder: Holder,
        gauges: "_Gauges",
        clock: Clock,
        stop: asyncio.Event,
    ) -> None:
        self._chain = chain
        self._resumption = resumption
        self._reader = reader
        self._lease = reader.lease
        self._config = config
        self._budget = budget
        self._holder = holder
        self._gauges = gauges
        self._clock = clock
        self._stop = stop
        self._quiet = False
        self._committed = Position(0)
        self._committed_s = 0.0
        self._stretch: Stretch

    async def run(self) -> None:
        """Until stopped."""
        place = await self._resumption.resume()
        self._begin(place)
        self._committed, self._committed_s = place.reading, self._clock.monotonic_s()
        while not self._stop.is_set():
            if self._stretch.count and (self._holder.squeezed.is_set() or self._due()):
                await self._cut()
                continue
            self._holder.squeezed.clear()
            try:
                await unless(self._budget.room(), self._stop, self._holder.squeezed)
                batch = await self._receive()
            except Interrupted:
                continue
            except PositionLost:
                if self._stretch.count:
                    # What is held may be past retention too: this is the last chance to keep it.
                    await self._cut()
                raise
            await self._take(batch)
            await self._gauges.tell(batch)
            await self._commit_quiet()
        if self._config.flush_on_stop and self._stretch.count:
            await self._cut()

    def _begin(self, place: Place) -> None:
        self._stretch = Stretch(
            pipeline=self._chain.id.pipeline,
            layout=self._config.layout,
            start=place.start,
            reading=place.reading,
            marks=place.marks,
            minute_ms=place.minute_ms,
            bytes_max=self._config.stretch_bytes_max,
            records_max=self._config.stretch_records_max,
        )
        self._quiet = False

    def _due(self) -> bool:
        return self._stretch.due(self._reader.broker_ms(), quiet=self._quiet, grace_ms=self._config.grace_ms)

    async def _receive(self) -> Batch:
        wait_s = WAIT_S_MAX
        if self._stretch.count:
            left_ms = self._stretch.deadline_ms(grace_ms=self._config.grace_ms) - self._reader.broker_ms()
            # A millisecond more, since broker time is in whole ones: else the last wait would end just before.
            wait_s = min(WAIT_S_MAX, max(0.0, (left_ms + 1) / 1000.0))
        return await self._reader.receive(self._holder.squeezed, wait_s=wait_s)

    async def _take(self, batch: Batch) -> None:
        """Put a batch into stretches; those that fill up become objects on the way."""
        self._quiet = not len(batch)
        index = 0
        while True:
            index = await self._reader.take(self._stretch, batch, index)
            self._budget.hold(self._holder, self._stretch.held_bytes)
            if index == len(batch):
                return
            if not await self._cut():
                return  # somebody else's claim ended elsewhere: from there on it is read again

    async def _cut(self) -> bool:
        """End the stretch here; whether the claim that counts is the one that we wanted."""
        self._holder.busy = True
        try:
            with self._gauges.cutting(self._stretch.count):
                claim, bodies = await self._reader.claim(self._stretch)
                counts = await self._chain.append(claim)
                ours = counts == claim
                if ours:
                    await self._chain.put(claim, bodies)
                del bodies
            self._begin(place_after(counts))
            self._budget.hold(self._holder, 0)
            if not ours:
                await self._resumption.finish(counts)
        finally:
            self._holder.squeezed.clear()
            self._holder.busy = False
        # Last: a crash above finds the claim and finishes it; a lost commit repeats nothing, the chain is looked up.
        await self._commit(counts.end)
        if not ours:
            self._lease.seek(counts.end)
        return ours

    async def _commit(self, position: Position) -> None:
        await self._lease.commit(position)
        self._committed, self._committed_s = position, self._clock.monotonic_s()

    async def _commit_quiet(self) -> None:
        """Show how far reading is where nothing was kept: it counts once the chain's end is no longer retained."""
        if self._stretch.count or self._stretch.end == self._committed:
            return
        if self._clock.monotonic_s() - self._committed_s >= QUIET_COMMIT_S:
            await self._commit(self._stretch.end)


class _Gauges:
    """One partition's lag: what is unread, and what a stretch holds that is on its way into objects.

    Told after each batch, and beside the worker where that hangs, in a put or waiting for room.
    """

    def __init__(self, lease: Lease, *, clock: Clock, metrics: Metrics) -> None:
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._told_s: float | None = None
        self._newest_ms: int | None = None
        self._cutting = 0

    async def tell(self, batch: Batch) -> None:
        """After each batch; asks the log at most every `LAG_S`."""
        if not len(batch):
            self._set(0)
            return
        self._newest_ms = batch.arrivals_ms[-1]
        if self._told_s is None or self._clock.monotonic_s() - self._told_s >= LAG_S:
            with suppress(StreamUnavailable):  # A figure is not worth what is held.
                self._set(await self._lease.lag())

    async def keep_telling(self) -> None:
        """Once a batch was taken: whenever the worker has told nothing for `LAG_S`."""
        while True:
            await self._clock.sleep(LAG_S)
            if self._told_s is None or self._clock.monotonic_s() - self._told_s < LAG_S:
                continue
            with suppress(CutbankError):  # the worker meets it too
                self._set(await self._lease.lag() + self._cutting)

    @contextmanager
    def cutting(self, records: int) -> Iterator[None]:
        """As long as these records are on their way into objects."""
        self._cutting = records
        try:
            yield
        finally:
            self._cutting = 0

    def clear(self) -> None:
        """The partition is somebody else's to report now."""
        self._newest_ms = None
        self._set(0)

    def _set(self, records: int) -> None:
        self._told_s = self._clock.monotonic_s()
        age_s = 0.0
        if records and self._newest_ms is not None:
            age_s = max(0.0, (self._clock.now_ms() - self._newest_ms) / 1000.0)
        partition = str(self._lease.partition)
        self._metrics.set("cutbank_lag_records", records, role="sink", partition=partition)
        self._metrics.set("cutbank_lag_seconds", age_s, role="sink", partition=partition)
