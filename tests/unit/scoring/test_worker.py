"""A live partition on the real log and store: what is published is what one undisturbed run publishes, once.

Faults are raised around real calls: before them, or after they were done.
"""

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from cutbank.detectors.base import Features, Scores
from cutbank.errors import (
    CutbankError,
    Fenced,
    MessageTooLarge,
    OutcomeUnknown,
    PartitionStopped,
    PositionLost,
    StoreRefused,
    StoreUnavailable,
    StreamUnavailable,
)
from cutbank.pipeline.scoring.worker import ScorerWorker
from cutbank.testing import ManualClock
from cutbank.testing.detectors import ChainDetector
from cutbank.transports.base import Assigned
from scoring_stage import (
    DEADLINE_S,
    DETECTORS,
    P0,
    QUICK,
    Hook,
    Stage,
    TappedLease,
    TappedStore,
    sources,
    trade,
    trades,
)


def failing(call: str, phase: str, error: CutbankError, *, times: int = 1, skip: int = 0) -> Hook:
    """Raise at these occurrences of a call."""
    seen = Counter[str]()

    async def hook(name: str, when: str) -> None:
        if (name, when) == (call, phase):
            seen[name] += 1
            if skip < seen[name] <= skip + times:
                raise error

    return hook


async def run_with(stage: Stage, hook: Hook, *, store_hook: Hook | None = None) -> None:
    """One process whose lease has this hook, until it is idle or fails."""
    stop = asyncio.Event()

    async def both(name: str, phase: str) -> None:
        if name == "idle":
            stop.set()
        await hook(name, phase)

    store = TappedStore(stage.store, store_hook) if store_hook else stage.store
    async with stage.lease() as lease, stage.worker(store=store) as worker:
        await worker.work(TappedLease(lease, both), stop)


async def one_turn(stage: Stage, worker: ScorerWorker) -> None:
    """This worker gets the partition, scores until it is idle and gives it back."""
    stop = asyncio.Event()

    async def until_idle(name: str, phase: str) -> None:
        if name == "idle":
            stop.set()

    async with stage.lease() as lease:
        await worker.work(TappedLease(lease, until_idle), stop)


async def test_scores_everything_once_in_order_and_commits_the_end(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish([*trades(50), b"{", *trades(50, first=50)])
        await stage.score_all()
        oracle = await stage.oracle()
        assert len(oracle["anomalies"]) > 10
        assert await stage.lines("anomalies") == oracle["anomalies"]
        assert await stage.lines("errors") == oracle["errors"]
        assert await stage.lines("scores") == []
        assert await stage.committed() == (await stage.read("trades")).end
        assert stage.metrics.counters["cutbank_records_scored_total"] == 100
        assert stage.metrics.counters["cutbank_record_errors_total"] == 1
        assert stage.metrics.counters["cutbank_anomalies_total"] == len(oracle["anomalies"])


async def test_emit_all_publishes_every_score_beside_the_anomalies(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"emit": "all"})
    async with Stage(tmp_path, config=config).opened() as stage:
        await stage.publish([*trades(20), b"null", *trades(20, first=20)])
        await stage.score_all()
        oracle = await stage.oracle()
        assert await stage.lines("scores") == oracle["scores"]
        assert len(oracle["scores"]) == 40
        over = [line for line in oracle["scores"] if orjson.loads(line)["ANOMALY_SCORE"] > 1.0]
        assert await stage.lines("anomalies") == over


async def test_goes_on_bit_identically_after_a_restart(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(30))
        await stage.score_all()
        await stage.publish(trades(30, first=30))
        await stage.score_all()
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
        assert "cutbank_replayed_records_total" not in stage.metrics.counters  # the last snapshot held all


async def test_commits_a_batch_without_outputs(tmp_path: Path) -> None:
    spec = Stage(tmp_path).spec.model_copy(update={"threshold": 9.0})
    async with Stage(tmp_path, spec=spec).opened() as stage:
        await stage.publish(trades(10))
        await stage.score_all()
        assert await stage.lines("anomalies") == []
        assert await stage.committed() == (await stage.read("trades")).end


