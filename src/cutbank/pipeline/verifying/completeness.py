"""Proves that the objects are complete: replays the source and finds every anomaly of the spec, byte for byte.

Three things are told apart. What is beyond proof is counted and said: records past retention, runs of another spec.
What is on its way is a lag: not scored yet, or published and not in an object yet. All else is a finding.

Order matters on a pipeline that is running: objects first, then how far the scorer has come, then what the sink has
not come to, then the source. Memory: the index, and the identities of what the sink has not come to.
Event-loop only; reads only.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import orjson

from cutbank.errors import PositionLost, StreamMissing
from cutbank.pipeline.accounts import SourceId, source_id
from cutbank.pipeline.audit import READ_BYTES_MAX, READ_RECORDS_MAX
from cutbank.pipeline.findings import Findings
from cutbank.pipeline.oracle import FIRST_RUN, Expected, Handovers, Unproven, undisturbed
from cutbank.pipeline.scoring.lines import stream_text
from cutbank.pipeline.scoring.model import DetectorSource
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.sinking.claims import ChainId, Claim, Mark
from cutbank.pipeline.sinking.layout import arrival_in_range, minute_of
from cutbank.pipeline.spec import PipelineSpec
from cutbank.pipeline.verifying.chains import Examined, Scope
from cutbank.pipeline.verifying.claimed import NOTHING, as_keys
from cutbank.pipeline.verifying.faults import Fault
from cutbank.pipeline.verifying.index import Index
from cutbank.pipeline.verifying.tables import Key
from cutbank.records import Partition, Position, position_text
from cutbank.transports.base import RECORD_BYTES_MAX, Start, StreamInfo, Transport


@dataclass(slots=True)
class Proof:
    """What the replay has shown."""

    pipeline: str
    foretold: int = 0
    """Anomalies of an undisturbed run, of those that can be in the objects audited."""
    met: int = 0
    """Of these, in an object, byte for byte."""
    unscored: int = 0
    """Of these, not scored yet: the scorer lags."""
    unsunk: int = 0
    """Of these, published and not in an object yet: the sink lags."""
    given_up: int = 0
    """Of these, in a stretch that was given up for lost."""
    unsure: int = 0
    """Of these, in no object, and maybe never said: a run began anew and nobody knows where it went live."""
    beyond: int = 0
    """Lines in objects that nothing can be compared with."""
    unproven: list[str] = field(default_factory=list)
    """What can't be computed, and why."""


@dataclass(slots=True)
class _Gap:
    """Records of a chain that were lost unread."""

    marks: Mapping[str, Key]
    """Where they began, by source partition."""
    closed: set[str] = field(default_factory=set)
    """Source partitions that have come again since."""


