"""How a partition is taken up: births, snapshots, replay, new runs, and every loud stop, on the real log and store."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from cutbank.errors import AnotherStream, Fenced, PartitionStopped, PositionLost, StateLost, StreamUnavailable
from cutbank.pipeline.scoring.assignment import EMPTY_READS_MAX, ROUNDS_MAX
from cutbank.pipeline.scoring.snapshots import (
    Birth,
    Run,
    birth_bytes,
    birth_from_bytes,
    snapshot_from_bytes,
    snapshot_key,
    stream_birth_bytes,
    stream_birth_from_bytes,
)
from cutbank.pipeline.spec import DetectorSpec
from cutbank.records import Batch, Position, position_inverted
from cutbank.transports.base import StreamConfig
from scoring_stage import (
    DETECTORS,
    P0,
    QUICK,
    SPEC,
    ForgottenLease,
    Recorder,
    Stage,
    TappedLease,
    TappedStore,
    sources,
    trade,
    trades,
)

LOST = QUICK.model_copy(update={"on_lost_state": "new_run"})
OTHER_SPEC = SPEC.model_copy(update={"detector": DetectorSpec(seed=8)})
STREAM_BIRTH = "p/trades/birth"
BIRTH = "p/trades/0/00000001/birth"


def birth_of(stage: Stage, run: int) -> Birth:
    path = stage.state_folder / f"p/trades/0/{run:08d}/birth"
    return birth_from_bytes(path.read_bytes(), key=str(path))


def overwrite(path: Path, body: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(body)


def spoil(path: Path) -> None:
    """Change one bit in the middle."""
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    overwrite(path, bytes(body))


def run_numbers(lines: list[bytes]) -> list[int]:
    return [orjson.loads(line)["SOURCE"]["run"] for line in lines]


class TestBirth:
    async def test_both_births_are_durable_before_the_start_is_committed(self, tmp_path: Path) -> None:
        seen: list[str] = []
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(3))
            stop = asyncio.Event()

            async def watch(name: str, phase: str) -> None:
                if name in ("commit", "publish") and phase == "before":
                    seen.append(name)
                    assert (stage.state_folder / BIRTH).exists()
                    assert (stage.state_folder / STREAM_BIRTH).exists()
                if name == "idle":
                    stop.set()

            async with stage.lease() as lease, stage.worker() as worker:
                await worker.work(TappedLease(lease, watch), stop)
            assert seen[0] == "commit"
            identity = (await stage.transport.describe("trades")).identity
            birth = stream_birth_from_bytes((stage.state_folder / STREAM_BIRTH).read_bytes(), key="")
            assert (birth.identity, dict(birth.starts)) == (identity, {"0": 0})
            run = Run("p", P0, identity, 1, SPEC.hash(algorithm_version=1))
            assert birth_of(stage, 1) == Birth(run=run, start=Position(0))
            assert stage.metrics.counters["cutbank_runs_started_total"] == 1

    @pytest.mark.parametrize(("start", "first"), [("earliest", 0), ("latest", 10)])
    async def test_the_first_run_starts_where_the_setting_says(self, tmp_path: Path, start: str, first: int) -> None:
        config = QUICK.model_copy(update={"start": start, "emit": "all"})
        async with Stage(tmp_path, config=config).opened() as stage:
            await stage.publish(trades(10))
            await stage.score_all()
            await stage.publish(trades(5, first=10))
            await stage.score_all()
            assert sources(await stage.lines("scores")) == [str(position) for position in range(first, 15)]
            assert await stage.lines("scores") == (await stage.oracle(start=Position(first)))["scores"]

    async def test_the_first_run_starts_at_a_timestamp(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(5))
            stage.log_clock.ahead_ms = 60_000
            await stage.publish(trades(5, first=5))
            at_ms = (await stage.read("trades")).arrivals_ms[5]
            stage.config = QUICK.model_copy(update={"start": "timestamp", "start_timestamp_ms": at_ms, "emit": "all"})
            await stage.score_all()
            assert sources(await stage.lines("scores")) == ["5", "6", "7", "8", "9"]

    async def test_latest_is_resolved_once_even_if_it_was_never_committed(self, tmp_path: Path) -> None:
        config = QUICK.model_copy(update={"start": "latest", "emit": "all"})
        async with Stage(tmp_path, config=config).opened() as stage:
            await stage.publish(trades(10))

            async def killed(name: str, phase: str) -> None:
                if name == "commit":
                    raise StreamUnavailable("killed before the start was committed")

            async with stage.lease() as lease, stage.worker() as worker:
                with pytest.raises(StreamUnavailable):
                    await worker.work(TappedLease(lease, killed), asyncio.Event())
            assert await stage.committed() is None
            await stage.publish(trades(5, first=10))
            await stage.score_all()
            assert sources(await stage.lines("scores")) == ["10", "11", "12", "13", "14"]

    async def test_a_partition_found_later_starts_at_its_beginning(self, tmp_path: Path) -> None:
        config = QUICK.model_copy(update={"start": "latest", "emit": "all"})
        async with Stage(tmp_path, config=config).opened() as stage:
            await stage.publish(trades(5))
            path = stage.state_folder / STREAM_BIRTH
            path.parent.mkdir(parents=True)
            identity = (await stage.transport.describe("trades")).identity
            known = stream_birth_from_bytes(stream_birth_bytes_of(identity, starts={"7": Position(3)}), key="")
            path.write_bytes(stream_birth_bytes(known))
            await stage.score_all()
            assert sources(await stage.lines("scores")) == ["0", "1", "2", "3", "4"]

    async def test_of_two_births_the_first_counts(self, tmp_path: Path) -> None:
        # Somebody writes the birth, with another start, while ours is on its way.
        config = QUICK.model_copy(update={"emit": "all"})
        async with Stage(tmp_path, config=config).opened() as stage:
            await stage.publish(trades(10))
            identity = (await stage.transport.describe("trades")).identity
            run = Run("p", P0, identity, 1, SPEC.hash(algorithm_version=1))

            async def faster(name: str, phase: str) -> None:
                path = stage.state_folder / BIRTH
                if (name, phase) == ("create birth", "before") and path.parent.parent.parent.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(birth_bytes(Birth(run=run, start=Position(4))))

            await stage.score_all(hook=faster)
            assert sources(await stage.lines("scores")) == ["4", "5", "6", "7", "8", "9"]
            assert await stage.lines("scores") == (await stage.oracle(start=Position(4)))["scores"]


def stream_birth_bytes_of(identity: str, *, starts: dict[str, Position]) -> bytes:
    from cutbank.pipeline.scoring.snapshots import StreamBirth

    return stream_birth_bytes(StreamBirth(pipeline="p", stream="trades", identity=identity, starts=starts))


class TestSnapshots:
    async def test_a_restart_without_replay_goes_on_from_the_last_snapshot(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(40))
            await stage.score_all()
            await stage.publish(trades(40, first=40))
            await stage.score_all()
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
            assert "cutbank_replayed_records_total" not in stage.metrics.counters

    @pytest.mark.parametrize("harm", ["spoil", "cut", "empty", "delete", "foreign", "misplaced", "version"])
    async def test_an_unusable_newest_snapshot_is_passed_over_for_the_one_before(
        self, tmp_path: Path, harm: str
    ) -> None:
        async with Stage(tmp_path).opened() as stage:
            for first in (0, 20):
                await stage.publish(trades(20, first=first))
                await stage.score_all()
            newest, older = stage.snapshots()
            match harm:
                case "spoil":
                    spoil(newest)
                case "cut":
                    overwrite(newest, newest.read_bytes()[:-40])
                case "empty":
                    overwrite(newest, b"")
                case "delete":
                    newest.unlink()
                case "foreign":
                    overwrite(newest, b"x" * 1000)
                case "misplaced":
                    overwrite(newest, older.read_bytes())
                case "version":
                    overwrite(newest, newest.read_bytes()[:8] + b"\x00\x63" + newest.read_bytes()[10:])
            await stage.publish(trades(20, first=40))
            stage.metrics = Recorder()
            await stage.score_all()
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
            assert stage.metrics.counters["cutbank_replayed_records_total"] == 20
            assert stage.metrics.counters.get("cutbank_snapshots_unusable_total", 0) == (harm != "delete")

    async def test_an_unusable_snapshot_is_made_anew_where_it_stood(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            for first in (0, 20):
                await stage.publish(trades(20, first=first))
                await stage.score_all()
            good = stage.snapshots()[0].read_bytes()
            spoil(stage.snapshots()[0])
            await stage.score_all()  # no new record: the snapshot has the same place
            assert stage.snapshots()[0].read_bytes() == good

    async def test_with_every_snapshot_unusable_all_is_learnt_again_from_the_birth(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            for first in (0, 20):
                await stage.publish(trades(20, first=first))
                await stage.score_all()
            for path in stage.snapshots():
                spoil(path)
            await stage.publish(trades(20, first=40))
            stage.metrics = Recorder()
            await stage.score_all()
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
            assert stage.metrics.counters["cutbank_replayed_records_total"] == 40
            assert stage.metrics.counters["cutbank_snapshots_unusable_total"] == 2

    async def test_a_corrupt_birth_does_no_harm_while_a_snapshot_is_there(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(20))
            await stage.score_all()
            spoil(stage.state_folder / BIRTH)
            await stage.publish(trades(20, first=20))
            await stage.score_all()
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]

    async def test_replay_stops_exactly_at_the_committed_position(self, tmp_path: Path) -> None:
        config = QUICK.model_copy(update={"batch_records_max": 1000})
        async with Stage(tmp_path, config=config).opened() as stage:
            await stage.publish(trades(20))
            await stage.score_all()
            for path in stage.snapshots():
                path.unlink()
            await stage.publish(trades(20, first=20))  # beyond the committed position, in the same read
            await stage.score_all()
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
            assert stage.metrics.counters["cutbank_replayed_records_total"] == 20

    async def test_a_stop_during_the_replay_publishes_nothing(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(40))
            await stage.score_all()
            for path in stage.snapshots():
                path.unlink()
            before = await stage.lines("anomalies")
            stop = asyncio.Event()

            async def stop_soon(name: str, phase: str) -> None:
                if name == "receive":
                    stop.set()

            async with stage.lease() as lease, stage.worker() as worker:
                await worker.work(TappedLease(lease, stop_soon), stop)
            assert await stage.lines("anomalies") == before
            assert stage.snapshots() == []

    async def test_a_commit_that_moved_during_the_replay_starts_it_over(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(40))
            await stage.score_all()
            spoil(stage.snapshots()[0])
            await stage.commit(30)
            fences = Counter[str]()
            stop = asyncio.Event()
            async with stage.lease() as lease, stage.worker() as worker:

                async def move(name: str, phase: str) -> None:
                    fences[name] += phase == "after"
                    if (name, phase) == ("receive", "after") and fences["receive"] == 1:
                        await lease.commit(Position(40))
                    if name == "idle":
                        stop.set()

                await worker.work(TappedLease(lease, move), stop)
            assert fences["fence"] == 2
            assert stage.metrics.counters["cutbank_replayed_records_total"] == 30 + 40
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]

    async def test_a_position_that_keeps_moving_is_taken_up_later(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(40))
            await stage.score_all()
            async with stage.lease() as lease, stage.worker() as worker:
                fences = Counter[str]()

                async def move(name: str, phase: str) -> None:
                    fences[name] += phase == "after"
                    if (name, phase) == ("fence", "after"):
                        await lease.commit(Position(40 - fences["fence"]))

                with pytest.raises(StreamUnavailable, match="kept changing"):
                    await worker.work(TappedLease(lease, move), asyncio.Event())
            assert fences["fence"] == ROUNDS_MAX

    async def test_a_replay_that_gets_nowhere_is_taken_up_later(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(40))
            await stage.score_all()
            await stage.commit(30)  # before the only snapshot: all is learnt again
            reads = 0

            class Mute(TappedLease):
                async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
                    nonlocal reads
                    reads += 1
                    batch = await super().receive(records_max=records_max, bytes_max=bytes_max, wait_s=wait_s)
                    if reads == 1:
                        return batch
                    self.seek(batch.start)
                    return batch.before(batch.start)

            async with stage.lease() as lease, stage.worker() as worker:
                with pytest.raises(StreamUnavailable, match="the log does not reach 30 yet"):
                    await worker.work(Mute(lease), asyncio.Event())
            assert reads == 1 + EMPTY_READS_MAX + 1
            await stage.score_all()
            assert await stage.committed() == 40

    async def test_snapshots_from_beyond_the_committed_position_are_forgotten(self, tmp_path: Path) -> None:
        # As after a power failure with a log that syncs less than the store: others may follow in the lost ones' place.
        async with Stage(tmp_path).opened() as stage:
            for first in (0, 20):
                await stage.publish(trades(20, first=first))
                await stage.score_all()
            beyond = stage.snapshots()[0]
            await stage.commit(25)
            stop = asyncio.Event()

            async def stop_at_once(name: str, phase: str) -> None:
                if (name, phase) == ("receive", "after") and not beyond.exists():
                    stop.set()

            async with stage.lease() as lease, stage.worker() as worker:
                await worker.work(TappedLease(lease, stop_at_once), stop)
            assert beyond not in stage.snapshots()
            assert stage.metrics.counters["cutbank_replayed_records_total"] == 5

    async def test_none_is_forgotten_for_a_position_past_retention(self, tmp_path: Path) -> None:
        # A position that was set back too far stops the partition; set right again, nothing is lost.
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(20))
            await stage.score_all()
            await stage.expire_all()
            await stage.commit(0)
            kept = stage.snapshots()
            with pytest.raises(PositionLost):
                await stage.score_all()
            assert stage.snapshots() == kept
            await stage.commit(20)
            await stage.publish(trades(5, first=20))
            await stage.score_all()
            assert await stage.committed() == 25


class TestLostPositions:
    async def test_without_a_committed_position_the_newest_snapshots_counts(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(20))
            await stage.score_all()
            once = await stage.lines("anomalies")
            await stage.score_all(lease_type=ForgottenLease)
            assert await stage.lines("anomalies") == once
            assert await stage.committed() == 20

    async def test_without_a_committed_position_and_newest_snapshot_the_same_lines_come_again(
        self, tmp_path: Path
    ) -> None:
        async with Stage(tmp_path).opened() as stage:
            for first in (0, 20):
                await stage.publish(trades(20, first=first))
                await stage.score_all()
            once = await stage.lines("anomalies")
            stage.snapshots()[0].unlink()
            await stage.score_all(lease_type=ForgottenLease)
            again = (await stage.lines("anomalies"))[len(once) :]
            # Byte for byte what the sink has seen, so it drops them.
            assert again == [line for line, source in zip(once, sources(once), strict=True) if int(source) >= 20]
            assert again

    async def test_a_position_reset_to_before_the_run_goes_on_at_its_birth(self, tmp_path: Path) -> None:
        config = QUICK.model_copy(update={"start": "latest", "emit": "all"})
        async with Stage(tmp_path, config=config).opened() as stage:
            await stage.publish(trades(10))
            await stage.score_all()
            await stage.commit(3)
            await stage.publish(trades(5, first=10))
            await stage.score_all()
            assert sources(await stage.lines("scores")) == ["10", "11", "12", "13", "14"]


class TestNewRun:
    async def test_a_changed_spec_begins_a_run_at_the_committed_position_with_an_empty_model(
        self, tmp_path: Path
    ) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            stage.spec = OTHER_SPEC
            await stage.publish(trades(30, first=30))
            await stage.score_all()
            first = (await stage.oracle())["anomalies"]
            second = (await stage.oracle(run=2, start=Position(30)))["anomalies"]
            expected = [line for line, source in zip(first, sources(first), strict=True) if int(source) < 30] + second
            assert await stage.lines("anomalies") == expected
            assert birth_of(stage, 2).start == 30
            assert birth_of(stage, 2).run.spec_hash == OTHER_SPEC.hash(algorithm_version=1)
            assert stage.snapshots(run=1) == []
            assert (stage.state_folder / BIRTH).exists()
            assert stage.metrics.counters["cutbank_runs_started_total"] == 2

    async def test_a_new_algorithm_begins_a_run_too(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            stage.detectors = replace(DETECTORS, algorithm_version=2)
            await stage.publish(trades(30, first=30))
            await stage.score_all()
            assert set(run_numbers(await stage.lines("anomalies"))) == {1, 2}

    async def test_another_description_or_output_stream_begins_none(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            stage.spec = SPEC.model_copy(update={"description": "other words", "destination": "scores"})
            await stage.publish(trades(30, first=30))
            await stage.score_all()
            assert set(run_numbers(await stage.lines("scores"))) == {1}

    async def test_a_changed_spec_and_no_committed_position_is_loud(self, tmp_path: Path) -> None:
        # Nobody knows where the old run got to; from anywhere else its anomalies would come again under a new number.
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            stage.spec = OTHER_SPEC
            with pytest.raises(StateLost, match="start once with the spec as it was"):
                await stage.score_all(lease_type=ForgottenLease)

    async def test_a_zombie_begins_no_run(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            stage.spec = OTHER_SPEC
            async with stage.lease() as lease:

                async def lose_the_lease(name: str, phase: str) -> None:
                    if (name, phase) == ("read", "after"):
                        await lease.release()

                store = TappedStore(stage.store, lose_the_lease)
                async with stage.worker(store=store) as worker:
                    with pytest.raises(Fenced):
                        await worker.work(TappedLease(lease), asyncio.Event())
            assert not (stage.state_folder / "p/trades/0/00000002").exists()

    async def test_a_newer_run_born_on_the_way_means_given_up(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()

            async def newer(name: str, phase: str) -> None:
                if (name, phase) == ("committed", "after"):
                    path = stage.state_folder / "p/trades/0/00000002/birth"
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(b"any")

            async with stage.lease() as lease, stage.worker() as worker:
                with pytest.raises(Fenced, match="run 2 was born"):
                    await worker.work(TappedLease(lease, newer), asyncio.Event())


class TestLoudStops:
    async def test_another_stream_under_the_same_name(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            lines = await stage.lines("anomalies")
            await stage.transport.delete("trades")
            await stage.transport.ensure(StreamConfig(name="trades"))
            await stage.publish(trades(30, first=100))
            with pytest.raises(AnotherStream, match="made anew"):
                await stage.score_all()
            assert await stage.lines("anomalies") == lines

    async def test_a_committed_position_without_any_birth(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.commit(10)
            with pytest.raises(StateLost, match="on_lost_state=new_run"):
                await stage.score_all()
            assert not (stage.state_folder / "p").exists()

    async def test_a_committed_position_and_only_the_streams_birth(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            for path in (*stage.snapshots(), stage.state_folder / BIRTH):
                path.unlink()
            with pytest.raises(StateLost, match="no birth of trades/0"):
                await stage.score_all()

    async def test_a_corrupt_birth_of_the_stream(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            spoil(stage.state_folder / STREAM_BIRTH)
            with pytest.raises(StateLost, match="checksum"):
                await stage.score_all()

    async def test_neither_birth_nor_snapshot_can_be_read(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            for path in (*stage.snapshots(), stage.state_folder / BIRTH):
                spoil(path)
            with pytest.raises(StateLost, match="neither the birth nor any snapshot"):
                await stage.score_all()

    async def test_no_usable_snapshot_and_the_records_gone(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            for path in stage.snapshots():
                spoil(path)
            await stage.expire_all()
            await stage.publish(trades(10, first=30))
            with pytest.raises(StateLost, match="needed to rebuild the model"):
                await stage.score_all()

    async def test_a_position_past_retention(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            await stage.publish(trades(10, first=30))
            await stage.expire_all()
            await stage.publish(trades(10, first=40))
            with pytest.raises(PositionLost, match="on_lost_state=new_run"):
                await stage.score_all()

    async def test_a_log_that_ends_before_the_committed_position(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            await stage.commit(1000)
            with pytest.raises(PartitionStopped, match="the log was cut"):
                await stage.score_all()

    async def test_a_log_that_ends_before_the_newest_snapshot_and_knows_no_commit(self, tmp_path: Path) -> None:
        # As when the log comes back from a backup older than the first commit, and other records follow in it.
        (tmp_path / "old").mkdir()
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(10))
        (tmp_path / "old/log.db").write_bytes((tmp_path / "log.db").read_bytes())
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(40, first=10))
            await stage.score_all()
        (tmp_path / "state").rename(tmp_path / "old/state")
        async with Stage(tmp_path / "old").opened() as stage:
            await stage.publish(trades(20, first=100))
            with pytest.raises(PartitionStopped, match=r"ends before 50, where .* run 1 in .*: the log was cut"):
                await stage.score_all()
            assert await stage.committed() is None
            assert await stage.lines("anomalies") == []

    async def test_a_log_that_ends_before_the_birth(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(10))
            path = stage.state_folder / STREAM_BIRTH
            path.parent.mkdir(parents=True)
            identity = (await stage.transport.describe("trades")).identity
            path.write_bytes(stream_birth_bytes_of(identity, starts={"0": Position(11)}))
            with pytest.raises(PartitionStopped, match="ends before 11"):
                await stage.score_all()
            assert await stage.committed() is None

    async def test_a_birth_at_a_newer_end_than_was_described_first_is_no_cut(self, tmp_path: Path) -> None:
        # Another process begins at `latest`, of which our description of the stream knows nothing yet.
        config = QUICK.model_copy(update={"emit": "all"})
        async with Stage(tmp_path, config=config).opened() as stage:
            await stage.publish(trades(5))
            identity = (await stage.transport.describe("trades")).identity

            async def faster(name: str, phase: str) -> None:
                path = stage.state_folder / BIRTH
                if (name, phase) == ("list", "before") and not path.exists():
                    await stage.publish(trades(5, first=5))
                    run = Run("p", P0, identity, 1, SPEC.hash(algorithm_version=1))
                    path.parent.mkdir(parents=True)
                    path.write_bytes(birth_bytes(Birth(run=run, start=Position(8))))
                    (stage.state_folder / STREAM_BIRTH).write_bytes(stream_birth_bytes_of(identity, starts={}))

            await stage.score_all(hook=faster)
            assert sources(await stage.lines("scores")) == ["8", "9"]


class TestNewRunAllowed:
    async def test_past_retention_it_begins_at_the_oldest_record(self, tmp_path: Path) -> None:
        async with Stage(tmp_path, config=LOST).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            await stage.publish(trades(10, first=30))
            await stage.expire_all()
            await stage.publish(trades(20, first=40))
            before = await stage.lines("anomalies")
            await stage.score_all()
            new = (await stage.lines("anomalies"))[len(before) :]
            assert new == (await stage.oracle(run=2, start=Position(40)))["anomalies"]
            assert set(run_numbers(new)) == {2}

    async def test_what_was_published_is_learnt_and_not_published_again(self, tmp_path: Path) -> None:
        async with Stage(tmp_path, config=LOST).opened() as stage:
            await stage.publish(trades(10))
            await stage.expire_all()
            await stage.publish(trades(20, first=10))
            await stage.score_all()
            before = await stage.lines("anomalies")
            for path in (*stage.snapshots(), stage.state_folder / BIRTH):
                spoil(path)
            await stage.publish(trades(20, first=30))
            await stage.score_all()
            new = (await stage.lines("anomalies"))[len(before) :]
            whole = (await stage.oracle(run=2, start=Position(10)))["anomalies"]
            assert new == [line for line, source in zip(whole, sources(whole), strict=True) if int(source) >= 30]
            assert new

    async def test_with_no_birth_left_the_run_exceeds_every_earlier_number(self, tmp_path: Path) -> None:
        # A sink drops what is of an older run, so number 1 once more would be lost.
        async with Stage(tmp_path, config=LOST).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            for path in (*stage.snapshots(), stage.state_folder / BIRTH, stage.state_folder / STREAM_BIRTH):
                path.unlink()
            await stage.publish(trades(30, first=30))
            before = await stage.lines("anomalies")
            await stage.score_all()
            new = (await stage.lines("anomalies"))[len(before) :]
            assert min(run_numbers(new)) > 20_000_000
            await stage.score_all()
            assert stage.metrics.counters["cutbank_runs_started_total"] == 2

    async def test_a_corrupt_birth_of_the_stream_is_written_anew(self, tmp_path: Path) -> None:
        async with Stage(tmp_path, config=LOST).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            spoil(stage.state_folder / STREAM_BIRTH)
            await stage.publish(trades(30, first=30))
            await stage.score_all()
            assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


async def test_bad_records_before_the_committed_position_are_replayed_without_a_second_error(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish([trade(0), b"{", trade(1)])
        await stage.score_all()
        for path in stage.snapshots():
            path.unlink()
        await stage.publish([trade(2)])
        await stage.score_all()
        assert sources(await stage.lines("errors")) == ["1"]
        snapshot = snapshot_from_bytes(stage.snapshots()[0].read_bytes(), key="")
        assert (snapshot.records, snapshot.errors) == (4, 1)


def test_the_newest_snapshot_has_the_first_name() -> None:
    keys = [snapshot_key("p", P0, 1, Position(position)) for position in (5, 50, 500)]
    assert sorted(keys) == keys[::-1]
    assert keys[0].endswith(position_inverted(Position(5)))
