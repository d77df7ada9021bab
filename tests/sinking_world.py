"""A small world for the sink's tests: a real embedded log and a real folder on a manual clock, and stores that fail.

Owned by one test; event-loop only. Time moves only in `until`, a little at a time, while the condition is not met.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson

from cutbank.clock import Clock
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectStore
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.sinking import ChainId, Claim, Layout, Sink, SinkConfig, inspect
from cutbank.pipeline.sinking.lines import rowtime
from cutbank.pipeline.sinking.rendering import content, is_content_of
from cutbank.pipeline.sinking.rendering import lines as content_lines
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Batch, Message, Partition, Position, position_text
from cutbank.testing.clock import START_MS, ManualClock
from cutbank.testing.faults import Fault, Faults, FaultyStore
from cutbank.testing.taps import Call
from cutbank.transports.base import Assigned, Lease, StreamConfig
from cutbank.transports.local import open_local

T = TypeVar("T")

MINUTE_MS = 60_000
STREAM = "anomalies"
PIPELINE = "p"
CHAIN = ChainId(PIPELINE, STREAM, "0")
FIRST_MINUTE_MS = START_MS - START_MS % MINUTE_MS + MINUTE_MS
DEADLINE_S = 120.0
"""Real seconds after which a wait has failed."""


def anomaly(
    number: int,
    *,
    score: float = 1.5,
    run: int = 1,
    source: str = "0",
    at_ms: int = START_MS,
    pipeline: str = PIPELINE,
    columns: Mapping[str, Any] | None = None,
) -> bytes:
    """An anomaly's line as the scorer makes it; `number` is its position in the source; `columns` are further ones."""
    fields = {
        "id": number,
        **(columns or {}),
        "ANOMALY_SCORE": score,
        "ROWTIME": rowtime(at_ms),
        "SOURCE": {
            "pipeline": pipeline,
            "stream": "trades@00000000",
            "run": run,
            "partition": source,
            "position": position_text(Position(number)),
            "ordinal": 0,
        },
    }
    return orjson.dumps(fields)


def error_record(number: int, *, at_ms: int = START_MS, source: str = "0") -> bytes:
    """An error record's line as the scorer makes it; `number` is its position in the source."""
    fields = orjson.loads(anomaly(number, source=source))
    return orjson.dumps(
        {
            "ERROR_TIME": rowtime(at_ms),
            "ERROR_LEVEL": "ERROR",
            "ERROR_NAME": "invalid_json",
            "MESSAGE": "not valid JSON",
            "DATA_ROWTIME": rowtime(at_ms),
            "DATA_ROW": "7b",
            "DATA_BYTES": 1,
            "PUMP_NAME": PIPELINE,
            "id": number,
            "SOURCE": fields["SOURCE"],
        }
    )


def ids(lines: Sequence[bytes]) -> list[int]:
    return [orjson.loads(line)["id"] for line in lines]


def stretch_of(layout: Layout, values: Sequence[bytes]) -> Stretch:
    """A stretch of these records from position 0 on, all of one minute, none left out."""
    stretch = Stretch(
        pipeline=PIPELINE,
        layout=layout,
        start=Position(0),
        reading=Position(0),
        marks=(),
        minute_ms=0,
        bytes_max=1 << 30,
        records_max=len(values),
    )
    batch = Batch(
        partition=Partition(STREAM, "0"),
        start=Position(0),
        end=Position(len(values)),
        positions=[Position(n) for n in range(len(values))],
        arrivals_ms=[FIRST_MINUTE_MS] * len(values),
        keys=[None] * len(values),
        values=values,
    )
    assert stretch.take(batch, broker_ms=FIRST_MINUTE_MS) == len(values)
    return stretch


class Counted(NoMetrics):
    """Counters, by name and labels' values."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        self.counts[" ".join((name, *labels.values()))] += int(value)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        self.gauges[" ".join((name, *labels.values()))] = value


class Gate:
    """Around a store: holds every create of a key with `part` in it until `open`; `reached` tells that one waits."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.open = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if call.name == "create" and self.part in call.subject:
            self.reached.set()
            await self.open.wait()
        return await do()


class Slow:
    """Around a store: takes its time before and after each create, by seed, so that several meet in every order."""

    def __init__(self, clock: Clock, *, seed: int) -> None:
        self.clock = clock
        self.rng = random.Random(seed)

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if call.name != "create":
            return await do()
        await self.clock.sleep(self.rng.choice([0.0, 0.5, 5.0]))
        result = await do()
        await self.clock.sleep(self.rng.choice([0.0, 0.5, 5.0]))
        return result


class Faulty(FaultyStore):
    """A world's store with `faults` at its calls: none to begin with."""

    def __init__(self, world: "World", *, seed: int = 0) -> None:
        self.faults = Faults(seed, clock=world.clock)
        super().__init__(world.store, self.faults)

    @property
    def struck(self) -> list[str]:
        """The keys of the calls that a fault has struck."""
        return [event.call.subject for event in self.faults.history if event.call is not None]


def crashing(world: "World", *, at: int, after: bool = False) -> Faulty:
    """Its process dies at the `at`-th create (from 0): before it is done, or after it, when nobody learns of it."""
    store = Faulty(world)
    store.faults.at("create", nth=at + 1, fault=Fault.CRASH_AFTER if after else Fault.CRASH_BEFORE)
    return store


