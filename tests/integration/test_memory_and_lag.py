"""Memory does not grow with the lag, nor with an outage: the most that scorer and sink hold at once, counted.

Deterministic in what is read; measured by tracemalloc, which counts what Python, numpy and orjson ask for. The same
measure is shown to see a leak: with every batch kept on purpose, it must fail.
"""

import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from cutbank.errors import StoreUnavailable
from cutbank.pipeline.scoring.config import ScorerConfig
from cutbank.records import Batch
from cutbank.testing import taps
from cutbank.testing.taps import Call
from cutbank.transports.base import Lease
from scoring_stage import Hook, Stage, TappedLease, trade
from sinking_world import World, anomaly

T = TypeVar("T")

LITTLE = 1_000
MUCH = 10 * LITTLE
PADDING = b" " * 400
"""In every record: memory grows by what is read, time by how many records."""
GROWTH_MAX = 1.2
"""Of the most that is held, from little lag to much."""
SPARE_BYTES = 256 << 10
"""Caches that fill up as they go: of seconds' texts, of statements, of the interpreter."""
BATCH = 100


@contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Counts what is asked for from here on; gives the most that was held at once so far, bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Hoard:
    """Around a transport: keeps every batch that was received, if told to."""

    def __init__(self, *, keeps: bool) -> None:
        self.keeps = keeps
        self.batches: list[Any] = []

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        result = await do()
        if self.keeps and call.name == "receive":
            self.batches.append(result)
        return result


async def scored(folder: Path, records: int, *, hoard: bool) -> int:
    """The most that a scorer holds while it works off so much lag, every record also in [scores]."""
    config = ScorerConfig(batch_records_max=BATCH, snapshot_s=3600.0, wait_s=0.01, threads=1, emit="all")
    batches: list[Batch] = []

    class Hoarding(TappedLease):
        def __init__(self, lease: Lease, hook: Hook) -> None:
            super().__init__(lease, hook)

        async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
            batch = await super().receive(records_max=records_max, bytes_max=bytes_max, wait_s=wait_s)
            if hoard:
                batches.append(batch)
            return batch

    async with Stage(folder, config=config).opened() as stage:
        for first in range(0, records, 500):
            await stage.publish([trade(number) + PADDING for number in range(first, first + 500)])
        with counted() as most:
            await stage.score_all(lease_type=Hoarding)
            held = most()
        assert await stage.committed() == records
        return held


async def sunk(folder: Path, records: int, *, hoard: bool) -> int:
    """The most that a sink holds while it works off so much lag, all of one minute."""
    async with World(folder) as world:
        for first in range(0, records, 500):
            await world.publish(*(anomaly(number) + PADDING for number in range(first, first + 500)), minute=0)
        world.transport = taps.TappedTransport(world.transport, Hoard(keeps=hoard))
        with counted() as most:
            async with world.sinking(held_bytes_max=1 << 20, stretch_bytes_max=256 << 10) as running:
                await world.until(world.all_committed, running)
            held = most()
        assert sum(claim.records for claim in await world.claims()) == records
        return held


@pytest.mark.parametrize("work", [scored, sunk])
async def test_ten_times_the_lag_takes_the_same_memory(work: Callable[..., Awaitable[int]], tmp_path: Path) -> None:
    await work(tmp_path / "warm", 500, hoard=False)  # what is imported and cached once counts for nobody
    little = await work(tmp_path / "little", LITTLE, hoard=False)
    much = await work(tmp_path / "much", MUCH, hoard=False)
    assert much <= GROWTH_MAX * little + SPARE_BYTES
    leaking = await work(tmp_path / "leaking", MUCH, hoard=True)
    assert leaking > 2 * (GROWTH_MAX * little + SPARE_BYTES), "the measure sees batches that are kept"


async def test_an_outage_of_the_store_holds_no_more_however_long_the_log_grows(tmp_path: Path) -> None:
    """The sink reads up to its limit and stops; when the store is back, everything is in objects, once."""
    limit, down = 1 << 20, True

    async def outage(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if down and call.name == "create" and "/birth" not in call.subject:
            raise StoreUnavailable("no answer")
        return await do()

    async with World(tmp_path) as world:
        store = taps.TappedStore(world.store, outage)
        await world.publish(anomaly(0), minute=0)
        async with world.sinking(store=store, held_bytes_max=limit, stretch_bytes_max=256 << 10) as running:
            held: list[int] = []
            for hour in range(20):
                values = [anomaly(1 + 200 * hour + number) + PADDING for number in range(200)]
                await world.publish(*values, minute=60 * hour)
                await world.clock.advance(60.0)
                held.append(running.sink.held_bytes)
            assert max(held) > 0, "it holds something, or the test shows nothing"
            assert max(held) <= limit
            assert world.metrics.counts["cutbank_retries_total create claim"] > 20
            down = False
            await world.until(world.all_committed, running)
        lines = [orjson.loads(line)["id"] for line in await world.lines()]
        assert sorted(lines) == list(range(4_001))
        await world.check_whole()
