"""Where the model of a replay begins, and whether the live one began there too.

Owns that judgement: it reads births and snapshots of the live pipeline, changes nothing, and never calls a beginning
the live one's that it cannot show to be so. A run's model at a position is a function of the spec and of the records
from its birth on; so from the birth, or from any snapshot on the way, scores come out bit-identical.

Event-loop only; models are made in threads. Raises the transport's and the store's errors as they are.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

from cutbank.errors import ObjectMissing, PositionLost, SnapshotUnusable, StateLost
from cutbank.pipeline.scoring.model import DetectorSource, Emit, PartitionModel
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.scoring.state import Inventory, SnapshotEntry, StateRoom
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Partition, Position, position_text
from cutbank.transports.base import RECORD_BYTES_MAX, PartitionInfo, Start, StreamInfo, Transport

NO_LIVE_RUN = 0
"""The run that lines name whose model no live run had; live runs count from 1."""

COUNT_RECORDS_MAX = 10_000
"""Records in memory while those before a position are counted."""
COUNT_BYTES_MAX = 4 << 20

BACK_MS_FIRST = 1_000
"""How far back the first look for warm-up records goes, ms of arrival; each next one goes BACK_FACTOR times as far."""
BACK_FACTOR = 4


@dataclass(frozen=True, slots=True)
class Stretch:
    """The records of one partition that are to be scored: those from `first` up to, not including, `end`."""

    bounds: PartitionInfo
    first: Position
    """Of the first record; `end` where there is none."""
    end: Position

    @property
    def partition(self) -> Partition:
        """The partition."""
        return self.bounds.partition

    @property
    def empty(self) -> bool:
        """Whether it has no record."""
        return self.first >= self.end


@dataclass(frozen=True, slots=True)
class Live:
    """The live run that began where the replay does."""

    run: int
    end: Position | None
    """The first record that a later live run scored with another model; None: none of the stretch."""
    certain: bool
    """False: state was lost, so the run before may have spoken for some of the records."""
    snapshot: SnapshotEntry | None
    """Where the replay takes the model from; None: from the run's birth."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one partition's model begins."""

    run: Run
    start: Position
    """The first record that the model learns, where it begins empty; else the one after its snapshot."""
    birth: Position | None
    """Where the run began, if its records are all retained: the way out when a snapshot goes."""
    live: Live | None
    """None: the live model did not begin there."""
    why: str = ""
    """Without `live`: why not. For people."""
    short: int = 0
    """How many of the warm-up records wanted are not retained."""

    @property
    def mark(self) -> str:
        """The same for every way to the same model; another where scores or lines would differ."""
        return f"empty at {self.start}" if self.live is None else f"run {self.live.run}"

    def __str__(self) -> str:
        """For people: how it begins, and what that means."""
        if self.live is None:
            return f"begins with an empty model, not where the live one began: {self.why}"
        live = self.live
        place = "its birth" if live.snapshot is None else f"its snapshot at {position_text(live.snapshot.next)}"
        same = "scores are bit-identical to the live ones"
        if live.end is not None:
            same += f" up to {position_text(live.end)}, where another live run begins"
        if not live.certain:
            same += "; its state was lost before, so the run before may have scored some of these records"
        return f"begins where live run {live.run} did, from {place}: {same}"


async def stretches(transport: Transport, info: StreamInfo, start: Start, to_ms: int | None) -> tuple[Stretch, ...]:
    """What arrived from `start` on and before `to_ms`, of what was there when `info` was read; every partition."""
    found = []
    for bounds in info.partitions:
        end = bounds.end
        if to_ms is not None:
            end = min(end, await transport.position_at(bounds.partition, Start("timestamp", to_ms)))
        first = await transport.position_at(bounds.partition, start)
        record = await _record_at(transport, bounds.partition, first) if first < end else None
        found.append(Stretch(bounds, end if record is None else min(record, end), end))
    return tuple(found)


class Origins:
    """Finds where models begin, and makes them."""

    def __init__(
        self,
        transport: Transport,
        state: StateRoom | None,
        spec: PipelineSpec,
        source: DetectorSource,
        info: StreamInfo,
        *,
        warm_up: int | None,
        emit: Emit,
    ) -> None:
        """`state` None: nothing is known of a live pipeline.

        `warm_up`: records that an empty model learns first; None: begin where the live one did, if possible.
        """
        self._transport = transport
        self._state = state
        self._spec = spec
        self._source = source
        self._info = info
        self._warm_up = warm_up
        self._emit: Emit = emit
        self._hash = spec.hash(algorithm_version=source.algorithm_version)

    async def find(self, stretch: Stretch) -> Origin:
        """Where the model of a stretch that has records begins. Raises PositionLost if retention overtakes it."""
        try:
            live = await self._live(stretch)
        except _NotKnown as why:
            return await self._from_empty(stretch, str(why))
        if self._warm_up is None:
            found = await self._as_live(stretch, live)
            why_not = "the live one began with records that are past retention, and no snapshot from before is left"
            return found or await self._from_empty(stretch, why_not)
        found = await self._from_empty(stretch, f"it began at {position_text(live.birth.start)}")
        record = await _record_at(self._transport, stretch.partition, live.birth.start)
        return replace(self._from_birth(live), short=found.short) if found.start == record else found

    async def model(self, origin: Origin) -> PartitionModel:
        """The model at its beginning. Raises StateLost if a snapshot has gone and nothing else leads there."""
        if origin.live is not None and origin.live.snapshot is not None:
            try:
                return await self._thawed(origin.run.partition, origin.live.snapshot)
            except (SnapshotUnusable, ObjectMissing) as error:
                if origin.birth is None:
                    raise StateLost(f"{origin.run.partition}: the snapshot to begin from has gone: {error}") from error
        start = origin.start if origin.birth is None else origin.birth
        birth = Birth(run=origin.run, start=start)
        return await asyncio.to_thread(
            partial(PartitionModel.born, self._spec, birth, self._source, emit=self._emit),
        )

    async def _live(self, stretch: Stretch) -> "_Covering":
        """The live run of this very spec that scored the first record of the stretch. Raises _NotKnown."""
        if self._state is None:
            raise _NotKnown("no state store is there to tell where that was; see --state-url")
        inventory = await self._state.inventory(stretch.partition)
        births = [await self._birth(self._state, stretch.partition, number) for number in inventory.runs]
        if not births:
            where = f"pipeline {self._spec.name} on {stretch.partition}"
            raise _NotKnown(f"{self._state.url} knows of no live run of {where}")
        covering = [at for at, birth in enumerate(births) if birth.start <= stretch.first]
        if not covering:
            raise _NotKnown(f"the first live run began later, at {position_text(births[0].start)}")
        run = births[covering[-1]].run
        if run.identity != self._info.identity:
            raise _NotKnown(f"live run {run.number} scored another stream, which had this name before")
        if run.spec_hash != self._hash:
            raise _NotKnown(f"live run {run.number} has another spec")
        return _Covering.of(inventory, births, covering[-1], stretch)

    async def _birth(self, state: StateRoom, partition: Partition, number: int) -> Birth:
        try:
            birth = await state.birth(partition, number)
        except SnapshotUnusable as error:
            raise _NotKnown(str(error)) from error
        if birth is None:
            raise _NotKnown(f"the birth of live run {number} is not in {state.url}")
        return birth

    async def _as_live(self, stretch: Stretch, live: "_Covering") -> Origin | None:
        """From the last snapshot before the stretch, else from the birth; None: neither leads there any more."""
        oldest = stretch.bounds.oldest
        from_birth = self._from_birth(live) if live.birth.start >= oldest else None
        for entry in live.snapshots:
            if not oldest <= entry.next <= stretch.first:
                continue
            try:
                await self._thawed(stretch.partition, entry)
            except (SnapshotUnusable, ObjectMissing):
                continue
            return Origin(
                run=live.birth.run,
                start=entry.next,
                birth=None if from_birth is None else live.birth.start,
                live=live.as_live(entry),
            )
        return from_birth

    def _from_birth(self, live: "_Covering") -> Origin:
        start = live.birth.start
        return Origin(run=live.birth.run, start=start, birth=start, live=live.as_live(None))

    async def _from_empty(self, stretch: Stretch, why: str) -> Origin:
        count = self._warm_up or 0
        start, there = await _before(self._transport, stretch, count)
        run = Run(
            pipeline=self._spec.name,
            partition=stretch.partition,
            identity=self._info.identity,
            number=NO_LIVE_RUN,
            spec_hash=self._hash,
        )
        return Origin(run=run, start=start, birth=None, live=None, why=why, short=count - there)

    async def _thawed(self, partition: Partition, entry: SnapshotEntry) -> PartitionModel:
        assert self._state is not None, "a snapshot comes from a state store"
        snapshot = await self._state.snapshot(partition, entry)
        return await asyncio.to_thread(
            partial(PartitionModel.thawed, self._spec, snapshot, self._source, emit=self._emit)
        )


class _NotKnown(Exception):
    """Why no live run is known to have begun where the replay is to."""


@dataclass(frozen=True, slots=True)
class _Covering:
    """A live run that scored the first record of a stretch."""

    birth: Birth
    end: Position | None
    certain: bool
    snapshots: tuple[SnapshotEntry, ...]

    @classmethod
    def of(cls, inventory: Inventory, births: list[Birth], at: int, stretch: Stretch) -> "_Covering":
        """Of all runs in their order, the one at this index."""
        birth = births[at]
        end = min((later.start for later in births[at + 1 :]), default=stretch.end)
        # A run of the same spec as the one before it began from the oldest record, because state was lost: it went
        # live only where the one before had got to.
        known = birth.run.number == 1 or (at > 0 and births[at - 1].run.spec_hash != birth.run.spec_hash)
        snapshots = inventory.of_run(birth.run.number)
        return cls(birth, end if end < stretch.end else None, known, snapshots)

    def as_live(self, snapshot: SnapshotEntry | None) -> Live:
        """What an origin says of it."""
        return Live(run=self.birth.run.number, end=self.end, certain=self.certain, snapshot=snapshot)


async def _record_at(transport: Transport, partition: Partition, position: Position) -> Position | None:
    """Where the first record at or after a position lies; None: nowhere yet, or the position is past retention."""
    try:
        batch = await transport.read(partition, position, records_max=1, bytes_max=RECORD_BYTES_MAX)
    except PositionLost:
        return None
    return batch.positions[0] if len(batch) else None


async def _before(transport: Transport, stretch: Stretch, count: int) -> tuple[Position, int]:
    """Where the last `count` records before a stretch begin, and how many there are: fewer, if fewer are retained.

    Positions are not counted but records are, since positions have gaps; and only as far back as need be.
    """
    if count == 0:
        return stretch.first, 0
    partition = stretch.partition
    batch = await transport.read(partition, stretch.first, records_max=1, bytes_max=RECORD_BYTES_MAX)
    arrival_ms, back_ms = batch.arrivals_ms[0], BACK_MS_FIRST
    while True:
        oldest = await transport.position_at(partition, Start("earliest"))
        since = await transport.position_at(partition, Start("timestamp", max(0, arrival_ms - back_ms)))
        since = min(since, stretch.first)
        there = 0
        async for batch in _between(transport, partition, since, stretch.first):
            there += len(batch)
        if there >= count or since <= oldest or back_ms >= arrival_ms:
            break
        back_ms *= BACK_FACTOR
    left = max(0, there - count)
    async for batch in _between(transport, partition, since, stretch.first):
        if left < len(batch):
            return batch.positions[left], min(there, count)
        left -= len(batch)
    return stretch.first, 0


async def _between(transport: Transport, partition: Partition, start: Position, end: Position) -> AsyncIterator[Batch]:
    position = start
    while position < end:
        batch = await transport.read(partition, position, records_max=COUNT_RECORDS_MAX, bytes_max=COUNT_BYTES_MAX)
        if batch.end <= position:
            return
        yield batch.before(end)
        position = batch.end
