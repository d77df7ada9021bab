"""A sink's work on its partitions: reads, cuts, claims, puts, commits. Durable first, commit last.

Per partition one open stretch, and at most `flight.FLIGHTS_MAX` that it has cut before, on their way into objects while
the next records are read. Order: the claim, then its objects, then the commit of its end, then the next claim. A crash
leaves at most one unfinished claim, which whoever takes the partition next finishes; what was held without a claim is
read again. A stop lets what is in flight land, and leaves a claim only where the store is unavailable.
Event-loop only; decoding, sorting and hashing run in threads.
"""

import asyncio
import random

import structlog

from cutbank.clock import Clock
from cutbank.errors import CutbankError, PositionLost
from cutbank.metrics import Metrics
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.budget import Budget, Holder
from cutbank.pipeline.sinking.chain import Chain
from cutbank.pipeline.sinking.claims import ChainId, Claim
from cutbank.pipeline.sinking.config import SinkConfig
from cutbank.pipeline.sinking.flight import Flights
from cutbank.pipeline.sinking.gauges import Gauges
from cutbank.pipeline.sinking.layout import names_check
from cutbank.pipeline.sinking.outage import StoreWatch
from cutbank.pipeline.sinking.patience import Interrupted, Patience, unless
from cutbank.pipeline.sinking.reading import IN_THREAD_RECORDS, Reader
from cutbank.pipeline.sinking.resume import Resumption, place_after
from cutbank.pipeline.sinking.stretch import Place, Stretch
from cutbank.records import Batch, Position
from cutbank.transports.base import Lease, Transport

log = structlog.get_logger(__name__)

WAIT_S_MAX = 1.0
"""Longest wait for records in one read, seconds."""

