"""A small world for the sink's tests: a real embedded log and a real folder on a manual clock, and stores that fail.

Owned by one test; event-loop only. Time moves only in `until`, a little at a time, while the condition is not met.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import orjson

from cutbank.clock import Clock
from cutbank.errors import StoreUnavailable
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectInfo, ObjectStore
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.sinking import ChainId, Claim, Sink, SinkConfig, inspect
from cutbank.pipeline.sinking.lines import rowtime
from cutbank.records import Message, Partition, Position, position_text
from cutbank.testing.clock import START_MS, ManualClock
from cutbank.transports.base import Assigned, Lease, StreamConfig
from cutbank.transports.local import open_local

MINUTE_MS = 60_000
STREAM = "anomalies"
PIPELINE = "p"
CHAIN = ChainId(PIPELINE, STREAM, "0")
FIRST_MINUTE_MS = START_MS - START_MS % MINUTE_MS + MINUTE_MS
DEADLINE_S = 30.0
"""Real seconds after which a wait has failed."""


def anomaly(
    number: int,
    *,
    score: float = 1.5,
    run: int = 1,
    source: str = "0",
    at_ms: int = START_MS,
    pipeline: str = PIPELINE,
) -> bytes:
    """An anomaly's line as the scorer makes it; `number` is its position in the source."""
    fields = {
        "id": number,
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


def ids(lines: Sequence[bytes]) -> list[int]:
    return [orjson.loads(line)["id"] for line in lines]


class Counted(NoMetrics):
    """Counters, by name and labels' values."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        self.counts[" ".join((name, *labels.values()))] += int(value)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        self.gauges[" ".join((name, *labels.values()))] = value


class Crashed(BaseException):
    """The process is gone: nothing of ours may catch it."""


class Wrapped:
    """A store that passes everything on; tests override `create`."""

    def __init__(self, store: ObjectStore) -> None:
        self.inner = store

    @property
    def url(self) -> str:
        return self.inner.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        """The inner store is closed by its owner."""

    async def create(self, key: str, body: bytes) -> None:
        await self.inner.create(key, body)

    async def read(self, key: str) -> bytes:
        return await self.inner.read(key)

    async def exists(self, key: str) -> bool:
        return await self.inner.exists(key)

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        return self.inner.list(prefix, after=after)

    async def delete(self, key: str) -> None:
        await self.inner.delete(key)

    async def probe(self) -> None:
        await self.inner.probe()


class Crashing(Wrapped):
    """Crashes at the `at`-th create (from 0): before it is done, or after it, when nobody learns of it."""

    def __init__(self, store: ObjectStore, *, at: int, after: bool = False) -> None:
        super().__init__(store)
        self.left = at
        self.after = after
        self.crashed_at: str | None = None

    async def create(self, key: str, body: bytes) -> None:
        self.left -= 1
        if self.left >= 0:
            await self.inner.create(key, body)
            return
        if self.after:
            await self.inner.create(key, body)
        self.crashed_at = key
        raise Crashed(key)


class Gated(Wrapped):
    """Holds every create of a key with `part` in it until `gate` is set; `reached` tells that one waits."""

    def __init__(self, store: ObjectStore, part: str) -> None:
        super().__init__(store)
        self.part = part
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()

    async def create(self, key: str, body: bytes) -> None:
        if self.part in key:
            self.reached.set()
            await self.gate.wait()
        await self.inner.create(key, body)


class Timed(Wrapped):
    """Notes when each create was asked for, monotonic seconds."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        super().__init__(store)
        self.clock = clock
        self.creates_s: list[float] = []

    async def create(self, key: str, body: bytes) -> None:
        self.creates_s.append(self.clock.monotonic_s())
        await self.inner.create(key, body)


class Slow(Wrapped):
    """Takes its time before and after each create, by seed, so that several sinks meet in every order."""

    def __init__(self, store: ObjectStore, clock: Clock, *, seed: int) -> None:
        super().__init__(store)
        self.clock = clock
        self.rng = random.Random(seed)

    async def create(self, key: str, body: bytes) -> None:
        await self.clock.sleep(self.rng.choice([0.0, 0.5, 5.0]))
        await self.inner.create(key, body)
        await self.clock.sleep(self.rng.choice([0.0, 0.5, 5.0]))


class Unavailable(Wrapped):
    """Refuses creates while `down`; loses the reply of some, by seed."""

    def __init__(self, store: ObjectStore, *, down: bool = False, lost_replies: float = 0.0, seed: int = 0) -> None:
        super().__init__(store)
        self.down = down
        self.lost_replies = lost_replies
        self.rng = random.Random(seed)
        self.refused = 0

    async def create(self, key: str, body: bytes) -> None:
        if self.down:
            self.refused += 1
            raise StoreUnavailable("the disk is full")
        await self.inner.create(key, body)
        if self.rng.random() < self.lost_replies:
            raise StoreUnavailable("the reply was lost")


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
        async with self.sinking(**settings) as running:
            await self.until(self.all_committed, running)

    async def all_committed(self) -> bool:
        part = (await self.transport.describe(STREAM)).partitions[0]
        return await self.transport.committed("p.sink", part.partition) == part.end

    async def committed(self) -> Position | None:
        return await self.transport.committed("p.sink", Partition(STREAM, "0"))

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
        """Lines of every data object, by key."""
        found = {}
        async for info in inspect.data_objects(self.store):
            body = await self.store.read(info.key)
            assert body.endswith(b"\n")
            found[info.key] = body.removesuffix(b"\n").split(b"\n")
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
                assert (body.count(b"\n"), len(body)) == (item.count, item.line_bytes)
                assert hashlib.sha256(body).hexdigest() == item.sha256
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
