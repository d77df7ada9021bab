"""Watches a world while it runs, at every publish, commit and put, and says at once what broke a promise.

Owns an undisturbed model of each source partition, fed with what the log takes, and so the lines that may be
published; what is published; what is durable in objects. It shares no state with any service. Raises nothing into
the services that it watches: the first violation is kept, and `failed` is set.

Positions are compared, never counted. Event-loop only.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import orjson

from cutbank.pipeline.scoring.model import DetectorSource, PartitionModel
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.sinking.claims import MINUTE_MS, Claim, DataObject, Layout, decode, link_from_key
from cutbank.pipeline.sinking.rendering import content, is_content_of, render
from cutbank.pipeline.sinking.rendering import lines as lines_of
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Partition, Position
from simulation.history import History
from simulation.outcome import Outcome, Violation

SECOND_CHARACTERS = len("2026-11-22T23:00:00")
"""Of a ROWTIME: what says its second."""


@dataclass(slots=True)
class _Source:
    """One source partition: its undisturbed model, what it said, and how much of that a commit has passed."""

    model: PartitionModel
    said: list[tuple[Position, str, bytes]] = field(default_factory=list)
    passed: int = 0
    committed: Position | None = None


@dataclass(slots=True)
class _Sunk:
    """One partition of the anomalies or errors: what it holds, and how much of that a commit has passed."""

    held: list[tuple[Position, bytes]] = field(default_factory=list)
    passed: int = 0
    minute_ms: int = 0
    """The latest arrival minute of what it holds: a broker whose clock went back opens no minute again."""


class Referee:
    """Checks one world."""

    def __init__(
        self, spec: PipelineSpec, detectors: DetectorSource, *, emit: str, atomic: bool, history: History
    ) -> None:
        self._spec = spec
        self._detectors = detectors
        self._emit = emit
        self._atomic = atomic
        self._history = history
        self._sources: dict[Partition, _Source] = {}
        self._sunk: dict[Partition, _Sunk] = {}
        self._streams_sunk = (spec.destination, spec.errors)
        self._expected: dict[str, set[bytes]] = {}
        self.published: dict[str, Counter[bytes]] = {}
        """How often each line was published, by stream."""
        self.durable: Counter[bytes] = Counter()
        """How often each line is in objects."""
        self.repeats_allowed = not atomic
        """Whether a line may be published again: where publish and commit are two steps, or positions were lost."""
        self.frozen = False
        """From now on nothing that is published to the source is scored: what is published of it is wrong."""
        self.not_sunk: set[bytes] | None = None
        """Lines that must not get into objects: of a stream that was made again."""
        self.claims = self.objects = self.repeated = self.different = 0
        self.layouts: Counter[str] = Counter()
        """Objects by how they were laid out."""
        self._claimed: dict[str, tuple[Claim, DataObject]] = {}
        self._arrived: dict[bytes, tuple[int, Position]] = {}
        """By anomaly or error: the minute that it belongs to, and its position, both as it was first published."""
        self._by_source: dict[bytes, bytes] = {}
        """Anomalies and errors by their SOURCE, as JSON."""
        self.violations: list[Violation] = []
        self.failed = asyncio.Event()

    # What the log and the store tell.

    def begin(self, partitions: Iterable[Partition], *, identity: str) -> None:
        """The source as it was made."""
        spec_hash = self._spec.hash(algorithm_version=self._detectors.algorithm_version)
        for partition in partitions:
            run = Run(pipeline=self._spec.name, partition=partition, identity=identity, number=1, spec_hash=spec_hash)
            model = PartitionModel.born(
                self._spec,
                Birth(run=run, start=Position(0)),
                self._detectors,
                emit="all" if self._emit == "all" else "anomalies",
            )
            self._sources[partition] = _Source(model)

    def log_took(self, batch: Batch) -> None:
        """These records are in the log now."""
        stream = batch.partition.stream
        if stream == self._spec.source:
            if not self.frozen:
                self._learn(batch)
        elif stream in {self._spec.destination, self._spec.errors, self._spec.scores}:
            self._see_outputs(batch)

    def _learn(self, batch: Batch) -> None:
        source = self._sources[batch.partition]
        # Record by record: so each line is known with its record's position.
        for at, position in enumerate(batch.positions):
            one = slice(at, at + 1)
            end = Position(position + 1)
            record = Batch(
                partition=batch.partition,
                start=source.model.next,
                end=end,
                positions=batch.positions[one],
                arrivals_ms=batch.arrivals_ms[one],
                keys=batch.keys[one],
                values=batch.values[one],
            )
            for output in source.model.apply(record).outputs:
                source.said.append((position, output.stream, output.value))
                self._expected.setdefault(output.stream, set()).add(output.value)
                if output.stream in self._streams_sunk:
                    self._by_source[orjson.dumps(orjson.loads(output.value)["SOURCE"])] = output.value

    def _see_outputs(self, batch: Batch) -> None:
        stream = batch.partition.stream
        published = self.published.setdefault(stream, Counter())
        expected = self._expected.get(stream, set())
        for value in batch.values:
            published[value] += 1
            if self.not_sunk is not None and stream == self._spec.destination and published[value] == 1:
                self.not_sunk.add(value)
            if value not in expected:
                self.different += 1
                self.violated("another line than the oracle's", f"published to {batch.partition}: {_text(value)}")
            elif published[value] > 1 and not self.repeats_allowed:
                self.violated("published twice", f"to {batch.partition}, on a log with transactions: {_text(value)}")
        if stream in self._streams_sunk:
            sunk = self._sunk.setdefault(batch.partition, _Sunk())
            sunk.held.extend(zip(batch.positions, batch.values, strict=True))
            for position, value, arrival_ms in zip(batch.positions, batch.values, batch.arrivals_ms, strict=True):
                if value not in self._arrived:  # A repeat is dropped, and opens no minute.
                    sunk.minute_ms = max(sunk.minute_ms, arrival_ms // MINUTE_MS * MINUTE_MS)
                    self._arrived[value] = sunk.minute_ms, position

    def store_took(self, key: str, body: bytes) -> None:
        """A claim or an object is durable."""
        link = link_from_key(key)
        if link is not None:
            if link.kind == "claim":
                self.claims += 1
                claim = decode(body, Claim, key=key)
                self._claimed.update((item.key, (claim, item)) for item in claim.objects)
            return
        if key not in self._claimed:
            self.violated("object without a claim", key)
            return
        claim, item = self._claimed[key]
        layout = claim.layout
        lines = lines_of(layout, content(layout, body))
        self.objects += 1
        self.layouts[layout_name(layout)] += 1
        if len(lines) != item.count or not is_content_of(layout, item, body):
            self.violated("an object is not its claim's", f"{key}: {len(lines)} lines, {item.count} are claimed")
        known = [self._as_published(layout, line) for line in lines]
        for line in known:
            self._line_put(claim.stream, key, line)
        self._check_places(claim, key, known)

    def _check_places(self, claim: Claim, key: str, lines: Sequence[bytes]) -> None:
        """Whether an object's lines belong to its claim's minute, and stand in order."""
        ranks = []
        for line in lines:
            if line not in self._arrived:
                continue  # Nobody published it: that has been said.
            minute_ms, position = self._arrived[line]
            if minute_ms != claim.minute_ms:
                self.violated("wrong minute", f"{key} is of {claim.minute_ms}, not of {minute_ms}: {_text(line)}")
            fields = orjson.loads(line)
            time = fields["ROWTIME" if claim.stream == self._spec.destination else "ERROR_TIME"]
            ranks.append((time[:SECOND_CHARACTERS], -fields.get("ANOMALY_SCORE", 0.0), position))
        if ranks != sorted(ranks):
            self.violated("wrong order", f"the {len(lines)} lines of {key}")

    def _as_published(self, layout: Layout, line: bytes) -> bytes:
        """The line that a row of CSV was made of, where that is known; lines of NDJSON are those."""
        if layout.format == "ndjson":
            return line
        identity = orjson.dumps(orjson.loads(line).get("SOURCE"))
        value = self._by_source.get(identity, b"")
        return value if value and lines_of(layout, render_one(layout, value)) == [line] else line

    def _line_put(self, stream: str, key: str, line: bytes) -> None:
        self.durable[line] += 1
        if self.durable[line] > 1:
            self.repeated += 1
            self.violated("twice", f"{key} holds what another object holds: {_text(line)}")
        if line not in self.published.get(stream, ()):
            self.different += 1
            self.violated("another line than was published", f"{key}: {_text(line)}")
        elif self.not_sunk is not None and line in self.not_sunk:
            self.violated("sunk after the stream was made again", f"{key}: {_text(line)}")

    def scorer_committed(self, partition: Partition, position: Position) -> None:
        """What the scorers have committed must be published, and never goes back."""
        source = self._sources[partition]
        if source.committed is not None and position < source.committed:
            self.violated(
                "committed position went back", f"scorers, {partition}: from {source.committed} to {position}"
            )
        source.committed = position
        said = source.said
        while source.passed < len(said) and said[source.passed][0] < position:
            _, stream, value = said[source.passed]
            if value not in self.published.get(stream, ()):
                self.violated(
                    "committed ahead of output",
                    f"scorers committed {position} of {partition}, and {stream} lacks {_text(value)}",
                )
            source.passed += 1

    def sink_committed(self, partition: Partition, position: Position) -> None:
        """What the sinks have committed must be in objects."""
        sunk = self._sunk.get(partition)
        if sunk is None:
            return
        while sunk.passed < len(sunk.held) and sunk.held[sunk.passed][0] < position:
            value = sunk.held[sunk.passed][1]
            if value not in self.durable:
                self.violated(
                    "committed ahead of objects",
                    f"sinks committed {position} of {partition}, and no object holds {_text(value)}",
                )
            sunk.passed += 1

    def operator_moved_scorer(self, partition: Partition) -> None:
        """An operator has set the scorers' position: from now on repeats of output are allowed."""
        self.repeats_allowed = True
        self._sources[partition].committed = None

    # What is asked in the end.

    def expected(self, stream: str) -> AbstractSet[bytes]:
        """The lines that an undisturbed run publishes to a stream, as far as the source goes."""
        return self._expected.get(stream, set())

    def everything_durable(self) -> bool:
        """Whether every anomaly and every error is in an object."""
        return all(value in self.durable for stream in self._streams_sunk for value in self.expected(stream))

    def stream_made_again(self, stream: str) -> None:
        """Nothing that a stream of this name holds from now on may be used."""
        if stream == self._spec.source:
            self.frozen = True
        else:
            self.not_sunk = set()
            for partition in [partition for partition in self._sunk if partition.stream == stream]:
                del self._sunk[partition]

    def violated(self, check: str, found: str) -> None:
        """Something that is wrong."""
        self.violations.append(Violation(check, found))
        self._history.say("referee", f"{check}: {found}")
        self.failed.set()

    def sum_up(self, outcome: Outcome) -> None:
        """Its figures."""
        outcome.records = sum(source.model.counts.records for source in self._sources.values())
        outcome.bad_records = sum(source.model.counts.errors for source in self._sources.values())
        outcome.anomalies = len(self.expected(self._spec.destination))
        outcome.claims, outcome.objects, outcome.layouts = self.claims, self.objects, self.layouts
        outcome.repeated, outcome.different = self.repeated, self.different
        outcome.published_again = sum(
            (published - Counter(set(published))).total() for published in self.published.values()
        )


def layout_name(layout: Layout) -> str:
    """A layout in a word or two."""
    parts: list[str] = [layout.format, layout.compression] if layout.compression != "none" else [layout.format]
    if layout.partition_keys:
        parts.append("partitioned")
    return " ".join(parts if layout.zone == "UTC" else [*parts, layout.zone])


def render_one(layout: Layout, line: bytes) -> bytes:
    """The content of an object with this one line."""
    return content(layout, render(layout, [line]).body)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")[-220:]
