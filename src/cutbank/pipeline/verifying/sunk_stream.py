"""One sunk stream with the log beside it: which of its lines lie in objects, which were given up, which are to come.

Memory: the index of its lines, and the identities of what the sink has not come to. Event-loop only; reads only.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from cutbank.errors import PositionLost, StreamMissing
from cutbank.pipeline.accounts import SourceId, source_id
from cutbank.pipeline.audit import READ_BYTES_MAX, READ_RECORDS_MAX
from cutbank.pipeline.findings import Findings
from cutbank.pipeline.sinking.claims import ChainId, Claim, Mark
from cutbank.pipeline.sinking.layout import arrival_in_range, minute_of
from cutbank.pipeline.verifying.chains import Examined, Scope
from cutbank.pipeline.verifying.claimed import NOTHING, as_keys
from cutbank.pipeline.verifying.faults import Fault
from cutbank.pipeline.verifying.index import Index
from cutbank.pipeline.verifying.tables import Key
from cutbank.records import Partition, Position, position_text
from cutbank.transports.base import RECORD_BYTES_MAX, Start, Transport


class FaultNames(NamedTuple):
    """What can be wrong with the lines of a stream."""

    missing: Fault
    different: Fault
    extra: Fault


@dataclass(slots=True)
class _Gap:
    """Records of a chain that were lost unread."""

    marks: Mapping[str, Key]
    """Where they began, by source partition."""
    closed: set[str] = field(default_factory=set)
    """Source partitions that have come again since."""


class SunkStream:
    """A pipeline's chains on one stream; knows each claim that was looked at."""

    def __init__(
        self,
        transport: Transport,
        pipeline: str,
        stream: str,
        *,
        scope: Scope,
        names: FaultNames,
        findings: Findings[Fault],
    ) -> None:
        self.stream = stream
        self.names = names
        self.index = Index(pipeline)
        self.seen = False
        """Whether it has a chain in this root."""
        self._transport = transport
        self._pipeline = pipeline
        self._scope = scope
        self._findings = findings
        self._ends: dict[str, Position] = {}
        self._lows: dict[str, Key] = {}
        self._highs: dict[str, Key] = {}
        self._lost: dict[str, list[tuple[Key, Key]]] = {}
        self._late: dict[str, list[tuple[Key, Key]]] = {}
        self._gaps: dict[ChainId, _Gap] = {}
        self._begun: set[ChainId] = set()
        self._late_start = False

    def born(self, start: Position | None) -> None:
        """One of its chains is looked at."""
        self.seen = True
        self._late_start = self._late_start or (start is not None and start > 0)

    def begin(self, before: Claim) -> None:
        """The last claim before the span of time that is audited."""
        self._begun.add(before.chain)
        self._ends[before.partition] = before.end
        self._after(before.marks_after)

    async def observe(self, examined: Examined) -> None:
        """Take in a claim that was looked at."""
        claim = examined.claim
        if self._scope.from_ms is not None and claim.chain not in self._begun:
            self._after(claim.marks_before)
        self._begun.add(claim.chain)
        self._ends[claim.partition] = claim.end
        self._losses(examined)
        self.index.add(claim.chain, claim.layout, examined.anomalies)
        await self._look_up(claim, examined.minute_before_ms)

    def came_late(self, claim: Claim) -> None:
        """An object of this claim was not there when it was looked for, and is there now: a lag, and no loss."""
        before = as_keys(claim.marks_before)
        for partition, key in as_keys(claim.marks_after).items():
            self._late.setdefault(partition, []).append((before.get(partition, NOTHING), key))

    def may_precede(self, whole: str, key: Key) -> bool:
        """Whether this line may have lain in the stream before a chain began on it, which is then after its start."""
        if not self._late_start:
            return False
        first = [
            (run, shelf.positions[0])
            for (partition, run), shelves in self.index.shelves.items()
            if partition == whole
            for shelf in shelves.values()
        ]
        return not first or key[:2] < min(first)

    def is_late(self, whole: str, key: Key) -> bool:
        """Whether this line lies in an object that came while the audit ran."""
        return _within(self._late.get(whole, ()), key)

    def in_scope(self, whole: str, key: Key) -> bool:
        """Whether this line belongs into the claims that were audited."""
        low = self._lows.get(whole)
        if low is not None and key <= low:
            return False
        return self._scope.to_ms is None or key <= self._highs.get(whole, NOTHING)

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

    def is_given_up(self, whole: str, key: Key) -> bool:
        """Whether this line lies in a stretch that was given up for lost."""
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

    async def unsunk(self, source: str) -> set[SourceId]:
        """What lies in the stream after the chains' ends, of this source (a stream with its identity)."""
        found: set[SourceId] = set()
        if self._scope.to_ms is not None:
            return found  # what comes after the span is not looked for
        for part in (await self._transport.describe(self.stream)).partitions:
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
                    of = self._source(value, source)
                    if of is not None:
                        found.add(of)
        return found

    def _source(self, value: bytes, stream: str) -> SourceId | None:
        """The record that a line of [anomalies] is of; None: another pipeline's, another stream's, or nobody's."""
        try:
            row = orjson.loads(value)
            source = source_id(row, pipeline=self._pipeline)
            return source if source is not None and row["SOURCE"]["stream"] == stream else None
        except (ValueError, KeyError, TypeError):
            return None


def _within(spans: Sequence[tuple[Key, Key]], key: Key) -> bool:
    return any(low < key <= high for low, high in spans)