class LogAudit:
    """Looks at each claim with the log beside it, and proves completeness at the end."""

    def __init__(
        self,
        transport: Transport,
        state: StateRoom | None,
        spec: PipelineSpec,
        *,
        scope: Scope,
        findings: Findings[Fault],
        detectors: DetectorSource | None = None,
    ) -> None:
        self.proof = Proof(spec.name)
        self._transport = transport
        self._state = state
        self._spec = spec
        self._scope = scope
        self._findings = findings
        self._detectors = detectors
        self._index = Index(spec.name)
        self._ends: dict[str, Position] = {}
        self._lows: dict[str, Key] = {}
        self._highs: dict[str, Key] = {}
        self._lost: dict[str, list[tuple[Key, Key]]] = {}
        self._late: dict[str, list[tuple[Key, Key]]] = {}
        self._gaps: dict[ChainId, _Gap] = {}
        self._begun: set[ChainId] = set()

    def of_ours(self, chain: ChainId) -> bool:
        """Whether the chain is one of the spec's."""
        return (chain.pipeline, chain.stream) == (self._spec.name, self._spec.destination)

    def begin(self, before: Claim) -> None:
        """The last claim before the span of time that is audited."""
        if self.of_ours(before.chain):
            self._begun.add(before.chain)
            self._ends[before.partition] = before.end
            self._after(before.marks_after)

    async def observe(self, examined: Examined) -> None:
        """Take in a claim that was looked at."""
        claim = examined.claim
        if not self.of_ours(claim.chain):
            return
        if self._scope.from_ms is not None and claim.chain not in self._begun:
            self._after(claim.marks_before)
        self._begun.add(claim.chain)
        self._ends[claim.partition] = claim.end
        self._losses(examined)
        self._index.add(claim.chain, claim.layout, examined.anomalies)
        await self._look_up(claim, examined.minute_before_ms)

    def came_late(self, claim: Claim) -> None:
        """An object of this claim was not there when it was looked for, and is there now: a lag, and no loss."""
        if self.of_ours(claim.chain):
            before = as_keys(claim.marks_before)
            for partition, key in as_keys(claim.marks_after).items():
                self._late.setdefault(partition, []).append((before.get(partition, NOTHING), key))

    def _after(self, marks: Sequence[Mark]) -> None:
        """Only what comes after these marks belongs into the span."""
        for partition, key in as_keys(marks).items():
            self._lows[partition] = min(self._lows.get(partition, key), key)
            self._highs[partition] = max(self._highs.get(partition, key), key)

    def _losses(self, examined: Examined) -> None:
        """Which anomalies somebody has given up for lost."""
        claim = examined.claim
        before, after = as_keys(claim.marks_before), as_keys(claim.marks_after)
        for partition, key in after.items():
            self._highs[partition] = max(self._highs.get(partition, key), key)
            if examined.given_up and claim.objects:
                self._lost.setdefault(partition, []).append((before.get(partition, NOTHING), key))
        gap = self._gaps.get(claim.chain)
        if gap is not None:
            for partition, key in after.items():
                if key != before.get(partition) and partition not in gap.closed:
                    gap.closed.add(partition)
                    self._lost.setdefault(partition, []).append((gap.marks.get(partition, NOTHING), key))
        if not claim.objects:
            # Lost unread: which anomalies these were only the marks tell, and what comes next.
            self._gaps[claim.chain] = _Gap(before)

    def _is_given_up(self, whole: str, key: Key) -> bool:
        if _within(self._lost.get(whole, ()), key):
            return True
        return any(whole not in gap.closed and gap.marks.get(whole, NOTHING) < key for gap in self._gaps.values())

    async def _look_up(self, claim: Claim, minute_before_ms: int | None) -> None:
        """The claim's first record, where the log still has it."""
        if claim.first is None:
            return
        partition = Partition(claim.stream, claim.partition)
        try:
            batch = await self._transport.read(
                partition, claim.first.position, records_max=1, bytes_max=RECORD_BYTES_MAX
            )
        except (PositionLost, StreamMissing):
            return
        digest = hashlib.sha256(batch.values[0]).hexdigest() if batch.values else ""
        if digest != claim.first.sha256 or batch.positions[0] != claim.first.position:
            self._findings.note(Fault.ANOTHER_RECORD, f"{claim.key}: at {position_text(claim.first.position)}")
            return
        minute_ms = minute_of(arrival_in_range(batch.arrivals_ms[0]))
        lowest_ms = claim.minute_ms if minute_before_ms is None else minute_before_ms
        if claim.minute_ms != max(minute_ms, lowest_ms):
            self._findings.note(Fault.WRONG_MINUTE, f"{claim.key}: its first record arrived in another minute")

    async def prove(self, progress: Callable[[int], None]) -> Proof:
        """Replay the source. `progress` is told of records' positions' count now and then."""
        info = await self._transport.describe(self._spec.source)
        stream = stream_text(info.name, info.identity)
        committed = await self._committed(info)
        unsunk = await self._unsunk(stream)
        unproven: list[Unproven] = []
        async for item in undisturbed(
            self._transport, self._state, self._spec, detectors=self._detectors, handovers=self._handovers(stream)
        ):
            if isinstance(item, Unproven):
                unproven.append(item)
            elif item.output.stream == self._spec.destination:
                self._compare(item, stream, committed, unsunk)
                progress(self.proof.foretold)
        await self._close(info, stream, unproven)
        return self.proof

    async def _committed(self, info: StreamInfo) -> dict[str, Position]:
        """How far the scorer has come, by source partition."""
        found = {}
        for part in info.partitions:
            position = await self._transport.committed(f"{self._spec.name}.scorer", part.partition)
            found[part.partition.id] = Position(0) if position is None else position
        return found

    async def _unsunk(self, stream: str) -> set[SourceId]:
        """What lies in [anomalies] after the chains' ends."""
        found: set[SourceId] = set()
        if self._scope.to_ms is not None:
            return found  # what comes after the span is not looked for
        for part in (await self._transport.describe(self._spec.destination)).partitions:
            position = max(self._ends.get(part.partition.id, part.oldest), part.oldest)
            while position < part.end:
                try:
                    batch = await self._transport.read(
                        part.partition, position, records_max=READ_RECORDS_MAX, bytes_max=READ_BYTES_MAX
                    )
                except PositionLost:
                    position = await self._transport.position_at(part.partition, Start("earliest"))
                    continue
                if batch.end <= position:
                    break
                position = batch.end
                for value in batch.values:
                    source = self._source(value, stream)
                    if source is not None:
                        found.add(source)
        return found

    def _source(self, value: bytes, stream: str) -> SourceId | None:
        """The record that a line of [anomalies] is of; None: another pipeline's, another stream's, or nobody's."""
        try:
            row = orjson.loads(value)
            source = source_id(row, pipeline=self._spec.name)
            return source if source is not None and row["SOURCE"]["stream"] == stream else None
        except (ValueError, KeyError, TypeError):
            return None

    def _handovers(self, stream: str) -> Handovers:
        """Where one run's lines end and the next one's begin, as far as the objects tell."""
        seen: dict[str, dict[int, tuple[int, int]]] = {}
        for (partition, run), chains in self._index.shelves.items():
            name, _, partition_id = partition.rpartition("/")
            if name == stream:
                bounds = [(shelf.positions[0], shelf.positions[-1]) for shelf in chains.values()]
                seen.setdefault(partition_id, {})[run] = min(bounds)[0], max(last for _, last in bounds)
        found = {}
        for partition_id, runs in seen.items():
            for earlier, later in pairwise(sorted(runs)):
                last, first = runs[earlier][1], runs[later][0]
                found[partition_id, later] = Position(min(last + 1, first)), Position(max(last + 1, first))
        return found

    def _compare(self, item: Expected, stream: str, committed: Mapping[str, Position], unsunk: set[SourceId]) -> None:
        source, proof = item.source, self.proof
        whole = f"{stream}/{source.partition}"
        key: Key = (source.run, Position(source.position), source.ordinal)
        if not self._in_scope(whole, key):
            return
        proof.foretold += 1
        found = False
        for shelf in self._index.shelves.get((whole, source.run), {}).values():
            at = shelf.find(Position(source.position))
            if at is None:
                continue
            found = True
            shelf.met[at] = 1
            if self._index.same(shelf, at, item.output.value):
                proof.met += 1
            else:
                self._findings.note(Fault.DIFFERENT_ANOMALY, str(source))
        if found:
            return
        if source in unsunk or _within(self._late.get(whole, ()), key):
            proof.unsunk += 1
        elif source.position >= committed.get(source.partition, 0):
            proof.unscored += 1
        elif self._is_given_up(whole, key):
            proof.given_up += 1
        elif not item.certain:
            proof.unsure += 1
        else:
            self._findings.note(Fault.MISSING_ANOMALY, str(source))

    def _in_scope(self, whole: str, key: Key) -> bool:
        """Whether this anomaly belongs into the claims that were audited."""
        low = self._lows.get(whole)
        if low is not None and key <= low:
            return False
        return self._scope.to_ms is None or key <= self._highs.get(whole, NOTHING)

    async def _close(self, info: StreamInfo, stream: str, unproven: list[Unproven]) -> None:
        """What lies in objects and no undisturbed run has said."""
        oldest = {part.partition.id: await self._oldest_run(part.partition) for part in info.partitions}
        beyond: Counter[str] = Counter()
        for partition, run, position in self._index.unmet():
            name, _, partition_id = partition.rpartition("/")
            if name != stream:
                beyond[f"stream {name}, which is not the one in the log"] += 1
            elif partition_id not in oldest:
                beyond[f"{partition_id}, which is no partition any more"] += 1
            elif not self._known_run(run, oldest[partition_id]):
                beyond[f"run {run} of {partition_id}, whose birth is not there"] += 1
            elif any(_concerns(item, partition_id, run, position) for item in unproven):
                self.proof.beyond += 1
            else:
                self._findings.note(Fault.EXTRA_ANOMALY, f"{partition_id}/{position_text(position)} (run {run})")
        self.proof.beyond += beyond.total()
        self.proof.unproven = [
            *map(str, unproven),
            *(f"{count:,} line(s) of {what}" for what, count in beyond.items()),
        ]

    async def _oldest_run(self, partition: Partition) -> int | None:
        """The first run whose birth is there; None: there is none."""
        if self._state is None:
            return None
        return next(iter((await self._state.inventory(partition)).runs), None)

    def _known_run(self, run: int, oldest: int | None) -> bool:
        """Without a state store the first run is taken to be the only one; births before the oldest one were lost."""
        if self._state is None:
            return run == FIRST_RUN
        return oldest is None or run >= oldest


def _within(spans: Sequence[tuple[Key, Key]], key: Key) -> bool:
    return any(low < key <= high for low, high in spans)


def _concerns(item: Unproven, partition_id: str, run: int, position: Position) -> bool:
    return item.partition == partition_id and item.run in (None, run) and item.start <= position < item.end