class World:
    """A log with [anomalies], a folder for objects, a clock."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock(start_ms=FIRST_MINUTE_MS)
        self.url = f"local://{path}/log.db?durability=process-crash"
        self.store = FileSystemStore(path / "objects", clock=self.clock, metrics=NoMetrics())
        self.metrics = Counted()
        self.transport: Any = None
        self.partitions = 1
        self.retention_ms = 24 * 3600 * 1000

    async def __aenter__(self) -> Self:
        self.transport = open_local(self.url, clock=self.clock, metrics=self.metrics)
        await self.transport.__aenter__()
        await self.transport.ensure(StreamConfig(STREAM, partitions=self.partitions, retention_ms=self.retention_ms))
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.transport.__aexit__(*failure)

    async def publish(self, *values: bytes, partition: str = "0", minute: int | None = None) -> None:
        """One batch; `minute` (from 0) moves the broker's clock there first, forward or back."""
        if minute is not None:
            self.clock.jump_wall(FIRST_MINUTE_MS + minute * MINUTE_MS - self.clock.now_ms())
        await self.transport.publish([Message(STREAM, value, partition_id=partition) for value in values])

    @asynccontextmanager
    async def lease(self, *, group: str = "p.sink", stream: str = STREAM) -> AsyncIterator[Lease]:
        """The lease of partition 0, as a new member of the group."""
        async with self.transport.consumer(group, [stream]) as consumer:
            async for event in consumer.events():
                assert isinstance(event, Assigned)
                yield event.lease
                return

    @asynccontextmanager
    async def sinking(
        self,
        *,
        store: ObjectStore | None = None,
        group: str = "p.sink",
        clock: Clock | None = None,
        **settings: Any,
    ) -> AsyncIterator["Running"]:
        """A sink at work on partition 0; leaving stops it and waits for it."""
        config = SinkConfig(**{"pipeline": PIPELINE, "stream": STREAM, **settings})
        sink = Sink(
            self.transport,
            store or self.store,
            config,
            clock=clock or self.clock,
            metrics=self.metrics,
            rng=random.Random(1),
        )
        async with self.lease(group=group) as lease:
            stop = asyncio.Event()
            running = Running(sink, stop, asyncio.ensure_future(sink.work(lease, stop)), self.clock)
            try:
                yield running
                stop.set()
                await running.ended()
            finally:
                running.task.cancel()
                await asyncio.wait({running.task})

    async def sink_all(self, **settings: Any) -> None:
        """Run a sink until everything published is in objects."""
        group = settings.get("group", "p.sink")
        async with self.sinking(**settings) as running:
            await self.until(lambda: self.all_committed(group), running)

    async def all_committed(self, group: str = "p.sink") -> bool:
        part = (await self.transport.describe(STREAM)).partitions[0]
        return bool(await self.transport.committed(group, part.partition) == part.end)

    async def committed(self) -> Position | None:
        committed: Position | None = await self.transport.committed("p.sink", Partition(STREAM, "0"))
        return committed

    async def until(
        self, condition: Callable[[], Awaitable[bool]], running: "Running | None" = None, *, step_s: float = 0.5
    ) -> None:
        """Move the clock in steps until the condition holds; fails when the sink does."""
        async with asyncio.timeout(DEADLINE_S):
            while not await condition():
                if running is not None and running.task.done():
                    running.task.result()
                    raise AssertionError("the sink ended before the condition was met")
                await self.clock.advance(step_s)

    async def claims(self) -> list[Claim]:
        return [claim async for claim in inspect.claims(self.store, PIPELINE)]

    async def objects(self) -> dict[str, list[bytes]]:
        """Lines of every data object, by key, read as the claim that names it says."""
        layouts = {item.key: claim.layout for claim in await self.claims() for item in claim.objects}
        found = {}
        async for info in inspect.data_objects(self.store):
            layout = layouts.get(info.key, Layout())
            whole = content(layout, await self.store.read(info.key))
            assert whole.endswith(b"\n")
            found[info.key] = content_lines(layout, whole)
        return found

    async def lines(self) -> list[bytes]:
        """All lines of all objects."""
        return [line for lines in (await self.objects()).values() for line in lines]

    async def check_whole(self) -> None:
        """Every chain is whole, and every claim's objects are there as it says; nothing else is."""
        keys = []
        starts: dict[ChainId, Position] = {}
        for claim in await self.claims():
            expected = starts.get(claim.chain, (await inspect.birth(self.store, claim.chain)).start)
            assert claim.start == expected, "a claim starts where the one before ended"
            starts[claim.chain] = claim.end
            for item in claim.objects:
                body = await self.store.read(item.key)
                assert is_content_of(claim.layout, item, body)
                whole = content(claim.layout, body)
                assert len(content_lines(claim.layout, whole)) == item.count
                assert claim.layout.format != "ndjson" or len(whole) == item.line_bytes
                keys.append(item.key)
        assert sorted(keys) == sorted(await self.objects())


class Running:
    """A sink at work."""

    def __init__(self, sink: Sink, stop: asyncio.Event, task: "asyncio.Future[None]", clock: ManualClock) -> None:
        self.sink = sink
        self.stop = stop
        self.task = task
        self.clock = clock

    def idle(self) -> "asyncio.Future[None]":
        """A task that ends well, to stand in for one that is to sleep on."""
        return asyncio.ensure_future(asyncio.sleep(0))

    async def ended(self) -> None:
        """Wait for its end, while time goes on; raises what it raised."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.task.done():
                await self.clock.advance(0.01)
        self.task.result()
