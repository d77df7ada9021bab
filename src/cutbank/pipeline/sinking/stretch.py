"""A stretch of records in the making: drops repeats and other pipelines' anomalies, keeps the rest, says its end.

Pure but for its own state.

Invariant: what is kept is a function of the marks on entry and of the records from `start` to `end`; a record at or
before its source partition's mark (run, position, ordinal), or of an older run, is dropped.
Knows no clock and no store; one task or thread at a time.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cutbank.pipeline.sinking.claims import MARKS_MAX, MINUTE_MS, ChainId, Claim, FirstRecord, Layout, Mark
from cutbank.pipeline.sinking.layout import arrival_in_range, minute_of, object_key, order
from cutbank.pipeline.sinking.lines import Line, LineReader, Source
from cutbank.pipeline.sinking.many_lines import RECORDS_BEST, Lines, read_many
from cutbank.pipeline.sinking.prefix import REST
from cutbank.pipeline.sinking.rendering import Rendered, body_bytes_max, render
from cutbank.records import Batch, Position

ONE_BY_ONE = 8
"""Fewer records than this are not worth reading at once."""

RECORD_OVERHEAD_BYTES = 192
"""Memory that a kept record costs beside its bytes: the object, its place in the columns, its place while sorting."""


class Marks:
    """High-water marks per source partition, the one that advanced longest ago first, at most `MARKS_MAX`."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._marks = {mark.partition: (mark.run, mark.position, mark.ordinal) for mark in marks}

    def __len__(self) -> int:
        return len(self._marks)

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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chain goes on."""

    start: Position
    """The next claim's start: the newest claim's end."""
    reading: Position
    """Where reading goes on: the same, unless that is no longer retained."""
    marks: tuple[Mark, ...]
    minute_ms: int


class Stretch:
    """Records from `start` on. `take` batches in order until it says that the stretch is full; then `claim`."""

    def __init__(
        self,
        *,
        pipeline: str,
        layout: Layout,
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
        self._layout = layout
        self._reader = LineReader(partition_keys=layout.partition_keys)
        self._lines: list[bytes] = []
        self._seconds = array("q")
        self._scores = array("d")
        self._values: dict[str, int] = {}
        """Partition values that have an object of their own, with its ordinal, in the order of their first records."""
        self._ordinals = array("H")
        self._first: FirstRecord | None = None

    @property
    def count(self) -> int:
        """Records kept."""
        return len(self._lines)

    @property
    def held_bytes(self) -> int:
        """Memory that this stretch needs until its objects are put: its lines, all bodies, and overhead.

        Without records 0, since nothing can be cut of it: who waits until nothing is held would wait for ever.
        """
        if not self.count:
            return 0
        return held_bytes(self._layout, count=self.count, line_bytes=self.line_bytes, objects=len(self._values) + 1)

    @property
    def place(self) -> Place:
        """Where the next stretch begins, once this one has ended."""
        return Place(self.end, self.end, self._marks.export(), self.minute_ms)

    def take(self, batch: Batch, index: int = 0, *, broker_ms: int) -> int:
        """Take records of `batch` from `index` on; the index of the first one that belongs to the next stretch.

        `len(batch)`: all taken. `broker_ms`: broker time now, ms since the epoch. A stretch takes its first record
        whatever its size.
        """
        assert batch.start <= self.end or index, "batches come in order, without holes"
        while index < len(batch):
            stop = min(len(batch), index + RECORDS_BEST)
            taken = self._take_part(batch, index, stop, broker_ms=broker_ms)
            if taken < stop:
                return self._until(batch.positions[taken], taken)
            index = stop
        self.end = batch.end
        return len(batch)

    def _take_part(self, batch: Batch, index: int, stop: int, *, broker_ms: int) -> int:
        """Take records `index` to before `stop`; the first that is of the next stretch.

        All at once where they are alike, else half by half, so that one odd record among many costs a few others.
        """
        if stop - index >= ONE_BY_ONE:
            if self._take_at_once(batch, index, stop):
                return stop
            if stop - index >= 2 * ONE_BY_ONE:
                middle = (index + stop) // 2
                taken = self._take_part(batch, index, middle, broker_ms=broker_ms)
                return taken if taken < middle else self._take_part(batch, middle, stop, broker_ms=broker_ms)
        for here in range(index, stop):
            if not self._take_one(batch, here, broker_ms=broker_ms):
                return here
        return stop

    def _take_one(self, batch: Batch, here: int, *, broker_ms: int) -> bool:
        """Take one record, whatever it is; False: it belongs to the next stretch."""
        value, position = batch.values[here], batch.positions[here]
        arrival_ms = arrival_in_range(batch.arrivals_ms[here])
        if self._lines and arrival_ms >= self.minute_ms + MINUTE_MS:
            return False
        line = self._reader.line(value, position=position, arrival_ms=arrival_ms)
        if line.source is not None and line.source.pipeline != self._pipeline:
            self.others += 1
            return True
        if line.source is not None and self._marks.seen(line.source):
            self.dropped += 1
            return True
        if self._lines and not self._room(line):
            return False
        self._keep(line, arrival_ms=arrival_ms, broker_ms=broker_ms)
        if self._first is None:
            self._first = FirstRecord(position=position, sha256=hashlib.sha256(value).hexdigest())
        return True

    def _take_at_once(self, batch: Batch, index: int, stop: int) -> bool:
        """Take records `index` to before `stop` if all are Cutbank's, of this minute, and fit; else change nothing.

        Does what `_take_one` does with each of them.
        """
        arrivals_ms = batch.arrivals_ms[index:stop]
        minute_ms = self.minute_ms
        if not self._lines:
            minute_ms = max(minute_ms, minute_of(arrival_in_range(arrivals_ms[0])))
        if min(arrivals_ms) < minute_ms or max(arrivals_ms) >= minute_ms + MINUTE_MS:
            return False
        part = read_many(batch.values[index:stop], partition_keys=self._layout.partition_keys)
        if part is None or not self._room_for(part):
            return False
        kept = self._unseen(part)
        if kept:
            self.minute_ms = minute_ms
            self._keep_all(part if len(kept) == len(part) else part.only(kept))
            if self._first is None:
                value, position = batch.values[index + kept[0]], batch.positions[index + kept[0]]
                self._first = FirstRecord(position=position, sha256=hashlib.sha256(value).hexdigest())
        return True

    def _room_for(self, part: Lines) -> bool:
        """Whether all of it fits, lines and marks."""
        count = len(part)
        return (
            len(self._lines) + count <= self._records_max
            and self.line_bytes + part.bytes + count - 1 < self._bytes_max
            and len(self._marks) + (1 if part.alike else len(set(part.partitions))) <= MARKS_MAX
        )

    def _unseen(self, part: Lines) -> Sequence[int]:
        """Which of it is to be kept: advances the marks, counts the others."""
        count = len(part)
        if part.alike and part.pipelines[0] == self._pipeline:
            last = part.source(count - 1)
            if self._marks.seen(last):
                self.dropped += count
                return ()
            if not self._marks.seen(part.source(0)):
                self._marks.advance(last)
                return range(count)
        kept = []
        for here, source in enumerate(part.sources()):
            if source.pipeline != self._pipeline:
                self.others += 1
            elif self._marks.seen(source):
                self.dropped += 1
            else:
                self._marks.advance(source)
                kept.append(here)
        return kept

    def _keep_all(self, part: Lines) -> None:
        self._lines += part.texts
        self._seconds.frombytes(part.seconds.tobytes())
        self._scores.extend(part.scores)
        if self._layout.partition_keys:
            self._ordinals.extend(map(self._ordinal, part.values))
        self.line_bytes += part.bytes + len(part)

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

    def claim(self, chain: ChainId, *, spec_hash: str | None) -> tuple[Claim, list[bytes]]:
        """The claim of what was taken, and the bodies of its objects in its order. Blocking: for a thread."""
        assert self._first is not None, "a stretch without records has no claim"
        rendered = self._rendered()
        values = tuple(self._values)
        keys = [
            object_key(
                chain,
                self._layout,
                start=self.start,
                minute_ms=self.minute_ms,
                ordinal=ordinal,
                value=values[ordinal] if ordinal < len(values) else REST,
            )
            for ordinal in range(len(rendered))
        ]
        claim = Claim(
            pipeline=chain.pipeline,
            stream=chain.stream,
            partition=chain.partition,
            start=self.start,
            end=self.end,
            minute_ms=self.minute_ms,
            layout=self._layout,
            partition_values=values,
            objects=tuple(each.described(key) for each, key in zip(rendered, keys, strict=True)),
            first=self._first,
            marks_before=self._marks_before,
            marks_after=self._marks.export(),
            spec_hash=spec_hash,
        )
        return claim, [each.body for each in rendered]

    def bodies_of(self, claim: Claim) -> list[bytes] | None:
        """The bodies of a claim's objects, made again; None: it was made of other records. Blocking: for a thread.

        The names are the claim's: this machine may have other rules of its time zone, or none.
        """
        if (self.start, self.end, self._layout) != (claim.start, claim.end, claim.layout):
            return None
        if (tuple(self._values), self._marks.export()) != (claim.partition_values, claim.marks_after):
            return None
        rendered = self._rendered()
        if len(rendered) != len(claim.objects):
            return None
        if not all(each.is_of(item) for each, item in zip(rendered, claim.objects, strict=True)):
            return None
        return [each.body for each in rendered]

    def _rendered(self) -> list[Rendered]:
        """The objects, in the order of their ordinals."""
        return [render(self._layout, part) for part in self._parts()]

    def _parts(self) -> list[list[bytes]]:
        """The objects' lines in their order; the rest's, if there is one, is the last."""
        indices = order(self._seconds, self._scores)
        if not self._layout.partition_keys:
            return [list(map(self._lines.__getitem__, indices))]
        parts: list[list[bytes]] = [[] for _ in range(max(self._ordinals) + 1)]
        for index in indices:
            parts[self._ordinals[index]].append(self._lines[index])
        return parts

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
        if self._layout.partition_keys:
            self._ordinals.append(self._ordinal(line.value))
        self.line_bytes += len(line.text) + 1

    def _ordinal(self, value: str) -> int:
        """Which object a partition value goes into."""
        ordinal = self._values.get(value)
        if ordinal is not None:
            return ordinal
        ordinal = len(self._values)
        if ordinal < self._layout.partition_values_max:
            self._values[value] = ordinal
        return ordinal


def held_bytes(layout: Layout, *, count: int, line_bytes: int, objects: int) -> int:
    """Memory for that many kept records, whose lines have that many bytes, and for the bodies of their objects."""
    bodies = body_bytes_max(layout, count=count, line_bytes=line_bytes, objects=objects)
    return line_bytes + bodies + RECORD_OVERHEAD_BYTES * count
