"""A whole scorer process over the real log: what must be there first, several scorers at once, and a clean end."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from cutbank.clock import Clock, SystemClock
from cutbank.errors import DetectorMismatch, StoreRefused, StoreUnavailable, UsageError
from cutbank.objects import open_store
from cutbank.pipeline.scoring import ScorerConfig, run_scorer
from cutbank.pipeline.scoring.model import registered
from cutbank.pipeline.scoring.scorer import group_name
from cutbank.pipeline.spec import Column, DetectorSpec, PipelineSpec
from cutbank.records import Partition
from cutbank.testing import ManualClock
from cutbank.transports.base import StreamConfig
from scoring_stage import DEADLINE_S, DETECTORS, QUICK, Recorder, Stage, TappedStore, trades


async def run(
    stage: Stage,
    stop: asyncio.Event,
    *,
    clock: Clock | None = None,
    on_ready: Callable[[], None] = lambda: None,
    store: TappedStore | None = None,
) -> None:
    await run_scorer(
        stage.transport,
        store or stage.store,
        stage.spec,
        stage.config,
        clock=clock or SystemClock(),
        metrics=stage.metrics,
        stop=stop,
        rng=random.Random(1),
        detectors=stage.detectors,
        on_ready=on_ready,
    )


async def until_scored(stage: Stage) -> None:
    """Until the group has committed the end of every partition."""
    while True:
        info = await stage.transport.describe("trades")
        committed = [await stage.committed(bounds.partition) for bounds in info.partitions]
        if all(at is not None and at >= bounds.end for at, bounds in zip(committed, info.partitions, strict=True)):
            return


async def test_makes_the_output_streams_scores_what_comes_and_drains(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(run(stage, stop, on_ready=ready.set))
        await ready.wait()
        for first in range(0, 60, 20):
            await stage.publish(trades(20, first=first))
        await until_scored(stage)
        stop.set()
        await running
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
        assert stage.snapshots()


@pytest.mark.parametrize(
    ("emit", "made"), [("anomalies", {"anomalies", "errors"}), ("all", {"anomalies", "errors", "scores"})]
)
async def test_output_streams_are_made_as_the_settings_say(tmp_path: Path, emit: str, made: set[str]) -> None:
    config = QUICK.model_copy(update={"emit": emit, "output_partitions": 3})
    async with Stage(tmp_path, config=config, streams=("trades",)).opened() as stage:
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(run(stage, stop, on_ready=ready.set))
        await ready.wait()
        stop.set()
        await running
        assert set(await stage.transport.streams()) == {"trades"} | made
        assert len((await stage.transport.describe("anomalies")).partitions) == 3


async def test_waits_for_the_source_stream(tmp_path: Path) -> None:
    async with Stage(tmp_path, streams=()).opened() as stage:
        stop, clock = asyncio.Event(), ManualClock()
        ready: list[bool] = []
        running = asyncio.create_task(run(stage, stop, clock=clock, on_ready=lambda: ready.append(True)))
        while not clock.sleepers:
            await clock.settle()
        assert ready == []
        await stage.transport.ensure(StreamConfig(name="trades"))
        while not ready:
            await clock.advance(1.0)
        stop.set()
        while not running.done():
            await clock.advance(1.0)
        await running


async def test_a_source_stream_that_never_appears_is_one_clear_error(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"source_wait_s": 30.0})
    async with Stage(tmp_path, config=config, streams=()).opened() as stage:
        clock = ManualClock()
        running = asyncio.create_task(run(stage, asyncio.Event(), clock=clock))
        while not running.done():
            await clock.advance(1.0)
        with pytest.raises(UsageError, match="source stream 'trades' did not appear within 30 s: start the producer"):
            await running


async def test_a_stop_while_waiting_ends_at_once(tmp_path: Path) -> None:
    async with Stage(tmp_path, streams=()).opened() as stage:
        stop = asyncio.Event()
        stop.set()
        await run(stage, stop)


async def test_a_stop_while_the_store_is_away_ends_without_more_attempts(tmp_path: Path) -> None:
    class Away(TappedStore):
        async def probe(self, *, deletes: bool = False) -> None:
            raise StoreUnavailable("no answer")

    async with Stage(tmp_path, streams=()).opened() as stage:
        stop, clock = asyncio.Event(), ManualClock()
        ready: list[bool] = []
        store = Away(stage.store)
        running = asyncio.create_task(run(stage, stop, clock=clock, store=store, on_ready=lambda: ready.append(True)))
        while not clock.sleepers:
            await clock.settle()
        stop.set()
        await running  # no time passes
        assert ready == []
        assert await stage.transport.streams() == ()


async def test_a_stop_during_the_self_check_waits_for_no_thread(tmp_path: Path) -> None:
    begun, gate = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert gate.wait(DEADLINE_S)

    async with Stage(tmp_path, detectors=replace(DETECTORS, self_check=slow), streams=()).opened() as stage:
        stop = asyncio.Event()
        running = asyncio.create_task(run(stage, stop))
        await asyncio.to_thread(begun.wait, DEADLINE_S)
        stop.set()
        try:
            async with asyncio.timeout(DEADLINE_S / 3):
                await running
        finally:
            gate.set()


class Labelled(Recorder):
    """Also remembers every value of the gauges that carry a partition."""

    def __init__(self) -> None:
        super().__init__()
        self.of_partition: dict[tuple[str, str], list[float]] = {}

    def set(self, name: str, value: float, /, **labels: str) -> None:
        super().set(name, value, **labels)
        if "partition" in labels:
            self.of_partition.setdefault((name, labels["partition"]), []).append(value)


async def test_a_partition_handed_over_leaves_no_lag_behind(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        metrics = stage.metrics = Labelled()
        await stage.publish(trades(40))
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(run(stage, stop, on_ready=ready.set))
        await until_scored(stage)
        stop.set()
        await running
        gauges = ("cutbank_lag_records", "cutbank_lag_seconds", "cutbank_snapshot_age_seconds")
        assert set(metrics.of_partition) == {(name, "trades/0") for name in gauges}
        assert all(values[-1] == 0.0 for values in metrics.of_partition.values())
        assert max(metrics.of_partition["cutbank_snapshot_age_seconds", "trades/0"]) > 0.0


async def test_a_refused_store_is_one_clear_error_before_any_stream_is_made(tmp_path: Path) -> None:
    async with Stage(tmp_path, streams=()).opened() as stage:
        (tmp_path / "file").write_text("not a folder")
        refused = open_store(f"file://{tmp_path}/file", clock=SystemClock(), metrics=stage.metrics)
        with pytest.raises(StoreRefused):
            await run(stage, asyncio.Event(), store=TappedStore(refused))
        assert await stage.transport.streams() == ()


async def test_a_detector_that_scores_differently_here_refuses_to_start(tmp_path: Path) -> None:
    def differs() -> None:
        raise DetectorMismatch("other scores on this machine")

    async with Stage(tmp_path, detectors=replace(DETECTORS, self_check=differs), streams=()).opened() as stage:
        with pytest.raises(DetectorMismatch):
            await run(stage, asyncio.Event())
        assert await stage.transport.streams() == ()


async def test_scorers_come_and_go_and_each_record_counts_once(tmp_path: Path) -> None:
    async with Stage(tmp_path, partitions=3).opened() as stage:
        stops = [asyncio.Event() for _ in range(4)]
        running = []
        for turn, stop in enumerate(stops):
            running.append(asyncio.create_task(run(stage, stop)))
            for partition in ("0", "1", "2"):
                await stage.publish(trades(30, first=30 * turn), partition=partition)
            if turn:
                stops[turn - 1].set()
                await running[turn - 1]
        await until_scored(stage)
        stops[-1].set()
        await running[-1]
        lines = [orjson.loads(line) for line in await stage.lines("anomalies")]
        identities = Counter((line["SOURCE"]["partition"], line["SOURCE"]["position"]) for line in lines)
        assert set(identities.values()) == {1}
        expected = [orjson.loads(line)["ANOMALY_SCORE"] for line in (await stage.oracle())["anomalies"]]
        for partition in ("0", "1", "2"):
            found = [line["ANOMALY_SCORE"] for line in lines if line["SOURCE"]["partition"] == partition]
            assert found == expected  # the same records in each partition: the same scores


async def test_a_stopped_partition_does_not_stop_the_others(tmp_path: Path) -> None:
    async with Stage(tmp_path, partitions=2).opened() as stage:
        lost = Partition("trades", "1")
        for partition in ("0", "1"):
            await stage.publish(trades(10), partition=partition)
        stop = asyncio.Event()
        running = asyncio.create_task(run(stage, stop))
        await until_scored(stage)
        stop.set()
        await running
        folder = stage.state_folder / "p/trades/1/00000001"
        for path in folder.iterdir():
            path.unlink()
        for partition in ("0", "1"):
            await stage.publish(trades(10, first=10), partition=partition)
        stop = asyncio.Event()
        running = asyncio.create_task(run(stage, stop))
        async with asyncio.timeout(DEADLINE_S):
            while await stage.committed() != 20 or stage.metrics.gauges.get("cutbank_partitions_stopped") != 1:
                pass  # each look waits for the log
        assert await stage.committed(lost) == 10
        stop.set()
        await running


def test_the_group_has_the_pipelines_name() -> None:
    assert group_name(Stage(Path()).spec) == "p.scorer"


class TestConfig:
    def test_everything_is_documented(self) -> None:
        for name, field in ScorerConfig.model_fields.items():
            assert field.description, name

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("CUTBANK_EMIT", "some"),
            ("CUTBANK_START", "now"),
            ("CUTBANK_ON_LOST_STATE", "ignore"),
            ("CUTBANK_SNAPSHOT_S", "0"),
            ("CUTBANK_BATCH_RECORDS_MAX", "0"),
            ("CUTBANK_BATCH_BYTES_MAX", "99999999999"),
            ("CUTBANK_THREADS", "two"),
            ("CUTBANK_WAIT_S", "-1"),
        ],
    )
    def test_a_wrong_setting_is_one_line_that_names_it(self, variable: str, value: str) -> None:
        with pytest.raises(UsageError) as raised:
            ScorerConfig.load({variable: value})
        assert variable in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_the_environment_and_options_reach_the_start(self) -> None:
        config = ScorerConfig.load({"CUTBANK_START": "timestamp"}, start_timestamp_ms=1234)
        assert (config.first_start().at, config.first_start().timestamp_ms) == ("timestamp", 1234)


async def test_a_model_over_what_all_may_take_is_refused_before_the_first_record(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"models_bytes_max": 2 << 20})
    for size, refused in ((2 << 20, False), ((2 << 20) + 1, True)):
        checked: list[int] = []
        detectors = replace(
            DETECTORS, model_bytes=lambda size=size: size, self_check=lambda seen=checked: seen.append(1)
        )
        async with Stage(tmp_path / str(size), config=config, detectors=detectors).opened() as stage:
            stop, ready = asyncio.Event(), asyncio.Event()
            running = asyncio.create_task(run(stage, stop, on_ready=ready.set))
            if refused:
                why = rf"needs {size} bytes, more than models_bytes_max \({2 << 20}\) .*lower number_of_trees"
                with pytest.raises(UsageError, match=why):
                    await running
                assert checked == [], "before anything is made"
            else:
                await ready.wait()
                stop.set()
                await running


async def test_a_spec_whose_model_is_too_large_ends_the_scorer_at_its_start(tmp_path: Path) -> None:
    columns = tuple(Column(name=f"f{number}", type="DOUBLE") for number in range(30))
    large = DetectorSpec(name="rcf", number_of_trees=1000, sub_sample_size=1000, shingle_size=30)
    spec = PipelineSpec(name="p", columns=columns, features=tuple(column.name for column in columns), detector=large)
    async with Stage(tmp_path, spec=spec, detectors=registered(spec), streams=()).opened() as stage:
        with pytest.raises(UsageError, match=r"needs 21634035224 bytes, more than MODEL_BYTES_MAX \(1073741824\)"):
            await run(stage, asyncio.Event())
        assert await stage.transport.streams() == ()
