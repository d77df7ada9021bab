"""Recounts what a pipeline did, from the log and the objects alone. Shares no counter with a service.

Reads all of [source], [scores], [errors], [anomalies] and every data object, and follows each record through them.
Needs a scorer that publishes every score (`emit = all`) and services that have stopped. Others' lines are left out.

Memory: 9 bytes a record of the source where positions fit 64 bits (about 70 where they do not), about 100 a label,
about half a kilobyte an anomaly, 300 an object, and one object at a time.
Event-loop only, one caller; it writes nothing.
"""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from cutbank.errors import PartitionStopped, PositionLost
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.accounts import Accounts, FindingKind, Quality, SourceId, source_id
from cutbank.pipeline.findings import Findings
from cutbank.pipeline.ledger import ERROR_SUNK, FLAGGED, LABELLED, REFUSED, SCORED, TOO_LARGE, WARM_UP, Ledger
from cutbank.pipeline.sinking.claims import DataObject
from cutbank.pipeline.sinking.inspect import chains, claims, data_objects, losses
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Partition, Position, position_text
from cutbank.transports.base import StreamInfo, Transport

READ_RECORDS_MAX = 10_000
"""Records asked for in one read."""

READ_BYTES_MAX = 8 << 20
"""Bytes of values asked for in one read."""

RECOUNTS_MAX = 3
"""How often a count is begun again because retention overtook it."""


async def recount(transport: Transport, store: ObjectStore, spec: PipelineSpec, *, labels: str | None) -> Accounts:
    """Count everything. `labels` is the stream that holds the producer's labels, None for none.

    Raises StreamMissing, StreamUnavailable, StoreUnavailable; PositionLost when retention overtook every attempt.
    """
    for _ in range(RECOUNTS_MAX - 1):
        try:
            return await _Recount(transport, store, spec).run(labels)
        except PositionLost:
            continue
    return await _Recount(transport, store, spec).run(labels)


async def read_all(transport: Transport, info: StreamInfo) -> AsyncIterator[Batch]:
    """Everything that a stream held when it was described, a partition after the other. Raises PositionLost."""
    for part in info.partitions:
        position = part.oldest
        while position < part.end:
            batch = await transport.read(
                part.partition, position, records_max=READ_RECORDS_MAX, bytes_max=READ_BYTES_MAX
            )
            if batch.end <= position:
                break
            position = batch.end
            yield batch.before(part.end)


@dataclass(slots=True)
class _Anomaly:
    """One anomaly on its way: the digest of its line, where it was published, in how many lines of objects it is."""

    digest: bytes
    published: Position | None = None
    output: str = ""
    lines: int = 0


