"""The scorer's limits, each gone over: attempts, snapshots, run numbers, and what a long outage of its store holds."""

import asyncio
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from cutbank.errors import PartitionStopped, StateLost, StoreUnavailable
from cutbank.pipeline.scoring import ScorerConfig, run_scorer, worker
from cutbank.pipeline.scoring.keeper import PUT, SnapshotKeeper
from cutbank.pipeline.scoring.scorer import START
from cutbank.pipeline.scoring.snapshots import RUN_MAX, Birth, Run
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.records import Position
from cutbank.testing import ManualClock
from cutbank.transports.kafka.settings import KafkaSettings
from cutbank.transports.local.settings import LocalSettings
from scoring_stage import DETECTORS, P0, QUICK, Recorder, Stage, TappedStore, trades


class Down(TappedStore):
    """A state store that takes nothing, and counts what it was asked."""

    probes = creates = 0

    async def probe(self, *, deletes: bool = False) -> None:
        self.probes += 1
        raise StoreUnavailable("no answer")

    async def create(self, key: str, body: bytes) -> None:
        self.creates += 1
        raise StoreUnavailable("no answer")


async def test_a_store_away_at_the_start_ends_the_process_after_so_many_attempts(tmp_path: Path) -> None:
    async with Stage(tmp_path, streams=()).opened() as stage:
        clock, store = ManualClock(), Down(stage.store)
        running = asyncio.create_task(
            run_scorer(
                stage.transport,
                store,
                stage.spec,
                stage.config,
                clock=clock,
                metrics=stage.metrics,
                stop=asyncio.Event(),
                rng=random.Random(1),
                detectors=DETECTORS,
            )
        )
        while not running.done():
            await clock.advance(1.0)
        with pytest.raises(StoreUnavailable):
            await running
        assert store.probes == START.attempts_max == 8


def keeper_of(store: Any, clock: ManualClock, metrics: Recorder, *, period_s: float) -> SnapshotKeeper:
    return SnapshotKeeper(
        StateRoom(store, pipeline="p", stream="trades"),
        partition=P0,
        run=1,
        kept_position=None,
        unusable=frozenset(),
        period_s=period_s,
        clock=clock,
        metrics=metrics,
        rng=random.Random(1),
    )


async def test_a_snapshot_is_left_to_the_next_period_after_so_many_attempts(tmp_path: Path) -> None:
    clock, metrics = ManualClock(), Recorder()
    async with Stage(tmp_path).opened() as stage:
        store = Down(stage.store)
        keeper = keeper_of(store, clock, metrics, period_s=60.0)
        await clock.advance(60.0)
        assert keeper.due(Position(1))
        keeper.put(Position(1), b"x")
        await clock.advance(30.0)
        assert store.creates == PUT.attempts_max == 5
        assert metrics.counters["cutbank_retries_total"] == 4
        assert not keeper.due(Position(2)), "the period counts from the first attempt"
        await clock.advance(30.0)
        assert keeper.due(Position(2))


async def test_a_store_that_is_down_for_long_holds_one_snapshot_a_partition(tmp_path: Path) -> None:
    """Two hundred periods long, the memory is that of one body."""
    clock, metrics, size = ManualClock(), Recorder(), 1 << 20
    async with Stage(tmp_path).opened() as stage:
        keeper = keeper_of(Down(stage.store), clock, metrics, period_s=1.0)
        tracemalloc.start()
        try:
            taken = 0
            for position in range(1, 201):
                await clock.advance(1.0)
                if keeper.due(Position(position)):
                    taken += 1
                    keeper.put(Position(position), bytes(size))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            await keeper.abandon()
    assert taken > 10
    assert most < 3 * size


async def test_a_snapshot_over_the_limit_stops_the_partition_with_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(20))
        monkeypatch.setattr(worker, "SNAPSHOT_BYTES_MAX", 100)
        with pytest.raises(PartitionStopped, match=r"snapshot has \d+ bytes, the most is 100; lower number_of_trees"):
            await stage.score_all()
        assert stage.snapshots() == []


async def test_run_numbers_end_loudly(tmp_path: Path) -> None:
    async with Stage(tmp_path, config=QUICK.model_copy(update={"on_lost_state": "new_run"})).opened() as stage:
        await stage.publish(trades(20))
        await stage.score_all()
        state = StateRoom(stage.store, pipeline="p", stream="trades")
        identity = (await stage.transport.describe("trades")).identity
        spec_hash = stage.spec.hash(algorithm_version=1)
        last = Run(pipeline="p", partition=P0, identity=identity, number=RUN_MAX, spec_hash=spec_hash)
        await state.create_birth(Birth(run=last, start=Position(0)))
        await stage.expire_all()
        with pytest.raises(StateLost, match=f"run numbers end at {RUN_MAX}"):
            await stage.score_all()


def test_the_last_snapshot_leaves_time_to_publish_before_a_partition_is_taken_away() -> None:
    hand_over_s = min(KafkaSettings().hand_over_ms, LocalSettings().hand_over_ms) / 1000
    assert ScorerConfig().snapshot_stop_s <= hand_over_s - 4.0