async def test_an_idle_partition_commits_nothing_and_keeps_no_snapshot(tmp_path: Path) -> None:
    calls = Counter[str]()

    async def count(name: str, phase: str) -> None:
        calls[name] += phase == "after"

    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(5))
        await stage.score_all()
        snapshots = stage.snapshots()
        await run_with(stage, count)
        assert calls["commit"] == calls["publish"] == 0
        assert calls["idle"] >= 1
        assert stage.snapshots() == snapshots


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("error", [OutcomeUnknown("the reply was lost"), StreamUnavailable("busy")])
@pytest.mark.parametrize("skip", [0, 1, 4])
async def test_a_lost_reply_loses_and_repeats_nothing(
    tmp_path: Path, phase: str, error: CutbankError, skip: int
) -> None:
    async with Stage(tmp_path).opened() as stage:
        # Steps are joined while one is published, but none has more than 7 lines: these are some ten at the least.
        await stage.publish(trades(200))
        await run_with(stage, failing("publish", phase, error, times=2, skip=skip))
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
        assert stage.metrics.counters["cutbank_retries_total"] >= 1


@pytest.mark.parametrize("phase", ["before", "after"])
async def test_a_lost_reply_to_a_commit_alone_is_settled_too(tmp_path: Path, phase: str) -> None:
    spec = Stage(tmp_path).spec.model_copy(update={"threshold": 1.25})
    async with Stage(tmp_path, spec=spec).opened() as stage:
        await stage.publish(trades(40))
        # The first commit is the birth's, which the runner would take up again.
        await run_with(stage, failing("commit", phase, OutcomeUnknown("lost"), skip=1))
        assert await stage.committed() == (await stage.read("trades")).end
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


async def test_gives_up_if_the_committed_position_is_neither_start_nor_end(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(40))
        async with stage.lease() as lease, stage.worker() as worker:
            fences = Counter[str]()

            async def elsewhere(name: str, phase: str) -> None:
                if (name, phase) == ("publish", "before"):
                    # Somebody with our lease's rights committed something else meanwhile.
                    await lease.commit((await stage.read("trades")).positions[30])
                    raise OutcomeUnknown("the reply was lost")
                fences[name] += phase == "after"

            with pytest.raises(Fenced, match="neither the start nor the end"):
                await worker.work(TappedLease(lease, elsewhere), asyncio.Event())
        assert await stage.lines("anomalies") == []


async def test_gives_up_after_a_fence_that_finds_a_newer_run(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(40))

        async def newer(name: str, phase: str) -> None:
            if (name, phase) == ("publish", "before"):
                (stage.state_folder / "p/trades/0/00000002").mkdir(exist_ok=True)
                (stage.state_folder / "p/trades/0/00000002/birth").write_bytes(b"any")
                raise OutcomeUnknown("the reply was lost")

        with pytest.raises(Fenced, match="run 2 was born"):
            await run_with(stage, newer)
        assert await stage.lines("anomalies") == []


async def test_a_zombies_outputs_are_refused(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(40))
        asleep, woken = asyncio.Event(), asyncio.Event()

        async def sleep_before_publish(name: str, phase: str) -> None:
            if (name, phase) == ("publish", "before") and not asleep.is_set():
                asleep.set()
                await woken.wait()

        async with stage.worker() as zombie:
            async with stage.lease() as lease:
                zombies = asyncio.create_task(zombie.work(TappedLease(lease, sleep_before_publish), asyncio.Event()))
                await asleep.wait()
            await stage.score_all()
            woken.set()
            with pytest.raises(Fenced):
                await zombies
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


