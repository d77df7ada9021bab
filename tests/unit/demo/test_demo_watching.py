"""The screen's figures come from the log and the folder alone."""

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from cutbank.cli.demo import watching
from cutbank.cli.demo.view import RUNNING, STARTING, STARTING_LONG, STARTING_S, View
from cutbank.cli.demo.watching import Watcher
from cutbank.metrics import NoMetrics
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message, Position
from cutbank.testing.clock import ManualClock
from cutbank.transports.base import Lease, StreamConfig, Transport
from cutbank.transports.local import open_local

SPEC = PipelineSpec()


class House:
    """A log on a manual clock, a folder of objects, and somebody who commits."""

    def __init__(self, log: Transport, store: FileSystemStore, clock: ManualClock) -> None:
        self.log = log
        self.store = store
        self.clock = clock
        self.watcher = Watcher(log, store, SPEC, clock=clock)
        self._leases: dict[str, Lease] = {}

    async def commit(self, group: str, stream: str, position: int) -> None:
        async with self.log.consumer(f"{SPEC.name}.{group}", [stream]) as consumer:
            async for event in consumer.events():
                await event.lease.fence()
                await event.lease.commit(Position(position))
                await event.lease.release()
                return

    async def publish(self, stream: str, count: int) -> None:
        row = {"tickerSymbol": "OXBOW", "price": 1.5, "ANOMALY_SCORE": 2.0, "ROWTIME": "2026-09-21T14:13:20.000Z"}
        await self.log.publish([Message(stream, orjson.dumps(row)) for _ in range(count)])

    async def look(self, phase: str = RUNNING) -> View:
        return await self.watcher.look(phase=phase, total_s=None, records_total=None, notes=())


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = ManualClock()
    async with (
        open_local(f"local://{tmp_path}/log.db", clock=clock, metrics=NoMetrics()) as log,
        FileSystemStore(tmp_path / "anomalies", clock=clock, metrics=NoMetrics()) as store,
    ):
        for name in (SPEC.source, SPEC.destination, SPEC.errors):
            await log.ensure(StreamConfig(name))
        yield House(log, store, clock)


async def test_only_what_comes_after_the_beginning_counts(house: House) -> None:
    await house.publish(SPEC.source, 300)
    await house.publish(SPEC.destination, 7)
    await house.publish(SPEC.errors, 2)
    await house.watcher.begin()
    assert house.watcher.records_before == 300
    await house.publish(SPEC.source, 10)
    await house.publish(SPEC.destination, 3)
    await house.publish(SPEC.errors, 1)
    view = await house.look()
    assert (view.records, view.anomalies, view.errors) == (10, 3, 1)
    assert len(view.recent) == 3
    assert (view.scorer_lag, view.sink_lag) == (310, 10)
    assert view.learning is None


async def test_lag_is_the_distance_to_the_committed_position(house: House) -> None:
    await house.watcher.begin()
    await house.publish(SPEC.source, 100)
    await house.publish(SPEC.destination, 5)
    await house.commit("scorer", SPEC.source, 60)
    await house.commit("sink", SPEC.destination, 5)
    assert await house.watcher.scorer_lag() == 40
    assert await house.watcher.sink_lag() == 0
    view = await house.look()
    assert (view.scorer_lag, view.sink_lag) == (40, 0)


async def test_the_rate_is_that_of_the_last_seconds(house: House) -> None:
    await house.watcher.begin()
    await house.publish(SPEC.source, 1000)
    await house.look()
    await house.commit("scorer", SPEC.source, 500)
    house.clock._elapsed_s += 2.0
    assert (await house.look()).records_per_s == pytest.approx(250.0)
    for _ in range(10):
        house.clock._elapsed_s += 1.0
        view = await house.look()
    assert view.records_per_s == 0.0


async def test_old_anomalies_leave_the_table(house: House) -> None:
    await house.watcher.begin()
    await house.publish(SPEC.destination, 2)
    assert len((await house.look()).recent) == 2
    house.clock._elapsed_s += watching.RECENT_S + 1.0
    await house.publish(SPEC.destination, 1)
    assert len((await house.look()).recent) == 1


async def test_objects_are_counted_without_claims(house: House) -> None:
    await house.watcher.begin()
    await house.store.create("_cutbank/p/s/0/birth", b"{}")
    await house.store.create("2026/11/23/06/a.json", b"{}\n")
    await house.store.create("2026/11/23/07/b.json", b"{}\n")
    view = await house.look()
    assert (view.objects, view.newest_object) == (2, "2026/11/23/07/b.json")
    await house.store.create("2026/11/23/08/c.json", b"{}\n")
    assert (await house.look()).objects == 2, "the folder is not read in every frame"
    assert (await house.look(phase="done")).objects == 3, "but at every change"


async def test_until_something_is_scored_it_is_starting_and_then_learning(house: House) -> None:
    await house.watcher.begin()
    await house.publish(SPEC.source, 400)
    view = await house.look()
    assert (view.phase, view.learning) == (STARTING, (0, 256))
    house.clock._elapsed_s += STARTING_S + 1.0
    assert (await house.look()).phase == STARTING_LONG
    await house.commit("scorer", SPEC.source, 100)
    view = await house.look()
    assert (view.phase, view.learning) == (RUNNING, (100, 256))
    await house.commit("scorer", SPEC.source, 300)
    assert (await house.look()).learning is None


async def test_one_look_reads_so_much_and_the_table_keeps_the_newest_rows(house: House) -> None:
    await house.watcher.begin()
    await house.publish("anomalies", watching.READ_RECORDS_MAX + 10)
    for read in (watching.READ_RECORDS_MAX, watching.READ_RECORDS_MAX + 10):
        assert len((await house.look()).recent) == watching.RECENT_ROWS_MAX
        assert list(house.watcher._reading.values()) == [read]
