"""A stretch of records in the making: drops repeats and other pipelines' anomalies, keeps the rest, says its end.

Pure but for its own state.

Invariant: what is kept is a function of the marks on entry and of the records from `start` to `end`; a record at or
before its source partition's mark (run, position, ordinal), or of an older run, is dropped.
Knows no clock and no store; one task or thread at a time.
"""

import hashlib
from array import array
from collections.abc import Iterable

from cutbank.pipeline.sinking.claims import MARKS_MAX, MINUTE_MS, ChainId, Claim, FirstRecord, Layout, Mark
from cutbank.pipeline.sinking.layout import arrange, arrival_in_range, describe, minute_of, object_key
from cutbank.pipeline.sinking.lines import Line, LineReader, Source
from cutbank.records import Batch, Position

RECORD_OVERHEAD_BYTES = 192
"""Memory that a kept record costs beside its bytes: the object, its place in four columns, its place while sorting."""


class Marks:
    """High-water marks per source partition, the one that advanced longest ago first, at most `MARKS_MAX`."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._marks = {mark.partition: (mark.run, mark.position, mark.ordinal) for mark in marks}

    def seen(self, source: Source) -> bool:
        """Whether this anomaly, or one after it, has passed before. Only for this pipeline's anomalies."""
        mark = self._marks.get(source.partition)
        return mark is not None and (source.run, source.position, source.ordinal) <= mark

    def advance(self, source: Source) -> None:
        """This anomaly is the last of its source partition now."""
        self._marks.pop(source.partition, None)
        self._marks[source.partition] = (source.run, source.position, source.ordinal)
        if len(self._marks) > MARKS_MAX:
            del self._marks[next(iter(self._marks))]

    def export(self) -> tuple[Mark, ...]:
        """As a claim holds them."""
        return tuple(
            Mark(partition=partition, run=run, position=position, ordinal=ordinal)
            for partition, (run, position, ordinal) in self._marks.items()
        )


class Stretch:
    """Records from `start` on. `take` batches in order until it says that the stretch is full; then `claim`."""

    def __init__(
        self,
        *,
        pipeline: str,
        start: Position,
        reading: Position,
        marks: tuple[Mark, ...],
        minute_ms: int,
        bytes_max: int,
        records_max: int,
    ) -> None:
        self.start = start
        """Where the claim before ended."""
        self.end = reading
        """The first position not yet taken; where the next batch has to start."""
        self.minute_ms = minute_ms
        """Arrival minute: of the claim before, until the first record is kept."""
        self.clamped_ms: int | None = None
        """Broker time when the first record of an earlier minute was kept in this one; None: there is none."""
        self.line_bytes = 0
        self.dropped = 0
        """Repeats left out."""
        self.others = 0
        """Anomalies of other pipelines left out: their own sinks keep them."""
        self.foreign = 0
        """Kept records that are not ours."""
        self._pipeline = pipeline
        self._marks_before = marks
        self._marks = Marks(marks)
        self._bytes_max = bytes_max
        self._records_max = records_max
        self._reader = LineReader()
        self._lines: list[bytes] = []
        self._seconds = array("q")
        self._scores = array("d")
        self._first: FirstRecord | None = None

    @property
    def count(self) -> int:
        """Records kept."""
        return len(self._lines)

    @property
    def held_bytes(self) -> int:
        """Memory that this stretch needs until its object is put: its lines twice (once in the body), and overhead."""
        return held_bytes(count=self.count, line_bytes=self.line_bytes)

    def take(self, batch: Batch, index: int = 0, *, broker_ms: int) -> int:
        """Take records of `batch` from `index` on; the index of the first one that belongs to the next stretch.

        `len(batch)`: all taken. `broker_ms`: broker time now, ms since the epoch. A stretch takes its first record
        whatever its size.
        """
        assert batch.start <= self.end or index, "batches come in order, without holes"
        for here in range(index, len(batch)):
            arrival_ms = arrival_in_range(batch.arrivals_ms[here])
            if self._lines and arrival_ms >= self.minute_ms + MINUTE_MS:
                return self._until(batch.positions[here], here)
            line = self._reader.line(batch.values[here], position=batch.positions[here], arrival_ms=arrival_ms)
            if line.source is not None and line.source.pipeline != self._pipeline:
                self.others += 1
                continue
            if line.source is not None and self._marks.seen(line.source):
                self.dropped += 1
                continue
            if self._lines and not self._room(line):
                return self._until(batch.positions[here], here)
            self._keep(line, arrival_ms=arrival_ms, broker_ms=broker_ms)
            if self._first is None:
                digest = hashlib.sha256(batch.values[here]).hexdigest()
                self._first = FirstRecord(position=batch.positions[here], sha256=digest)
        self.end = batch.end
        return len(batch)

    def due(self, broker_ms: int, *, quiet: bool, grace_ms: int) -> bool:
        """Whether broker time ends this stretch: its minute and the grace are over, and nothing more waits to be read.

        Records of an earlier minute mean that the broker's clock went back: their stretch is open for a minute and
        does not wait for quiet, else it would stay open until that clock has caught up.
        """
        if not self._lines:
            return False
        clamped = self.clamped_ms is not None
        return broker_ms >= self.deadline_ms(grace_ms=grace_ms) and (quiet or clamped)

    def deadline_ms(self, *, grace_ms: int) -> int:
        """Broker time from which on this stretch may be ended by `due`."""
        over = self.minute_ms + MINUTE_MS
        return (over if self.clamped_ms is None else max(over, self.clamped_ms + MINUTE_MS)) + grace_ms

    def claim(self, chain: ChainId, layout: Layout, *, spec_hash: str | None) -> tuple[Claim, list[bytes]]:
        """The claim of what was taken, and the bodies of its objects in its order. Blocking: for a thread."""
        assert self._first is not None, "a stretch without records has no claim"
        body = arrange(self._lines, self._seconds, self._scores)
        key = object_key(chain, layout, start=self.start, minute_ms=self.minute_ms, ordinal=0)
        claim = Claim(
            pipeline=chain.pipeline,
            stream=chain.stream,
            partition=chain.partition,
            start=self.start,
            end=self.end,
            minute_ms=self.minute_ms,
            layout=layout,
            objects=(describe(key, body, self.count),),
            first=self._first,
            marks_before=self._marks_before,
            marks_after=self._marks.export(),
            spec_hash=spec_hash,
        )
        return claim, [body]

    def _until(self, position: Position, index: int) -> int:
        self.end = position
        return index

    def _room(self, line: Line) -> bool:
        return len(self._lines) < self._records_max and self.line_bytes + len(line.text) < self._bytes_max

    def _keep(self, line: Line, *, arrival_ms: int, broker_ms: int) -> None:
        if not self._lines:
            self.minute_ms = max(self.minute_ms, minute_of(arrival_ms))
        if arrival_ms < self.minute_ms and self.clamped_ms is None:
            self.clamped_ms = broker_ms
        if line.source is None:
            self.foreign += 1
        else:
            self._marks.advance(line.source)
        self._lines.append(line.text)
        self._seconds.append(line.second)
        self._scores.append(line.score)
        self.line_bytes += len(line.text) + 1


def held_bytes(*, count: int, line_bytes: int) -> int:
    """Memory for that many kept records, whose lines have that many bytes."""
    return 2 * line_bytes + RECORD_OVERHEAD_BYTES * count
