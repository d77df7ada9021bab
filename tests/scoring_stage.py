"""The stage of the scorer's tests: the real local log and the real file-system store in a temporary folder.

`Stage` opens both and knows how to fill, run and read; `TappedLease` and `TappedStore` are taps with a hook before and
after each call, where a test may raise, stop or watch.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import orjson

from cutbank.clock import Clock, SystemClock
from cutbank.objects import open_store
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.scoring.config import ScorerConfig
from cutbank.pipeline.scoring.model import DetectorSource, PartitionModel
from cutbank.pipeline.scoring.room import Rooms
from cutbank.pipeline.scoring.scene import Scene
from cutbank.pipeline.scoring.scorer import group_name
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.scoring.worker import ScorerWorker
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Message, Partition, Position
from cutbank.testing import taps
from cutbank.testing.detectors import chain_detectors
from cutbank.transports.base import Assigned, Lease, StreamConfig
from cutbank.transports.local import LocalTransport, open_local

DEADLINE_S = 30.0
SPEC = PipelineSpec(name="p")
DETECTORS = chain_detectors(dimensions=2, share=0.3)
P0 = Partition("trades", "0")
QUICK = ScorerConfig(batch_records_max=7, snapshot_s=3600.0, wait_s=0.01, threads=1)
"""Snapshots are taken at a stop alone: how many there are does not depend on the machine's load."""

T = TypeVar("T")

Hook = Callable[[str, str], Awaitable[None]]
"""Called with a call's name and `before` or `after`; may raise."""


def trade(number: int, *, price: float | None = None) -> bytes:
    """A good record, unlike every other number's."""
    return orjson.dumps(
        {
            "tickerSymbol": "AMZN",
            "tradeType": "BUY",
            "price": 100.0 + number / 7 if price is None else price,
            "quantity": number,
            "id": number,
        }
    )


def trades(count: int, *, first: int = 0) -> list[bytes]:
    """Good records, one after another."""
    return [trade(number) for number in range(first, first + count)]


class Recorder:
    """A metrics sink that remembers."""

    def __init__(self) -> None:
        self.counters: dict[str, float] = {}
        self.gauges: dict[str, float] = {}

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        self.counters[name] = self.counters.get(name, 0.0) + value

    def set(self, name: str, value: float, /, **labels: str) -> None:
        self.gauges[name] = value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        self.counters[name] = self.counters.get(name, 0.0) + 1


async def _nothing(name: str, phase: str) -> None:
    pass


def _hooked(hook: Hook, name_of: Callable[[taps.Call], str | None]) -> taps.Around:
    """The hook before and after each call that has a name."""

    async def around(call: taps.Call, do: Callable[[], Awaitable[T]], /) -> T:
        name = name_of(call)
        if name is None:
            return await do()
        await hook(name, "before")
        result = await do()
        await hook(name, "after")
        return result

    return around


class TappedLease(taps.TappedLease):
    """A real lease with a hook around each call but its release; `idle` is a `receive` that waited for nothing."""

    def __init__(self, lease: Lease, hook: Hook = _nothing) -> None:
        names = {"lease_committed": "committed", "publish_and_commit": "publish", "release": None}
        super().__init__(lease, _hooked(hook, lambda call: names.get(call.name, call.name)))
        self.hook = hook

    async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        batch = await super().receive(records_max=records_max, bytes_max=bytes_max, wait_s=wait_s)
        if len(batch) == 0 and wait_s > 0.0:
            await self.hook("idle", "after")
        return batch


class ForgottenLease(TappedLease):
    """A real lease of a group that lost its committed position: there is none until something is committed."""

    _forgotten = True

    async def fence(self) -> Position | None:
        committed = await super().fence()
        return None if self._forgotten else committed

    async def committed(self) -> Position | None:
        committed = await super().committed()
        return None if self._forgotten else committed

    async def commit(self, next_position: Position) -> None:
        await super().commit(next_position)
        self._forgotten = False


