"""What an undisturbed scorer publishes over the log as it lies: the measure that every test and audit compares with.

Owns which run speaks for which records, from the births in the state store, and says what it cannot prove. Computes
each run in one go, with the scorer's own model but in batches of another size than a scorer's; reads only.

Invariant: what is yielded is a pure function of the log, the births and the spec. Within a run of a partition it comes
in the order of positions. Memory: one batch and one model at a time, however long the log is.
Event-loop only; models work in a thread. Raises the transport's and the store's errors as they are.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import orjson

from cutbank.errors import ObjectMissing, PositionLost, SnapshotUnusable
from cutbank.pipeline.accounts import SourceId, source_id
from cutbank.pipeline.scoring.model import DetectorSource, Emit, PartitionModel, registered
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.scoring.state import Inventory, StateRoom
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import POSITION_BITS, Partition, Position
from cutbank.transports.base import Output, PartitionInfo, StreamInfo, Transport

BATCH_RECORDS_MAX = 997
"""Records computed in one step; a prime, so that no boundary is a scorer's."""

BATCH_BYTES_MAX = 4 << 20
"""About the most bytes of values in one step."""

NOWHERE = Position(1 << POSITION_BITS)
"""After every position."""

FIRST_RUN = 1
"""Number of a partition's first run."""

Handovers = Mapping[tuple[str, int], tuple[Position, Position]]
"""By source partition and run: the run before has published all before the first position, this one all from the
second on. Of the records between, nobody knows which of the two spoke for them; a birth that says it counts."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A line that an undisturbed run publishes."""

    output: Output
    source: SourceId
    certain: bool
    """False: the run after or before this one may have spoken for this record instead. The line need not be there;
    if it is, it is this one."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """Records whose lines of one run can't be computed."""

    partition: str
    run: int | None
    """None: of no run that is known."""
    start: Position
    end: Position
    """The first position that this does not concern."""
    why: str
    """For people: what is missing."""

    def __str__(self) -> str:
        return f"{self.partition}{'' if self.run is None else f', run {self.run}'}: {self.why}"


async def undisturbed(
    transport: Transport,
    state: StateRoom | None,
    spec: PipelineSpec,
    *,
    detectors: DetectorSource | None = None,
    emit: Emit = "anomalies",
    partitions: Collection[str] | None = None,
    starts: Mapping[str, Position] | None = None,
    handovers: Handovers | None = None,
) -> AsyncIterator[Expected | Unproven]:
    """All lines of the spec over what its source holds now, a partition after the other, each run in order.

    A run speaks for the records from its birth's start on, up to the start of the next one; only runs of this very
    spec are computed. A run that begins again from the oldest record retained (state was lost) has learnt records for
    which the run before had spoken, and no birth says up to where: `handovers` may, else such lines are not `certain`.
    A birth past retention: from the oldest usable snapshot on.

    Without a state store (None) there is one run, number 1, from `starts` (by partition id) or the oldest record.
    `partitions`: ids of those wanted; all by default. `detectors`: another detector than the spec names.

    Raises StreamMissing, StreamUnavailable, StoreUnavailable, DetectorMismatch.
    """
    source = detectors or registered(spec)
    await asyncio.to_thread(source.self_check)
    info = await transport.describe(spec.source)
    casting = _Casting(info, state, spec, source, starts=starts or {}, handovers=handovers or {})
    for bounds in info.partitions:
        if partitions is not None and bounds.partition.id not in partitions:
            continue
        async for part in casting.parts(bounds):
            if isinstance(part, Unproven):
                yield part
                continue
            async for item in _Performance(transport, state, spec, source, bounds, part, emit=emit).lines():
                yield item


@dataclass(frozen=True, slots=True)
class _Part:
    """What one run has to say: of which records, and of which of them for certain."""

    birth: Birth
    live: Position
    """The first record that it may have spoken for; what lies before is only learnt."""
    certain: Position
    certain_end: Position
    end: Position
    snapshots: Inventory | None = None