async def test_two_processes_hand_over_back_and_forth(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        for first in range(0, 80, 10):
            await stage.publish(trades(10, first=first))
            await stage.score_all()  # each a worker and member of its own
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


async def test_a_model_in_memory_is_kept_when_the_partition_comes_back(tmp_path: Path) -> None:
    restored: list[int] = []

    def restore(state: bytes) -> ChainDetector:
        restored.append(len(state))
        return ChainDetector.from_bytes(state)

    async with Stage(tmp_path, detectors=replace(DETECTORS, restore=restore)).opened() as stage:
        async with stage.worker() as worker:
            for first in (0, 20, 40):
                await stage.publish(trades(20, first=first))
                await one_turn(stage, worker)
        assert restored == []
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
        await stage.score_all()
        assert len(restored) == 1  # another process has no model in memory


async def test_a_model_in_memory_is_dropped_when_somebody_else_went_on(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage, stage.worker() as worker:
        await stage.publish(trades(20))
        await one_turn(stage, worker)
        await stage.publish(trades(20, first=20))
        await stage.score_all()
        await stage.publish(trades(20, first=40))
        await one_turn(stage, worker)
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


async def test_a_passing_fault_while_reading_costs_no_replay(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage, stage.worker() as worker, stage.lease() as lease:
        await stage.publish(trades(20))
        stop, broken = asyncio.Event(), asyncio.Event()

        async def hook(name: str, phase: str) -> None:
            if name == "idle" and not broken.is_set():
                broken.set()
                raise StreamUnavailable("the broker is away")
            if name == "idle":
                stop.set()

        with pytest.raises(StreamUnavailable):
            await worker.work(TappedLease(lease, hook), stop)
        for path in stage.snapshots():
            path.unlink()
        await stage.publish(trades(20, first=20))
        await worker.work(TappedLease(lease, hook), stop)
        assert "cutbank_replayed_records_total" not in stage.metrics.counters
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


async def test_a_model_that_is_being_scored_with_is_never_kept(tmp_path: Path) -> None:
    # The first batch was published, which nobody knows, and the model is in the middle of the second.
    gate, clock = threading.Event(), ManualClock()

    class Slow(ChainDetector):
        def score_then_learn(self, features: Features) -> Scores:
            if self.records:
                gate.wait()
            return super().score_then_learn(features)

    slow = replace(DETECTORS, create=lambda: Slow(dimensions=2, share=0.3))
    lost = Counter[str]()

    async def lose(name: str, phase: str) -> None:
        if (name, phase) == ("publish", "after"):
            lost[name] += 1
            raise OutcomeUnknown("the reply was lost")
        if name == "fence" and lost:
            raise StreamUnavailable("and then the broker was away")

    async with Stage(tmp_path, detectors=slow).opened() as stage:
        await stage.publish(trades(20))
        async with stage.lease() as lease, stage.worker(clock=clock) as worker:
            working = asyncio.create_task(worker.work(TappedLease(lease, lose), asyncio.Event()))
            while not working.done():
                await clock.advance(0.5)
            with pytest.raises(StreamUnavailable):
                await working
            assert await stage.committed() == 7
            assert worker._shelf.take(P0) is None
            gate.set()
        await stage.score_all()
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


async def test_what_was_read_is_published_before_lost_records_stop_the_partition(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(40))

        received = Counter[str]()

        async def lost_later(name: str, phase: str) -> None:
            if (name, phase) == ("receive", "before"):
                received[name] += 1
                if received[name] > 3:
                    raise PositionLost("past retention")

        with pytest.raises(PositionLost, match="on_lost_state=new_run"):
            await run_with(stage, lost_later)
        committed = await stage.committed()
        assert committed == (await stage.read("trades")).positions[21]
        oracle = (await stage.oracle())["anomalies"]
        assert await stage.lines("anomalies") == [
            line for line, source in zip(oracle, sources(oracle), strict=True) if int(source) < committed
        ]


async def test_new_runs_one_after_another_are_begun_after_a_growing_pause(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"on_lost_state": "new_run"})
    async with Stage(tmp_path, config=config).opened() as stage:
        await stage.publish(trades(5))
        stop, clock = asyncio.Event(), ManualClock()

        async def lost(name: str, phase: str) -> None:
            if (name, phase) == ("receive", "before"):
                raise PositionLost("past retention")

        async with stage.lease() as lease, stage.worker(clock=clock) as worker:
            working = asyncio.create_task(worker.work(TappedLease(lease, lost), stop))
            async with asyncio.timeout(10):
                while not clock.sleepers or stage.metrics.counters.get("cutbank_runs_started_total") != 2:
                    await clock.settle()
            await clock.settle()
            assert stage.metrics.counters["cutbank_runs_started_total"] == 2  # the first, and one anew
            stop.set()
            await working  # no time passes


async def test_an_unreachable_log_ends_the_attempts_and_publishes_nothing_twice(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(20))
        clock = ManualClock()
        tries = Counter[str]()

        async def down(name: str, phase: str) -> None:
            if (name, phase) == ("publish", "before") or (name == "fence" and tries["publish"]):
                tries["publish"] += 1
                raise StreamUnavailable("no route")

        async with stage.lease() as lease, stage.worker(clock=clock) as worker:
            working = asyncio.create_task(worker.work(TappedLease(lease, down), asyncio.Event()))
            while not working.done():
                await clock.advance(0.5)
            with pytest.raises(StreamUnavailable):
                await working
        assert tries["publish"] == 8
        await stage.score_all()
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


async def test_a_message_that_the_stream_refuses_stops_the_partition_loudly(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(20))
        refused = MessageTooLarge("1000 bytes, the stream takes 10", bytes_max=10)
        with pytest.raises(PartitionStopped, match="refuses a message"):
            await run_with(stage, failing("publish", "before", refused))


async def test_a_stop_in_the_middle_publishes_what_is_scored_and_leaves_the_rest(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        # Far more than the step under way, the next one and what is scored beside them.
        await stage.publish(trades(140))
        stop, published = asyncio.Event(), Counter[str]()

        async def stop_after_two(name: str, phase: str) -> None:
            published[name] += phase == "after"
            if published["publish"] == 2:
                stop.set()

        async with stage.lease() as lease, stage.worker() as worker:
            await worker.work(TappedLease(lease, stop_after_two), stop)
        committed = await stage.committed()
        assert committed is not None
        assert committed < (await stage.read("trades")).end
        assert len(stage.snapshots()) >= 1
        await stage.score_all()
        assert "cutbank_replayed_records_total" not in stage.metrics.counters
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


class TestSnapshots:
    async def test_two_generations_are_kept_and_the_births(self, tmp_path: Path) -> None:
        config = QUICK.model_copy(update={"snapshot_s": 0.001})
        async with Stage(tmp_path, config=config).opened() as stage:
            for first in range(0, 100, 10):
                await stage.publish(trades(10, first=first))
                await stage.score_all()
            assert len(stage.snapshots()) == 2
            assert (stage.state_folder / "p/trades/birth").exists()
            assert (stage.state_folder / "p/trades/0/00000001/birth").exists()

    async def test_are_taken_on_the_period_at_a_committed_batch_boundary(self, tmp_path: Path) -> None:
        clock = ManualClock()
        config = QUICK.model_copy(update={"snapshot_s": 60.0})
        async with Stage(tmp_path, config=config).opened() as stage:
            idle, written, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

            async def watch(name: str, phase: str) -> None:
                if name == "idle":
                    idle.set()
                    await clock.sleep(0.001)  # the reader's own waiting is the log's, on the real clock
                if (name, phase) == ("create snapshot", "after"):
                    assert stage.metrics.counters["cutbank_records_scored_total"] in (20, 30)
                    written.set()

            async with (
                stage.lease() as lease,
                stage.worker(store=TappedStore(stage.store, watch), clock=clock) as worker,
            ):
                working = asyncio.create_task(worker.work(TappedLease(lease, watch), stop))
                await stage.publish(trades(20))
                while stage.metrics.counters.get("cutbank_records_scored_total") != 20:
                    idle.clear()
                    await clock.advance(0.01)
                    await idle.wait()
                assert not written.is_set()
                await clock.advance(60.0)
                while not written.is_set():
                    await clock.advance(0.01)
                assert [int(path.name, 16) for path in stage.snapshots()] == [2**256 - 1 - 20]
                stop.set()
                while not working.done():
                    await clock.advance(0.01)
                await working

    async def test_a_store_that_fails_never_stops_scoring(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(50))
            down = failing("create snapshot", "before", StoreUnavailable("503"), times=10_000)
            await run_with(stage, failing("none", "before", StreamUnavailable("")), store_hook=down)
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
            assert stage.snapshots() == []
            await stage.publish(trades(10, first=50))
            await stage.score_all()
            assert stage.metrics.counters["cutbank_replayed_records_total"] == 50
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]

    async def test_a_store_that_hangs_at_the_stop_is_given_up_in_time(self, tmp_path: Path) -> None:
        clock = ManualClock()
        config = QUICK.model_copy(update={"snapshot_s": 3600.0, "snapshot_stop_s": 5.0})
        async with Stage(tmp_path, config=config).opened() as stage:
            await stage.publish(trades(20))
            stop, hanging = asyncio.Event(), asyncio.Event()

            async def hang(name: str, phase: str) -> None:
                if name == "idle":
                    stop.set()
                if name == "create snapshot":
                    hanging.set()
                    await asyncio.Event().wait()

            async with (
                stage.lease() as lease,
                stage.worker(store=TappedStore(stage.store, hang), clock=clock) as worker,
            ):
                working = asyncio.create_task(worker.work(TappedLease(lease, hang), stop))
                await hanging.wait()
                await clock.advance(4.9)
                assert not working.done()
                await clock.advance(0.2)
                await working
            assert stage.snapshots() == []
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]

    async def test_a_store_that_refuses_is_loud(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(50))
            refused = failing("create snapshot", "before", StoreRefused("no permission to put: grant it"))
            with pytest.raises(StoreRefused, match="grant it"):
                await run_with(stage, failing("none", "before", StreamUnavailable("")), store_hook=refused)


async def test_gauges_show_the_lag_and_histograms_the_steps(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(20))
        await stage.score_all()
        assert stage.metrics.gauges["cutbank_lag_records"] >= 0
        assert stage.metrics.gauges["cutbank_snapshot_age_seconds"] >= 0
        steps = stage.metrics.counters["cutbank_score_seconds"]
        assert steps == 3
        assert 1 <= stage.metrics.counters["cutbank_publish_seconds"] <= steps  # what waits is published in one step
        anomalies = len(await stage.lines("anomalies"))
        assert stage.metrics.counters["cutbank_arrival_to_published_seconds"] == anomalies > 0


async def test_a_publish_that_hangs_is_a_lag_that_grows(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(20))
        clock, stop = ManualClock(start_ms=stage.log_clock.now_ms()), asyncio.Event()
        hangs, freed = asyncio.Event(), asyncio.Event()

        async def hang(name: str, phase: str) -> None:
            if (name, phase) == ("publish", "before"):
                hangs.set()
                await freed.wait()
            if name == "idle" and stage.metrics.gauges["cutbank_lag_records"] == 0:
                stop.set()

        async with stage.lease() as lease, stage.worker(clock=clock) as worker:
            working = asyncio.create_task(worker.work(TappedLease(lease, hang), stop))
            async with asyncio.timeout(DEADLINE_S):
                await hangs.wait()
                for waited_s in (30.0, 60.0):
                    await clock.advance(30.0)
                    behind_s = stage.metrics.gauges["cutbank_lag_seconds"]
                    assert waited_s - 2.0 <= behind_s <= waited_s + 2.0
                assert 0 < stage.metrics.gauges["cutbank_lag_records"] <= 20
                freed.set()
                while not working.done():
                    await clock.advance(1.0)
                await working
        assert stage.metrics.gauges["cutbank_lag_seconds"] == 0.0


async def test_a_partition_that_is_taken_up_or_learns_again_tells_its_lag(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(20))
        await stage.score_all()
        for path in stage.snapshots():
            path.unlink()
        await stage.publish(trades(5, first=20))
        clock, stop, reads = ManualClock(start_ms=stage.log_clock.now_ms()), asyncio.Event(), asyncio.Event()

        async def hang(name: str, phase: str) -> None:
            if (name, phase) == ("receive", "before"):
                reads.set()
                await asyncio.Event().wait()

        stage.metrics.gauges.clear()
        async with stage.lease() as lease, stage.worker(clock=clock) as worker:
            working = asyncio.create_task(worker.work(TappedLease(lease, hang), stop))
            async with asyncio.timeout(DEADLINE_S):
                await reads.wait()  # it has learnt nothing again yet
                while "cutbank_lag_records" not in stage.metrics.gauges:
                    await clock.advance(1.0)
                await clock.advance(600.0)
            assert stage.metrics.gauges["cutbank_lag_records"] == 5, "the others were published before"
            assert 590.0 <= stage.metrics.gauges["cutbank_lag_seconds"] <= 700.0
            working.cancel()
            await asyncio.wait({working})


async def test_a_partition_that_is_parked_tells_its_lag(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(20))
        clock = ManualClock(start_ms=stage.log_clock.now_ms())

        async with stage.lease() as lease, stage.worker(clock=clock) as worker:
            refused = TappedLease(lease, failing("publish", "before", PartitionStopped("refused"), times=99))
            with pytest.raises(PartitionStopped):
                await worker.work(refused, asyncio.Event())
            parked = asyncio.create_task(worker.parked(refused))
            async with asyncio.timeout(DEADLINE_S):
                await stage.publish(trades(7, first=20))
                while stage.metrics.gauges.get("cutbank_lag_records") != 27 - (await stage.committed() or 0):
                    await clock.advance(1.0)
            await clock.advance(600.0)
            assert stage.metrics.gauges["cutbank_lag_seconds"] >= 590.0
            parked.cancel()
            await asyncio.wait({parked})
            worker.released(P0)
            assert stage.metrics.gauges["cutbank_lag_records"] == stage.metrics.gauges["cutbank_lag_seconds"] == 0


async def test_an_anomaly_too_large_to_publish_is_an_error_once_and_the_model_knows_it(tmp_path: Path) -> None:
    record = orjson.loads(trade(7))
    record["tickerSymbol"] = "A" * ((1 << 20) - 130)
    large = orjson.dumps(record)
    assert len(large) <= 1 << 20
    spec = Stage(tmp_path).spec.model_copy(update={"threshold": 0.0})
    async with Stage(tmp_path, spec=spec).opened() as stage:
        await stage.publish([*trades(5), large, *trades(5, first=8)])
        await stage.score_all()
        errors = [orjson.loads(line) for line in await stage.lines("errors")]
        assert [(error["ERROR_NAME"], error["DATA_BYTES"]) for error in errors] == [("anomaly_too_large", len(large))]
        with_it = [orjson.loads(line)["ANOMALY_SCORE"] for line in await stage.lines("anomalies")]
        scores = [orjson.loads(line)["ANOMALY_SCORE"] for line in (await stage.oracle())["anomalies"]]
        assert with_it == scores
        assert len(with_it) == 10


async def test_several_partitions_have_models_of_their_own(tmp_path: Path) -> None:
    async with Stage(tmp_path, partitions=2).opened() as stage:
        for partition in ("0", "1"):
            await stage.publish(trades(20), partition=partition)
        async with stage.transport.consumer("p.scorer", ["trades"]) as consumer, stage.worker() as worker:
            events = consumer.events()
            for _ in range(2):
                event = await anext(events)
                stop = asyncio.Event()

                async def until_idle(name: str, phase: str, stop: asyncio.Event = stop) -> None:
                    if name == "idle":
                        stop.set()

                assert isinstance(event, Assigned)
                await worker.work(TappedLease(event.lease, until_idle), stop)
        lines = [orjson.loads(line) for line in await stage.lines("anomalies")]
        scores = {
            partition: [line["ANOMALY_SCORE"] for line in lines if line["SOURCE"]["partition"] == partition]
            for partition in ("0", "1")
        }
        assert scores["0"] == scores["1"] != []


async def test_what_is_scored_while_a_publish_is_under_way_goes_out_in_the_next_one(tmp_path: Path) -> None:
    stop, began, free, idle = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    steps = Counter[str]()
    config = QUICK.model_copy(update={"batch_records_max": 1000})
    async with Stage(tmp_path, config=config).opened() as stage:

        async def slow_at_first(name: str, phase: str) -> None:
            if name == "idle":
                idle.set()
            if name == "publish":
                steps[phase] += 1
                began.set()
                if phase == "before":
                    await free.wait()
                elif steps["after"] == 2:
                    stop.set()

        await stage.publish(trades(20))
        async with stage.lease() as lease, stage.worker() as worker, asyncio.timeout(DEADLINE_S):
            working = asyncio.create_task(worker.work(TappedLease(lease, slow_at_first), stop))
            await began.wait()
            for portion in range(1, 4):
                await stage.publish(trades(20, first=20 * portion))
                # Of a few records none is read before they are scored: a read that finds nothing tells that all are.
                idle.clear()
                await idle.wait()
                idle.clear()
                await idle.wait()
            assert steps == {"before": 1}
            free.set()
            await working
        assert steps == {"before": 2, "after": 2}
        assert await stage.committed() == (await stage.read("trades")).end
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