QUIET_COMMIT_S = 5.0
"""A partition that brings nothing to keep commits its reading position at most this often, seconds."""


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
        watch: StoreWatch | None = None,
    ) -> None:
        self._watch = watch or StoreWatch(clock=clock, metrics=metrics)
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
        names_check(chain_id, config.layout, key_bytes_max=self._store.key_bytes_max)
        patience = Patience(clock=self._clock, rng=self._rng, metrics=self._metrics, stop=stop, watch=self._watch)
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
            gauges = Gauges(lease, clock=self._clock, metrics=self._metrics)
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
    """One partition: reads and cuts, while what it has cut is on its way (see `flight`).

    Until stopped, again and again the first of these that applies:

    1. A flight failed: what it raised ends the work. Somebody else's claim counts: what is in flight, open or read is
       dropped, that claim is finished, and reading goes on at its end.
    2. The open stretch is full, squeezed or due: it departs, once there is room for one more flight.
    3. Read, as soon as the budget has room; a squeeze, trouble in flight and a stop end the waiting, not a read that
       was done. While many records are taken, the next are read, so that neither waits for the other.
    """

    def __init__(
        self,
        chain: Chain,
        resumption: Resumption,
        reader: Reader,
        config: SinkConfig,
        budget: Budget,
        holder: Holder,
        gauges: Gauges,
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
        self._flights = Flights(chain=chain, reader=reader, budget=budget, gauges=gauges, commit=self._commit)
        self._quiet = False
        self._committed = Position(0)
        self._committed_s = 0.0
        self._stretch: Stretch
        self._rest: tuple[Batch, int] | None = None
        """What the open stretch has no place for: it is full."""
        self._next: Batch | None = None
        """What was read while the batch before it was taken."""

    async def run(self) -> None:
        """Until stopped."""
        place = await self._resumption.resume()
        self._begin(place)
        self._committed, self._committed_s = place.reading, self._clock.monotonic_s()
        try:
            while not self._stop.is_set():
                await self._step()
            await self._land(cut=self._config.flush_on_stop)
        finally:
            await self._flights.drop()

    async def _step(self) -> None:
        theirs = self._flights.settle()
        if theirs is not None:
            await self._yield_to(theirs)
        elif self._ends():
            await self._depart_or_wait()
        else:
            self._holder.squeezed.clear()
            try:
                await self._read()
            except Interrupted:
                return
            except PositionLost:
                # What is held may be past retention too: this is the last chance to keep it.
                await self._land(cut=True)
                if self._flights.settle() is None:
                    raise

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
        self._rest = None

    def _ends(self) -> bool:
        """Whether the open stretch is to depart."""
        if not self._stretch.count:
            return False
        due = self._stretch.due(self._reader.broker_ms(), quiet=self._quiet, grace_ms=self._config.grace_ms)
        return due or self._rest is not None or self._holder.squeezed.is_set()

    async def _read(self) -> None:
        """Take the next records. Raises Interrupted, PositionLost, Fenced, StreamUnavailable."""
        batch, self._next = self._next, None
        if batch is None:
            batch = await self._receive()
        self._quiet = not len(batch)
        if len(batch) < IN_THREAD_RECORDS:
            await self._take(batch, 0)
        else:
            ahead = asyncio.create_task(self._read_ahead(), name=f"read ahead {self._lease.partition}")
            try:
                await self._take(batch, 0)
                self._next = await ahead
            finally:
                ahead.cancel()
                await asyncio.wait({ahead})
        await self._gauges.tell(batch)
        await self._commit_quiet()

    async def _receive(self) -> Batch:
        """The next records, once there is room for them."""
        trouble = self._flights.trouble
        await unless(self._budget.room(), self._stop, self._holder.squeezed, trouble)
        wait_s = WAIT_S_MAX
        if self._stretch.count:
            left_ms = self._stretch.deadline_ms(grace_ms=self._config.grace_ms) - self._reader.broker_ms()
            # A millisecond more, since broker time is in whole ones: else the last wait would end just before.
            wait_s = min(WAIT_S_MAX, max(0.0, (left_ms + 1) / 1000.0))
        return await self._reader.receive(self._holder.squeezed, trouble, wait_s=wait_s)

    async def _read_ahead(self) -> Batch | None:
        """What lies there now, if there is room for it; whatever is wrong, the next read meets it again."""
        if not self._budget.has_room:
            return None
        try:
            batch = await self._reader.receive(self._holder.squeezed, self._flights.trouble, wait_s=0.0)
        except CutbankError:
            return None
        # An empty one that went on, past a transaction's markers, is no less read: dropping it would leave a hole.
        return batch if len(batch) or batch.end > batch.start else None

    async def _take(self, batch: Batch, index: int) -> None:
        """Put a batch into the open stretch; what that has no place for waits for the next one."""
        index = await self._reader.take(self._stretch, batch, index)
        self._budget.hold(self._holder, self._stretch.held_bytes)
        self._rest = (batch, index) if index < len(batch) else None

    async def _depart_or_wait(self) -> None:
        """Send the open stretch off and begin the next one; where there is no room for it, wait and look again."""
        if self._flights.full:
            await self._flights.room()
            return
        place, rest = self._stretch.place, self._rest
        self._flights.depart(self._stretch, self._holder)
        self._holder.squeezed.clear()
        self._begin(place)
        if rest is not None:
            await self._take(*rest)

    async def _land(self, *, cut: bool) -> None:
        """Wait for what is in flight, and for all that was read if that is to be cut. Raises what a flight raises."""
        while cut and self._flights.settle() is None:
            if self._next is not None and self._rest is None:
                batch, self._next = self._next, None
                await self._take(batch, 0)
            elif self._stretch.count:
                await self._depart_or_wait()
            else:
                break
        await self._flights.land()
        # Somebody else's claim is left to whoever reads on: a stop does not wait for it.
        self._flights.settle()

    async def _yield_to(self, theirs: Claim) -> None:
        """Somebody else has continued the chain: finish what they claimed, and read on from its end."""
        await self._flights.drop()
        self._next = None
        self._budget.hold(self._holder, 0)
        self._begin(place_after(theirs))
        await self._resumption.finish(theirs)
        self._holder.squeezed.clear()
        await self._commit(theirs.end)
        self._lease.seek(theirs.end)

    async def _commit(self, position: Position) -> None:
        await self._lease.commit(position)
        self._committed, self._committed_s = position, self._clock.monotonic_s()

    async def _commit_quiet(self) -> None:
        """Show how far reading is where nothing was kept: it counts once the chain's end is no longer retained."""
        if self._stretch.count or len(self._flights) or self._stretch.end == self._committed:
            return
        if self._clock.monotonic_s() - self._committed_s >= QUIET_COMMIT_S:
            await self._commit(self._stretch.end)