class _Casting:
    """Which run speaks for which records of a partition."""

    def __init__(
        self,
        info: StreamInfo,
        state: StateRoom | None,
        spec: PipelineSpec,
        source: DetectorSource,
        *,
        starts: Mapping[str, Position],
        handovers: Handovers,
    ) -> None:
        self._info = info
        self._state = state
        self._spec = spec
        self._hash = spec.hash(algorithm_version=source.algorithm_version)
        self._starts = starts
        self._handovers = handovers

    async def parts(self, bounds: PartitionInfo) -> AsyncIterator[_Part | Unproven]:
        """In the order of run numbers."""
        if self._state is None:
            yield self._whole(bounds, self._starts.get(bounds.partition.id, bounds.oldest))
            return
        inventory = await self._state.inventory(bounds.partition)
        if not inventory.runs:
            yield await self._first(self._state, bounds)
            return
        births = [await _birth(self._state, bounds.partition, number) for number in inventory.runs]
        handovers = [
            self._handover(bounds.partition.id, number, before, birth)
            for number, before, birth in zip(inventory.runs, [None, *births], births, strict=False)
        ]
        for at, (number, birth) in enumerate(zip(inventory.runs, births, strict=True)):
            live, certain = handovers[at]
            certain_end = min((early for early, _ in handovers[at + 1 :]), default=NOWHERE)
            end = min((late for _, late in handovers[at + 1 :]), default=NOWHERE)
            if birth is None:
                yield self._unproven(bounds, number, live, end, "its birth can't be read")
            elif birth.run.identity != self._info.identity:
                yield self._unproven(bounds, number, live, end, "it scored another stream, which had this name before")
            elif birth.run.spec_hash != self._hash:
                yield self._unproven(bounds, number, live, end, "it is of another spec")
            else:
                yield _Part(birth, live, certain, certain_end, end, snapshots=inventory)

    def _handover(
        self, partition_id: str, number: int, before: Birth | None, birth: Birth | None
    ) -> tuple[Position, Position]:
        """Up to where the run before spoke for certain, and from where on this one does."""
        early, late = self._handovers.get((partition_id, number), (Position(0), NOWHERE))
        if birth is None:
            return early, late
        known = number == FIRST_RUN or (before is not None and before.run.spec_hash != birth.run.spec_hash)
        if known and early <= birth.start <= late:
            return birth.start, birth.start
        # State was lost: it began at the oldest record retained, and went live where the run before had got to.
        return max(early, birth.start), late

    async def _first(self, state: StateRoom, bounds: PartitionInfo) -> _Part | Unproven:
        """A partition that no run has begun on: what its first one will have to say."""
        try:
            born = await state.stream_birth()
        except SnapshotUnusable as error:
            return self._unproven(bounds, None, bounds.oldest, NOWHERE, str(error))
        if born is None:
            why = f"{state.url} has no birth of stream {self._info.name}: this pipeline has never scored it"
            return self._unproven(bounds, None, bounds.oldest, NOWHERE, why)
        if born.identity != self._info.identity:
            why = f"{state.url} knows another stream, which had this name before"
            return self._unproven(bounds, None, bounds.oldest, NOWHERE, why)
        return self._whole(bounds, born.starts.get(bounds.partition.id, bounds.oldest))

    def _whole(self, bounds: PartitionInfo, start: Position) -> _Part:
        run = Run(
            pipeline=self._spec.name,
            partition=bounds.partition,
            identity=self._info.identity,
            number=FIRST_RUN,
            spec_hash=self._hash,
        )
        return _Part(Birth(run=run, start=start), live=start, certain=start, certain_end=NOWHERE, end=NOWHERE)

    def _unproven(self, bounds: PartitionInfo, run: int | None, start: Position, end: Position, why: str) -> Unproven:
        return Unproven(bounds.partition.id, run, start, min(end, bounds.end), why)


async def _birth(state: StateRoom, partition: Partition, number: int) -> Birth | None:
    """A run's birth; None: there is none that can be read."""
    try:
        return await state.birth(partition, number)
    except SnapshotUnusable:
        return None


class _Performance:
    """One run, computed from its birth, or from the oldest snapshot whose records are all retained."""

    def __init__(
        self,
        transport: Transport,
        state: StateRoom | None,
        spec: PipelineSpec,
        source: DetectorSource,
        bounds: PartitionInfo,
        part: _Part,
        *,
        emit: Emit,
    ) -> None:
        self._transport = transport
        self._state = state
        self._spec = spec
        self._source = source
        self._bounds = bounds
        self._part = part
        self._emit: Emit = emit

    async def lines(self) -> AsyncIterator[Expected | Unproven]:
        """All that it has to say, and what of it can't be computed."""
        part, end = self._part, min(self._part.end, self._bounds.end)
        if part.birth.start >= end:
            return
        model: PartitionModel | None = await asyncio.to_thread(
            partial(PartitionModel.born, self._spec, part.birth, self._source, emit=self._emit)
        )
        if part.birth.start < self._bounds.oldest:
            model = await self._thawed()
            proven = end if model is None else min(model.next, end)
            if part.live < proven:
                yield self._gap(part.live, proven, f"the records from {part.birth.start} on are past retention")
        while model is not None and model.next < end:
            try:
                batch = await self._transport.read(
                    self._bounds.partition, model.next, records_max=BATCH_RECORDS_MAX, bytes_max=BATCH_BYTES_MAX
                )
            except PositionLost:
                yield self._gap(max(model.next, part.live), end, "retention overtook the count")
                return
            if batch.end <= model.next:
                return  # the end, where the last positions have no record
            scored = await asyncio.to_thread(model.apply, batch.before(end))
            for output in scored.outputs:
                expected = self._expected(output)
                if part.live <= expected.source.position:
                    yield expected

    async def _thawed(self) -> PartitionModel | None:
        """The model in the oldest usable snapshot of this run that needs no record past retention."""
        state, part = self._state, self._part
        if state is None or part.snapshots is None:
            return None
        for entry in reversed(part.snapshots.of_run(part.birth.run.number)):
            if entry.next < self._bounds.oldest:
                continue
            try:
                snapshot = await state.snapshot(self._bounds.partition, entry)
                return await asyncio.to_thread(
                    partial(PartitionModel.thawed, self._spec, snapshot, self._source, emit=self._emit)
                )
            except (SnapshotUnusable, ObjectMissing):
                continue
        return None

    def _expected(self, output: Output) -> Expected:
        source = source_id(orjson.loads(output.value), pipeline=self._spec.name)
        assert source is not None, "a line of this very pipeline"
        certain = self._part.certain <= source.position < self._part.certain_end
        return Expected(output, source, certain)

    def _gap(self, start: Position, end: Position, why: str) -> Unproven:
        return Unproven(self._bounds.partition.id, self._part.birth.run.number, start, end, why)
