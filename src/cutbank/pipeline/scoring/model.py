"""One partition's model: what turns batches of records into scored lines.

Owns all that a later score, ROWTIME or line depends on: the detector, the clamp, the run and the next position.
Invariant: after `apply` the model has seen each record before `next` exactly once, in order, however the records were
cut into batches and however often they came; a bad record moves the clamp and the counts, never the detector.
CPU-bound and not thread-safe: one call at a time, off the event loop. A model whose `apply` raised is worthless.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter, lt
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cutbank import detectors
from cutbank.detectors.base import Detector, Scores
from cutbank.errors import SnapshotUnusable
from cutbank.pipeline.scoring.decode import Decoded, Decoder, Fault, Reason
from cutbank.pipeline.scoring.lines import LineWriter
from cutbank.pipeline.scoring.snapshots import Birth, Run, Snapshot
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Position
from cutbank.transports.base import RECORD_BYTES_MAX, Output

Emit: TypeAlias = Literal["anomalies", "all"]


@dataclass(frozen=True, slots=True)
class DetectorSource:
    """Where a pipeline's detectors come from: the registry, or a detector of the caller's own."""

    algorithm_version: int
    """Part of the spec's hash."""
    create: Callable[[], Detector]
    """An empty detector."""
    restore: Callable[[bytes], Detector]
    """A detector from its `to_bytes`; raises SnapshotUnusable or ValueError."""
    self_check: Callable[[], None] = lambda: None
    """Raises DetectorMismatch if this machine would score differently."""
    model_bytes: Callable[[], int] = lambda: 0
    """Memory of one detector, bytes, computed before one is made; raises UsageError over the limit. 0: not counted."""


def registered(spec: PipelineSpec) -> DetectorSource:
    """The detector that the spec names, from the registry."""
    chosen = spec.detector

    parameters = {"dimensions": len(spec.features), **chosen.model_dump(exclude={"name"})}
    return DetectorSource(
        algorithm_version=detectors.algorithm_version(chosen.name),
        create=lambda: detectors.create(chosen.name, **parameters),
        restore=detectors.from_bytes,
        self_check=lambda: detectors.self_check(chosen.name),
        model_bytes=lambda: detectors.model_bytes(chosen.name, **parameters),
    )


@dataclass(slots=True)
class Counts:
    """What a run has seen so far. Kept in snapshots, for people."""

    records: int = 0
    """Records, good and bad."""
    errors: int = 0
    """Bad records."""
    anomalies: int = 0
    """Records over the threshold."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a batch gave: the outputs that are published together with its end."""

    start: Position
    end: Position
    """The first position NOT processed: what is committed."""
    outputs: Sequence[Output] = ()
    """In the order of their records' positions."""
    records: int = 0
    """New records in the batch: scored + the sum of errors."""
    scored: int = 0
    """Records that have a score and no error line."""
    anomalies: int = 0
    """Anomaly lines among the outputs."""
    errors: Counter[str] = field(default_factory=Counter)
    """Error lines by reason."""
    anomaly_arrivals_ms: Sequence[int] = ()
    """Arrival of the record of each anomaly line, in order, as the broker says."""