class LogClock(SystemClock):
    """The machine's clock; the log's wall time can be moved, so that retention passes."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


class TappedStore(taps.TappedStore):
    """A real store, closed by its owner, with a hook around each call that an assignment or a snapshot makes."""

    def __init__(self, store: ObjectStore, hook: Hook = _nothing) -> None:
        super().__init__(store, _hooked(hook, self._name))

    @staticmethod
    def _name(call: taps.Call) -> str | None:
        if call.name == "create":
            return "create birth" if call.subject.endswith("birth") else "create snapshot"
        return call.name if call.name in ("read", "list", "delete") else None


class Stage:
    """A log, a state store, and one partition of trades (or more)."""

    def __init__(
        self,
        folder: Path,
        *,
        spec: PipelineSpec = SPEC,
        config: ScorerConfig = QUICK,
        detectors: DetectorSource = DETECTORS,
        partitions: int = 1,
        streams: Sequence[str] = ("trades", "anomalies", "errors", "scores"),
    ) -> None:
        self.folder = folder
        self.spec = spec
        self.config = config
        self.detectors = detectors
        self.metrics = Recorder()
        self.partitions = partitions
        self.streams = streams
        self.transport: LocalTransport
        self.log_clock = LogClock()
        self.store: ObjectStore

    @property
    def state_folder(self) -> Path:
        return self.folder / "state"

    def open_transport(self) -> LocalTransport:
        url = f"local://{self.folder}/log.db?durability=process-crash&poll_ms=2&heartbeat_ms=50&session_timeout_ms=5000"
        return open_local(url, clock=self.log_clock, metrics=self.metrics)

    @asynccontextmanager
    async def opened(self) -> "AsyncIterator[Stage]":
        """With the log and the store open and all streams made."""
        clock = SystemClock()
        store = open_store(f"file://{self.state_folder}", clock=clock, metrics=self.metrics)
        async with asyncio.timeout(DEADLINE_S), self.open_transport() as self.transport, store as self.store:
            for name in self.streams:
                partitions = self.partitions if name == "trades" else 1
                await self.transport.ensure(StreamConfig(name=name, partitions=partitions))
            yield self

    async def publish(self, values: Sequence[bytes], *, partition: str = "0") -> None:
        messages = [Message("trades", value, partition_id=partition) for value in values]
        await self.transport.publish(messages)

    async def read(self, stream: str, partition: str = "0") -> Batch:
        """All that is retained of a partition, as one batch."""
        info = await self.transport.describe(stream)
        bounds = next(one for one in info.partitions if one.partition.id == partition)
        found = []
        position = bounds.oldest
        while position < bounds.end:
            found.append(await self.transport.read(bounds.partition, position, records_max=10_000, bytes_max=1 << 30))
            position = found[-1].end
        return Batch(
            partition=bounds.partition,
            start=bounds.oldest,
            end=bounds.end,
            positions=[one for batch in found for one in batch.positions],
            arrivals_ms=[one for batch in found for one in batch.arrivals_ms],
            keys=[one for batch in found for one in batch.keys],
            values=[one for batch in found for one in batch.values],
        )

    async def lines(self, stream: str) -> list[bytes]:
        return list((await self.read(stream)).values)

    async def committed(self, partition: Partition = P0) -> Position | None:
        return await self.transport.committed(group_name(self.spec), partition)

    async def oracle(self, *, run: int = 1, start: Position | None = None) -> dict[str, list[bytes]]:
        """What one undisturbed run over the log as it lies publishes, by stream."""
        batch = await self.read("trades")
        identity = (await self.transport.describe("trades")).identity
        born = Run(pipeline=self.spec.name, partition=P0, identity=identity, number=run, spec_hash="")
        birth = Birth(run=born, start=batch.start if start is None else start)
        model = PartitionModel.born(self.spec, birth, self.detectors, emit=self.config.emit)
        outputs = model.apply(batch).outputs
        return {
            name: [output.value for output in outputs if output.stream == name]
            for name in ("anomalies", "errors", "scores")
        }

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        """A lease of the first partition assigned to a new member of the scorers' group."""
        async with self.transport.consumer(group_name(self.spec), ["trades"]) as consumer:
            async for event in consumer.events():
                if isinstance(event, Assigned):
                    yield event.lease
                    return

    def scene(
        self, threads: ThreadPoolExecutor, *, store: ObjectStore | None = None, clock: Clock | None = None
    ) -> Scene:
        return Scene(
            transport=self.transport,
            state=StateRoom(store or self.store, pipeline=self.spec.name, stream=self.spec.source),
            spec=self.spec,
            spec_hash=self.spec.hash(algorithm_version=self.detectors.algorithm_version),
            config=self.config,
            detectors=self.detectors,
            clock=clock or SystemClock(),
            metrics=self.metrics,
            threads=threads,
            rooms=Rooms(self.config),
        )

    @asynccontextmanager
    async def worker(
        self, *, store: ObjectStore | None = None, clock: Clock | None = None
    ) -> AsyncIterator[ScorerWorker]:
        """A worker as one process has it."""
        with ThreadPoolExecutor(self.config.threads) as threads:
            yield ScorerWorker(self.scene(threads, store=store, clock=clock), rng=random.Random(1))

    async def expire_all(self) -> None:
        """Two days pass on the log's clock, and retention takes what is there."""
        self.log_clock.ahead_ms += 2 * 24 * 3600 * 1000
        await self.transport.expire()

    async def commit(self, position: int) -> None:
        """Move the group's committed position, as an operator would."""
        async with self.lease() as lease:
            await lease.fence()
            await lease.commit(Position(position))

    async def score_all(self, *, hook: Hook = _nothing, lease_type: type[TappedLease] = TappedLease) -> None:
        """One process that scores until nothing is left, then stops cleanly."""
        stop = asyncio.Event()

        async def until_idle(name: str, phase: str) -> None:
            if name == "idle":
                stop.set()
            await hook(name, phase)

        async with self.lease() as lease, self.worker(store=TappedStore(self.store, hook)) as worker:
            await worker.work(lease_type(lease, until_idle), stop)

    def snapshots(self, *, run: int = 1) -> list[Path]:
        """Files of a run's snapshots, newest first."""
        folder = self.state_folder / "p" / "trades" / "0" / f"{run:08d}"
        return sorted(path for path in folder.iterdir() if path.name != "birth") if folder.exists() else []


def sources(lines: Sequence[bytes]) -> list[str]:
    """The source positions of lines."""
    return [orjson.loads(line)["SOURCE"]["position"] for line in lines]
