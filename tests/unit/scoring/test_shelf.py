"""The models in one process's memory: how many, how large together, who makes room and who waits."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cutbank.errors import UsageError
from cutbank.pipeline.scoring.config import ScorerConfig
from cutbank.pipeline.scoring.model import PartitionModel
from cutbank.pipeline.scoring.shelf import ModelShelf
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.records import Partition, Position
from scoring_stage import DETECTORS, QUICK, SPEC, Recorder, Stage, trades

MODEL_BYTES = 1000
P = [Partition("trades", str(number)) for number in range(8)]


def model(partition: Partition) -> PartitionModel:
    run = Run("p", partition, "i", 1, "h")
    return PartitionModel.born(SPEC, Birth(run=run, start=Position(0)), DETECTORS)


def shelf_of(models_max: int, *, models: float = 100, metrics: Recorder | None = None) -> ModelShelf:
    """With room for so many models, live and unused together."""
    return ModelShelf(
        models_max, bytes_max=int(models * MODEL_BYTES), model_bytes=MODEL_BYTES, metrics=metrics or Recorder()
    )


class TestUnused:
    def test_gives_a_model_back_once(self) -> None:
        shelf = shelf_of(2)
        kept = model(P[0])
        shelf.put(kept)
        assert shelf.take(P[0]) is kept
        assert shelf.take(P[0]) is None

    def test_keeps_the_most_recent_few(self) -> None:
        shelf = shelf_of(2)
        for number in (0, 1, 0, 2):
            shelf.put(model(P[number]))
        assert shelf.take(P[1]) is None
        assert shelf.take(P[0]) is not None
        assert shelf.take(P[2]) is not None

    def test_may_keep_none(self) -> None:
        shelf = shelf_of(0)
        shelf.put(model(P[0]))
        assert shelf.take(P[0]) is None


class TestRoom:
    async def test_unused_models_make_room_the_oldest_first_but_not_ones_own(self) -> None:
        shelf, stop = shelf_of(8, models=4), asyncio.Event()
        for number in (0, 1, 2):
            shelf.put(model(P[number]))
        async with shelf.room(P[5], stop=stop):
            assert shelf.held_bytes == 4 * MODEL_BYTES
            async with shelf.room(P[0], stop=stop):
                assert shelf.take(P[0]) is not None, "its own is not what makes room for it"
                assert shelf.take(P[1]) is not None
                shelf.put(model(P[1]))
                async with shelf.room(P[6], stop=stop):
                    assert [shelf.take(P[number]) for number in (2,)] == [None], "the oldest made room"
                    assert shelf.take(P[1]) is not None
                    assert shelf.held_bytes == 3 * MODEL_BYTES

    async def test_one_too_many_waits_loudly_until_another_leaves(self) -> None:
        metrics = Recorder()
        shelf, stop, left, events = shelf_of(8, models=2.5, metrics=metrics), asyncio.Event(), asyncio.Event(), []

        async def live(partition: Partition, until: asyncio.Event) -> None:
            async with shelf.room(partition, stop=stop):
                events.append(partition.id)
                await until.wait()

        with capture_logs() as logs:
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                for partition in P[:2]:
                    group.create_task(live(partition, left))
                await settle()
                for partition in P[2:4]:
                    group.create_task(live(partition, stop))
                await settle()
                assert events == ["0", "1"]
                assert metrics.gauges["cutbank_partitions_waiting"] == 2
                assert metrics.gauges["cutbank_models_bytes"] == 2 * MODEL_BYTES
                left.set()
                await settle()
                assert sorted(events) == ["0", "1", "2", "3"]
                assert metrics.gauges["cutbank_partitions_waiting"] == 0
                stop.set()
        said = [entry for entry in logs if entry["log_level"] == "error"]
        assert [entry["partition"] for entry in said] == ["trades/2", "trades/3"]
        assert "a model takes 1000 bytes, 2 are live, and models_bytes_max is 2500: raise it" in said[0]["why"]
        assert metrics.gauges["cutbank_models_bytes"] == 0

    async def test_a_stop_ends_the_wait(self) -> None:
        shelf, stop, entered = shelf_of(8, models=1), asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            async with shelf.room(P[1], stop=stop):
                entered.set()

        async with asyncio.timeout(10), shelf.room(P[0], stop=stop):
            waiting = asyncio.create_task(wait())
            await settle()
            assert not waiting.done()
            stop.set()
            await waiting
            assert shelf.held_bytes == MODEL_BYTES
        assert shelf.held_bytes == 0


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_partition_without_room_is_scored_once_another_is_handed_over(tmp_path: Path) -> None:
    """On the real log: two partitions, room for one model; each is scored whole, one after the other."""
    config = QUICK.model_copy(update={"models_bytes_max": 3 << 20, "models_kept_max": 8})
    two = replace(DETECTORS, model_bytes=lambda: 2 << 20)
    async with Stage(tmp_path, config=config, detectors=two, partitions=2).opened() as stage:
        for partition in ("0", "1"):
            await stage.publish(trades(20), partition=partition)
        async with stage.worker() as worker, stage.transport.consumer("p.scorer", ["trades"]) as consumer:
            events = consumer.events()
            first, second = (await anext(events)).lease, (await anext(events)).lease
            stops = [asyncio.Event(), asyncio.Event()]
            running = [asyncio.create_task(worker.work(first, stops[0]))]
            await scored(stage, first.partition)
            running.append(asyncio.create_task(worker.work(second, stops[1])))
            await settle()
            assert stage.metrics.gauges["cutbank_partitions_waiting"] == 1
            assert await stage.committed(second.partition) is None
            stops[0].set()
            await running[0]
            await scored(stage, second.partition)
            assert stage.metrics.gauges["cutbank_models_bytes"] == 2 << 20, "the unused one made room"
            stops[1].set()
            await running[1]


async def scored(stage: Stage, partition: Partition) -> None:
    """Until its 20 records are."""
    while await stage.committed(partition) != 20:  # noqa: ASYNC110  # the log tells nobody
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [0, 1, (1 << 44) + 1])
def test_the_limit_has_limits(size: int) -> None:
    with pytest.raises(UsageError, match="CUTBANK_MODELS_BYTES_MAX"):
        ScorerConfig.load({"CUTBANK_MODELS_BYTES_MAX": str(size)})