class _Recount:
    """One count, in the order of a record's way."""

    def __init__(self, transport: Transport, store: ObjectStore, spec: PipelineSpec) -> None:
        self._transport = transport
        self._store = store
        self._spec = spec
        self._ledgers: dict[str, Ledger] = {}
        self._anomalies: dict[SourceId, _Anomaly] = {}
        self._warming: dict[tuple[str, int], bool] = {}
        self._reasons: Counter[str] = Counter()
        self._findings = Findings(FindingKind)
        self._past_retention: set[SourceId] = set()
        self._lines = 0
        self._error_lines = 0
        self._errors_sunk = False
        self._objects: dict[str, tuple[int, int, str]] = {}

    async def run(self, labels: str | None) -> Accounts:
        # The outputs are described before the source is read, so what is published meanwhile is a lag, never "of no
        # record".
        spec = self._spec
        outputs = [await self._transport.describe(name) for name in (spec.scores, spec.errors, spec.destination)]
        await self._take_source(labels)
        async for where, value in self._values(outputs[0]):
            self._take_score(where, value)
        async for where, value in self._values(outputs[1]):
            self._take_error(where, value)
        async for batch in read_all(self._transport, outputs[2]):
            for position, value in zip(batch.positions, batch.values, strict=True):
                self._take_anomaly(batch.partition, position, value)
        async for entry in data_objects(self._store):
            self._take_object(entry.key, await self._store.read(entry.key))
        await self._take_claims()
        await self._close_records()
        await self._close_errors(outputs[1])
        await self._close_anomalies()
        return self._accounts(quality=labels is not None)

    async def _values(self, info: StreamInfo) -> AsyncIterator[tuple[str, bytes]]:
        async for batch in read_all(self._transport, info):
            for position, value in zip(batch.positions, batch.values, strict=True):
                yield f"[{info.name}] {batch.partition.id}/{position_text(position)}", value

    # Each stage.

    async def _take_source(self, labels: str | None) -> None:
        labelled = await self._read_labels(labels) if labels is not None else frozenset()
        info = await self._transport.describe(self._spec.source)
        for part in info.partitions:
            self._ledgers[part.partition.id] = Ledger(part.oldest)
        async for batch in read_all(self._transport, info):
            ledger = self._ledgers[batch.partition.id]
            before = len(ledger.flags)
            ledger.take(batch)
            if labelled:
                for at, value in enumerate(batch.values, before):
                    if _record_id(value) in labelled:
                        ledger.flags[at] |= LABELLED

    async def _read_labels(self, stream: str) -> set[int | str]:
        """The ids of the records that the producer made anomalous."""
        labelled: set[int | str] = set()
        async for where, value in self._values(await self._transport.describe(stream)):
            number = _record_id(value)
            if number is None:
                self._findings.note(FindingKind.UNREADABLE_RECORD, where)
            else:
                labelled.add(number)
        return labelled

    def _take_score(self, where: str, value: bytes) -> None:
        try:
            row = orjson.loads(value)
            source, score = self._source_id(row), row["ANOMALY_SCORE"]
            flagged = score > self._spec.threshold
        except (ValueError, KeyError, TypeError):
            self._findings.note(FindingKind.UNREADABLE_RECORD, where)
            return
        found = None if source is None else self._locate(source)
        if source is None or found is None:
            return
        ledger, at = found
        if ledger.flags[at] & SCORED:
            self._findings.note(FindingKind.SCORED_TWICE, str(source))
            return
        life = (source.partition, source.run)
        warm_up = self._warming[life] = self._warming.get(life, True) and score == 0.0
        ledger.flags[at] |= SCORED | (WARM_UP if warm_up else 0) | (FLAGGED if flagged else 0)
        if flagged:
            self._anomalies[source] = _Anomaly(_digest(value))

    def _take_error(self, where: str, value: bytes) -> None:
        try:
            row = orjson.loads(value)
            source, reason = self._source_id(row), str(row["ERROR_NAME"])
        except (ValueError, KeyError, TypeError):
            self._findings.note(FindingKind.UNREADABLE_RECORD, where)
            return
        found = None if source is None else self._locate(source)
        if source is None or found is None:
            return
        ledger, at = found
        if ledger.flags[at] & REFUSED:
            self._findings.note(FindingKind.REFUSED_TWICE, str(source))
            return
        self._reasons[reason] += 1
        ledger.flags[at] |= REFUSED
        if reason == "anomaly_too_large":
            # Scored, but its line fits no stream: an error, and no anomaly is to be expected of it.
            ledger.flags[at] |= TOO_LARGE
            self._anomalies.pop(source, None)
        elif ledger.flags[at] & SCORED:
            self._findings.note(FindingKind.SCORED_AND_REFUSED, str(source))

    def _take_anomaly(self, output: Partition, position: Position, value: bytes) -> None:
        try:
            source = self._source_id(orjson.loads(value))
        except ValueError:
            self._findings.note(
                FindingKind.UNREADABLE_RECORD, f"[{output.stream}] {output.id}/{position_text(position)}"
            )
            return
        if source is None or self._is_past_retention(source):
            return
        anomaly = self._anomalies.get(source)
        if anomaly is None:
            self._findings.note(FindingKind.NEVER_SCORED, str(source))
            anomaly = self._anomalies[source] = _Anomaly(_digest(value))
        elif anomaly.published is not None:
            self._findings.note(FindingKind.PUBLISHED_TWICE, str(source))
            return
        elif anomaly.digest != _digest(value):
            self._findings.note(FindingKind.DIFFERS, str(source))
            anomaly.digest = _digest(value)
        anomaly.published, anomaly.output = position, output.id

    def _take_object(self, key: str, body: bytes) -> None:
        number = 0
        for number, line in _lines(body):
            where = f"{key} line {number}"
            try:
                row = orjson.loads(line)
                source = self._source_id(row)
            except ValueError:
                self._lines += 1
                self._findings.note(FindingKind.UNREADABLE_LINE, where)
                continue
            if source is None or self._is_past_retention(source):
                continue
            if "ERROR_NAME" in row and "ANOMALY_SCORE" not in row:
                self._take_error_line(where, source)
                continue
            self._lines += 1
            anomaly = self._anomalies.get(source)
            if anomaly is None or anomaly.published is None:
                self._findings.note(FindingKind.FOREIGN_LINE, f"{where}: {source}")
                continue
            anomaly.lines += 1
            if anomaly.lines > 1:
                self._findings.note(FindingKind.DOUBLED_LINE, f"{where}: {source}")
            if anomaly.digest != _digest(line):
                self._findings.note(FindingKind.ALTERED_LINE, f"{where}: {source}")
        self._objects[key] = number, len(body), hashlib.sha256(body).hexdigest()

    def _take_error_line(self, where: str, source: SourceId) -> None:
        self._error_lines += 1
        ledger = self._ledgers.get(source.partition)
        at = None if ledger is None else ledger.index(source.position)
        if ledger is None or at is None or not ledger.flags[at] & REFUSED:
            self._findings.note(FindingKind.FOREIGN_LINE, f"{where}: {source}")
            return
        if ledger.flags[at] & ERROR_SUNK:
            self._findings.note(FindingKind.ERROR_DOUBLED, f"{where}: {source}")
        ledger.flags[at] |= ERROR_SUNK

    async def _take_claims(self) -> None:
        """Each object as its claim says, byte for byte; lines are counted without claims."""
        unclaimed = dict.fromkeys(self._objects)
        try:
            async for claim in claims(self._store):  # of all pipelines: one root may be shared
                for named in claim.objects:
                    unclaimed.pop(named.key, None)
                    if claim.pipeline == self._spec.name:
                        self._compare(named)
            for key in unclaimed:
                self._findings.note(FindingKind.UNCLAIMED_OBJECT, key)
            async for lost in losses(self._store, self._spec.name):
                self._findings.note(FindingKind.GIVEN_UP, lost.why)
        except PartitionStopped as error:
            self._findings.note(FindingKind.UNREADABLE_CLAIM, str(error))

    def _compare(self, named: DataObject) -> None:
        found = self._objects.get(named.key)
        if found is None:
            self._findings.note(FindingKind.MISSING_OBJECT, f"{named.key} ({named.count:,} lines)")
        elif found != (named.count, named.line_bytes, named.sha256):
            self._findings.note(FindingKind.DIFFERENT_OBJECT, named.key)

    # What is left over.

    async def _close_records(self) -> None:
        for partition_id, ledger in self._ledgers.items():
            partition = Partition(self._spec.source, partition_id)
            passed = await self._transport.committed(f"{self._spec.name}.scorer", partition) or 0
            for at, flags in enumerate(ledger.flags):
                if not flags & (SCORED | REFUSED):
                    position = ledger.positions[at]
                    kind = FindingKind.LOST if position < passed else FindingKind.NOT_PROCESSED
                    self._findings.note(kind, f"{partition_id}/{position_text(Position(position))}")

    async def _close_errors(self, info: StreamInfo) -> None:
        """Where errors are sunk, every one is in an object."""
        sunk = [chain.stream async for chain in chains(self._store, self._spec.name)]
        self._errors_sunk = info.name in sunk
        if not self._errors_sunk:
            return
        group, behind = f"{self._spec.name}.sink", False
        for part in info.partitions:
            behind = behind or (await self._transport.committed(group, part.partition) or 0) < part.end
        for partition_id, ledger in self._ledgers.items():
            for at, flags in enumerate(ledger.flags):
                if flags & (REFUSED | ERROR_SUNK) == REFUSED:
                    kind = FindingKind.ERROR_NOT_WRITTEN if behind else FindingKind.ERROR_MISSING
                    self._findings.note(kind, f"{partition_id}/{position_text(Position(ledger.positions[at]))}")

    async def _close_anomalies(self) -> None:
        passed: dict[str, int] = {}
        for source, anomaly in self._anomalies.items():
            if anomaly.lines:
                continue
            if anomaly.published is None:
                self._findings.note(FindingKind.NOT_PUBLISHED, str(source))
                continue
            if anomaly.output not in passed:
                partition = Partition(self._spec.destination, anomaly.output)
                passed[anomaly.output] = await self._transport.committed(f"{self._spec.name}.sink", partition) or 0
            written = anomaly.published < passed[anomaly.output]
            self._findings.note(FindingKind.MISSING_LINE if written else FindingKind.NOT_WRITTEN, str(source))

    def _accounts(self, *, quality: bool) -> Accounts:
        counts = Counter(bytes(flags for ledger in self._ledgers.values() for flags in ledger.flags))
        return Accounts(
            produced=counts.total(),
            scored=sum(n for flags, n in counts.items() if flags & SCORED and not flags & TOO_LARGE),
            errors=sum(n for flags, n in counts.items() if flags & REFUSED),
            errors_by_reason=tuple(self._reasons.most_common()),
            anomalies=sum(n for flags, n in counts.items() if flags & FLAGGED and not flags & TOO_LARGE),
            lines=self._lines,
            objects=tuple(self._objects),
            past_retention=len(self._past_retention),
            findings=self._findings.all(),
            error_lines=self._error_lines if self._errors_sunk else None,
            quality=_quality(counts) if quality else None,
        )

    def _locate(self, source: SourceId) -> tuple[Ledger, int] | None:
        """The ledger and place of a line's record; None, and noted, where it is no record that the log holds."""
        if self._is_past_retention(source):
            return None
        ledger = self._ledgers.get(source.partition)
        at = None if ledger is None else ledger.index(source.position)
        if ledger is None or at is None:
            self._findings.note(FindingKind.OF_NO_RECORD, str(source))
            return None
        return ledger, at

    def _source_id(self, row: Any) -> SourceId | None:
        return source_id(row, pipeline=self._spec.name)

    def _is_past_retention(self, source: SourceId) -> bool:
        ledger = self._ledgers.get(source.partition)
        if ledger is None or source.position >= ledger.oldest:
            return False
        self._past_retention.add(source)
        return True


def _quality(counts: Counter[int]) -> Quality:
    """Sums over the records that were scored."""
    table: Counter[tuple[bool, bool]] = Counter()
    warm_up = 0
    for flags, count in counts.items():
        if not flags & SCORED:
            continue
        if flags & WARM_UP:
            warm_up += count
        else:
            table[bool(flags & FLAGGED), bool(flags & LABELLED)] += count
    return Quality(
        warm_up=warm_up,
        true_positives=table[True, True],
        false_positives=table[True, False],
        false_negatives=table[False, True],
        true_negatives=table[False, False],
    )


def _record_id(value: bytes) -> int | str | None:
    """The `id` of a record or a label, None where it has none that could name it."""
    try:
        number: Any = orjson.loads(value)["id"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return number if isinstance(number, int | str) else None


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines of an object, numbered from 1; what follows the last newline counts as a line too if it is anything."""
    lines = body.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return enumerate(lines, 1).__iter__()


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()
