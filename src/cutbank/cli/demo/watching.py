"""Looks at the log and the folder of objects while a demo runs, and nothing else. Owns what the screen shows.

Shares no counter with the services: records, lag and anomalies are read from the streams' ends, the groups' committed
positions and [anomalies] itself; objects are those in the store. Event-loop only; one task polls.
"""

from collections import deque

import orjson

from cutbank.cli.demo.view import (
    RECENT_S,
    RUNNING,
    STARTING,
    STARTING_LONG,
    STARTING_S,
    Row,
    View,
    row_of,
    table_columns,
)
from cutbank.clock import Clock
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.inspect import data_objects
from cutbank.pipeline.sinking.layout import name_beginning
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Partition, Position
from cutbank.transports.base import StreamInfo, Transport

RATE_S = 5.0
"""The records a second shown are those of so many seconds."""

RECENT_ROWS_MAX = 200
"""Recent anomalies kept for the table."""

READ_RECORDS_MAX = 2_000
READ_BYTES_MAX = 4 << 20
"""Read from [anomalies] in one poll, a partition; more follows with the next poll."""

OBJECTS_S = 1.0
"""Seconds between two looks into the folder of objects."""


class Watcher:
    """What is in the log and the store, since `begin`."""

    def __init__(self, transport: Transport, store: ObjectStore, spec: PipelineSpec, *, clock: Clock) -> None:
        self._transport = transport
        self._store = store
        self._spec = spec
        self._clock = clock
        self._columns = table_columns(spec)
        self._began_s = clock.monotonic_s()
        self._starts: dict[str, int] = {}
        self._reading: dict[Partition, Position] = {}
        self._recent: deque[Row] = deque(maxlen=RECENT_ROWS_MAX)
        self._scored: deque[tuple[float, int]] = deque()
        self._learnt_before = False
        self._objects = 0
        self._newest_object = ""
        self._objects_due_s = self._began_s
        self._scored_before = 0
        self._scored_any = False
        self._phase = ""

    async def begin(self) -> None:
        """Remember where the streams end now: this run begins."""
        for name in (self._spec.source, self._spec.destination, self._spec.errors):
            self._starts[name] = _end(await self._transport.describe(name))
        for part in (await self._transport.describe(self._spec.destination)).partitions:
            self._reading[part.partition] = part.end
        source = await self._transport.describe(self._spec.source)
        self._scored_before = _end(source) - await self._lag(source, f"{self._spec.name}.scorer")
        self._learnt_before = self._starts[self._spec.source] >= self._spec.detector.sub_sample_size
        self._began_s = self._clock.monotonic_s()

    @property
    def records_before(self) -> int:
        """Records that the source had taken before `begin`."""
        return self._starts[self._spec.source]

    @property
    def elapsed_s(self) -> float:
        """Seconds since `begin`."""
        return self._clock.monotonic_s() - self._began_s

    async def scorer_lag(self) -> int:
        """Records behind the last one that the scorer has committed; positions are counted, gaps included."""
        return await self._lag(await self._transport.describe(self._spec.source), f"{self._spec.name}.scorer")

    async def sink_lag(self) -> int:
        """Anomalies and errors behind the ends of the last claims whose objects are all there."""
        group = f"{self._spec.name}.sink"
        streams = (self._spec.destination, self._spec.errors)
        return sum([await self._lag(await self._transport.describe(stream), group) for stream in streams])

    async def look(
        self, *, phase: str, total_s: float | None, records_total: int | None, notes: tuple[str, ...]
    ) -> View:
        """Poll once. Raises StreamUnavailable, StoreUnavailable."""
        source = await self._transport.describe(self._spec.source)
        scorer_lag = await self._lag(source, f"{self._spec.name}.scorer")
        destination = await self._transport.describe(self._spec.destination)
        sink_lag = await self._lag(destination, f"{self._spec.name}.sink")
        errors = await self._transport.describe(self._spec.errors)
        await self._read_anomalies(destination)
        await self._count_objects(now=phase != self._phase)
        self._phase = phase
        records = _end(source) - self._starts[self._spec.source]
        self._scored_any = self._scored_any or _end(source) - scorer_lag > self._scored_before
        return View(
            phase=self._phase_shown(phase),
            elapsed_s=self.elapsed_s,
            total_s=total_s,
            records=records,
            records_total=records_total,
            records_per_s=self._rate(_end(source) - scorer_lag),
            scorer_lag=scorer_lag,
            sink_lag=sink_lag,
            anomalies=_end(destination) - self._starts[self._spec.destination],
            errors=_end(errors) - self._starts[self._spec.errors],
            learning=self._learning(_end(source) - scorer_lag),
            columns=self._columns,
            recent=self._recent_rows(),
            objects=self._objects,
            newest_object=self._newest_object,
            notes=notes,
        )

    def _phase_shown(self, phase: str) -> str:
        if phase != RUNNING or self._scored_any:
            return phase
        return STARTING if self.elapsed_s <= STARTING_S else STARTING_LONG

    async def _lag(self, info: StreamInfo, group: str) -> int:
        lag = 0
        for part in info.partitions:
            committed = await self._transport.committed(group, part.partition)
            lag += max(part.end - (part.oldest if committed is None else committed), 0)
        return lag

    async def _read_anomalies(self, info: StreamInfo) -> None:
        for part in info.partitions:
            position = max(self._reading.get(part.partition, part.oldest), part.oldest)
            batch = await self._transport.read(
                part.partition, position, records_max=READ_RECORDS_MAX, bytes_max=READ_BYTES_MAX
            )
            self._reading[part.partition] = batch.end
            for arrival_ms, value in zip(batch.arrivals_ms, batch.values, strict=True):
                self._recent.append(row_of(orjson.loads(value), self._columns, arrival_ms=arrival_ms))

    def _recent_rows(self) -> tuple[Row, ...]:
        oldest_ms = self._clock.now_ms() - RECENT_S * 1000.0
        while self._recent and self._recent[0].arrival_ms < oldest_ms:
            self._recent.popleft()
        return tuple(reversed(self._recent))

    async def _count_objects(self, *, now: bool) -> None:
        if not now and self._clock.monotonic_s() < self._objects_due_s:
            return
        self._objects_due_s = self._clock.monotonic_s() + OBJECTS_S
        self._objects, self._newest_object = 0, ""
        errors = name_beginning(self._spec.name, self._spec.errors)
        async for entry in data_objects(self._store):
            self._objects += 1
            if not entry.key.rpartition("/")[2].startswith(errors):
                self._newest_object = entry.key

    def _rate(self, scored: int) -> float:
        now_s = self._clock.monotonic_s()
        self._scored.append((now_s, scored))
        while len(self._scored) > 2 and now_s - self._scored[1][0] >= RATE_S:
            self._scored.popleft()
        since_s, before = self._scored[0]
        return (scored - before) / (now_s - since_s) if now_s > since_s else 0.0

    def _learning(self, scored: int) -> tuple[int, int] | None:
        needed = self._spec.detector.sub_sample_size
        if self._learnt_before or scored >= needed or self._recent:
            return None
        return scored, needed


def _end(info: StreamInfo) -> int:
    """Sum of the partitions' ends: the records ever published, on a log whose positions have no gaps."""
    return sum(part.end for part in info.partitions)