class PartitionModel:
    """The model of one partition in one run."""

    def __init__(
        self,
        spec: PipelineSpec,
        *,
        run: Run,
        detector: Detector,
        next_position: Position,
        clamp_ms: int = 0,
        counts: Counts | None = None,
        emit: Emit = "anomalies",
    ) -> None:
        if detector.dimensions != len(spec.features):
            raise ValueError(f"the detector takes {detector.dimensions} features, the spec has {len(spec.features)}")
        self.spec = spec
        self.run = run
        self.detector = detector
        self.next = next_position
        """The first position not yet seen."""
        self.clamp_ms = clamp_ms
        """The last ROWTIME: no later one is before it."""
        self.counts = counts or Counts()
        self._emit = emit
        self._decoder = Decoder(spec)
        self._lines = LineWriter(spec, run)

    @classmethod
    def born(
        cls, spec: PipelineSpec, birth: Birth, source: DetectorSource, *, emit: Emit = "anomalies"
    ) -> "PartitionModel":
        """The empty model of a run."""
        return cls(spec, run=birth.run, detector=source.create(), next_position=birth.start, emit=emit)

    @classmethod
    def thawed(
        cls, spec: PipelineSpec, snapshot: Snapshot, source: DetectorSource, *, emit: Emit = "anomalies"
    ) -> "PartitionModel":
        """The model that a snapshot holds. Raises SnapshotUnusable."""
        try:
            detector = source.restore(snapshot.detector)
            if detector.algorithm_version != source.algorithm_version:
                raise ValueError(f"algorithm version {detector.algorithm_version}, not {source.algorithm_version}")
            return cls(
                spec,
                run=snapshot.run,
                detector=detector,
                next_position=snapshot.next,
                clamp_ms=snapshot.clamp_ms,
                counts=Counts(records=snapshot.records, errors=snapshot.errors, anomalies=snapshot.anomalies),
                emit=emit,
            )
        except ValueError as error:
            where = f"{snapshot.run.partition}, run {snapshot.run.number}, next {snapshot.next}"
            raise SnapshotUnusable(f"the detector's state in the snapshot of {where}: {error}") from error

    def frozen(self) -> Snapshot:
        """Everything, at rest: between two calls of `apply`."""
        return Snapshot(
            run=self.run,
            next=self.next,
            clamp_ms=self.clamp_ms,
            records=self.counts.records,
            errors=self.counts.errors,
            anomalies=self.counts.anomalies,
            threshold=self.spec.threshold,
            detector=self.detector.to_bytes(),
        )

    def apply(self, batch: Batch) -> Scored:
        """Score the batch's records and learn them. Records before `next` are skipped: seen already."""
        return self._apply(batch, lines=True)

    def replay(self, batch: Batch) -> Scored:
        """Like `apply`, without making outputs: what they were is published already."""
        return self._apply(batch, lines=False)

    def _apply(self, batch: Batch, *, lines: bool) -> Scored:
        assert batch.partition == self.run.partition, "a batch of another partition"
        assert batch.start <= self.next, "records between the model and the batch are missing"
        assert all(map(lt, batch.positions, batch.positions[1:])), "order inside a batch"
        batch = _not_before(batch, self.next)
        start = self.next
        if len(batch) == 0:
            self.next = max(start, batch.end)
            return Scored(start=start, end=self.next)
        decoded = self._decoder.decode(batch.values)
        scores = self.detector.score_then_learn(decoded.features)
        over = scores > self.spec.threshold
        arrivals_ms = np.asarray(batch.arrivals_ms, dtype=np.int64)
        rowtimes_ms = np.maximum.accumulate(np.maximum(arrivals_ms, self.clamp_ms)).tolist()
        self.next = batch.end
        self.clamp_ms = rowtimes_ms[-1]
        self.counts.records += len(batch)
        self.counts.errors += len(decoded.faults)
        self.counts.anomalies += int(np.count_nonzero(over))
        written = _Written()
        if lines:
            self._write(written, batch, decoded, scores, over, rowtimes_ms)
        return Scored(
            start=start,
            end=batch.end,
            outputs=written.in_order(),
            records=len(batch),
            scored=len(batch) - (written.errors.total() if lines else len(decoded.faults)),
            anomalies=len(written.anomaly_arrivals_ms),
            errors=written.errors,
            anomaly_arrivals_ms=written.anomaly_arrivals_ms,
        )

    def _write(
        self,
        written: "_Written",
        batch: Batch,
        decoded: Decoded,
        scores: Scores,
        over: NDArray[np.bool_],
        rowtimes_ms: Sequence[int],
    ) -> None:
        """Make the lines of a batch: of its anomalies, or of all its records, and of what is wrong."""
        faults = dict(decoded.faults)
        chosen = range(len(decoded.good)) if self._emit == "all" else np.flatnonzero(over).tolist()
        for row in chosen:
            index = decoded.good[row]
            line = self._lines.scored(
                decoded.rows[row],
                score=float(scores[row]),
                rowtime_ms=rowtimes_ms[index],
                position=batch.positions[index],
            )
            if len(line) > RECORD_BYTES_MAX:
                message = f"the record's line has {len(line)} bytes, the most is {RECORD_BYTES_MAX}; the model knows it"
                faults[index] = Fault(Reason.ANOMALY_TOO_LARGE, message)
                continue
            if over[row]:
                written.anomaly_arrivals_ms.append(batch.arrivals_ms[index])
                written.outputs.append((index, Output(self.spec.destination, line)))
            if self._emit == "all":
                written.outputs.append((index, Output(self.spec.scores, line)))
        for index, fault in faults.items():
            line = self._lines.error(
                batch.values[index], fault, rowtime_ms=rowtimes_ms[index], position=batch.positions[index]
            )
            written.errors[fault.reason.value] += 1
            written.outputs.append((index, Output(self.spec.errors, line)))


@dataclass(slots=True)
class _Written:
    """Outputs on their way, each with the index of its record."""

    outputs: list[tuple[int, Output]] = field(default_factory=list)
    anomaly_arrivals_ms: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def in_order(self) -> list[Output]:
        """By record; what one record gives stays in the order it was written in."""
        self.outputs.sort(key=itemgetter(0))
        return [output for _, output in self.outputs]


def _not_before(batch: Batch, position: Position) -> Batch:
    """The part of the batch that lies at or after `position`."""
    cut = bisect_left(batch.positions, position)
    if cut == 0:
        return batch
    return Batch(
        partition=batch.partition,
        start=position,
        end=max(batch.end, position),
        positions=batch.positions[cut:],
        arrivals_ms=batch.arrivals_ms[cut:],
        keys=batch.keys[cut:],
        values=batch.values[cut:],
    )
