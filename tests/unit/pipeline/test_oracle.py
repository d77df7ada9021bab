"""The oracle: what an undisturbed run publishes, run by run, and what it says when it cannot know."""

from dataclasses import replace
from pathlib import Path

import pytest

from cutbank.errors import DetectorMismatch
from cutbank.pipeline import oracle
from cutbank.pipeline.accounts import SourceId
from cutbank.pipeline.oracle import NOWHERE, Expected, Handovers, Unproven, undisturbed
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Position
from cutbank.transports.base import StreamConfig
from scoring_stage import DETECTORS, QUICK, SPEC, Stage, sources, trade, trades

OTHER = SPEC.model_copy(update={"threshold": 0.9})
LOST = QUICK.model_copy(update={"on_lost_state": "new_run"})


def room(stage: Stage) -> StateRoom:
    return StateRoom(stage.store, pipeline=stage.spec.name, stream=stage.spec.source)


async def foretold(
    stage: Stage, spec: PipelineSpec = SPEC, *, state: bool = True, handovers: Handovers | None = None
) -> tuple[list[Expected], list[Unproven]]:
    """All that the oracle says about what lies in the stage's log."""
    expected: list[Expected] = []
    unproven: list[Unproven] = []
    room_of = room(stage) if state else None
    async for item in undisturbed(stage.transport, room_of, spec, detectors=DETECTORS, handovers=handovers):
        if isinstance(item, Unproven):
            unproven.append(item)
        else:
            expected.append(item)
    return expected, unproven


def lines(expected: list[Expected], stream: str = "anomalies") -> list[bytes]:
    return [item.output.value for item in expected if item.output.stream == stream]


class TestOneRun:
    async def test_is_what_the_scorer_published_whatever_the_batches(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish([*trades(1200), b"{", trade(1200), b"[]", *trades(100, first=1201)])
            await stage.score_all()
            expected, unproven = await foretold(stage)
            assert lines(expected) == await stage.lines("anomalies")
            assert lines(expected, "errors") == await stage.lines("errors")
            assert len(lines(expected)) > oracle.BATCH_RECORDS_MAX / 5
            assert unproven == []
            assert all(item.certain for item in expected)

    async def test_names_each_line_by_its_source(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish([trade(0), b"{"])
            await stage.score_all()
            expected, _ = await foretold(stage)
            errors = [item.source for item in expected if item.output.stream == "errors"]
            assert errors == [SourceId(partition="0", position=1, run=1, ordinal=0)]

    async def test_foretells_what_is_not_scored_yet(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            await stage.publish(trades(30, first=30))
            expected, _ = await foretold(stage)
            await stage.score_all()
            assert lines(expected) == await stage.lines("anomalies")

    async def test_every_partition_is_there_or_only_those_asked_for(self, tmp_path: Path) -> None:
        async with Stage(tmp_path, partitions=3).opened() as stage:
            for partition in ("0", "1", "2"):
                await stage.publish(trades(40, first=100 * int(partition)), partition=partition)
            await stage.score_all()  # partition 0, and the stream's birth
            expected, unproven = await foretold(stage)
            assert {item.source.partition for item in expected} == {"0", "1", "2"}
            assert unproven == []
            asked = undisturbed(stage.transport, room(stage), SPEC, detectors=DETECTORS, partitions={"1"})
            found = [item async for item in asked]
            assert found == [item for item in expected if item.source.partition == "1"]

    async def test_reads_a_batch_at_a_time(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(3000))
            long = [trade(number) + b" " * (oracle.BATCH_BYTES_MAX // 8) for number in range(20)]
            for first in range(0, 20, 5):
                await stage.publish(long[first : first + 5])
            await stage.score_all()
            sizes: list[int] = []
            largest = 0

            read = stage.transport.read

            async def watched(*where: object, records_max: int, bytes_max: int) -> object:
                batch = await read(*where, records_max=records_max, bytes_max=bytes_max)  # type: ignore[arg-type]
                nonlocal largest
                sizes.append(len(batch))
                largest = max(largest, sum(map(len, batch.values)))
                return batch

            stage.transport.read = watched  # type: ignore[method-assign,assignment]
            await foretold(stage)
            assert sum(sizes) == 3020
            assert max(sizes) <= oracle.BATCH_RECORDS_MAX
            assert 0 < largest <= oracle.BATCH_BYTES_MAX

    async def test_a_machine_that_scores_differently_is_refused(self, tmp_path: Path) -> None:
        def differs() -> None:
            raise DetectorMismatch("other scores")

        async with Stage(tmp_path).opened() as stage:
            with pytest.raises(DetectorMismatch):
                async for _ in undisturbed(
                    stage.transport, None, SPEC, detectors=replace(DETECTORS, self_check=differs)
                ):
                    pass


class TestWithoutState:
    async def test_one_run_from_the_oldest_record(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(100))
            await stage.score_all()
            expected, unproven = await foretold(stage, state=False)
            assert lines(expected) == await stage.lines("anomalies")
            assert unproven == []

    async def test_from_where_the_caller_says(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(100))
            starts = {"0": Position(40)}
            asked = undisturbed(stage.transport, None, SPEC, detectors=DETECTORS, starts=starts)
            found = [item async for item in asked if isinstance(item, Expected)]
            assert lines(found) == (await stage.oracle(start=Position(40)))["anomalies"]


class TestChangedSpec:
    async def test_each_spec_speaks_for_its_own_run(self, tmp_path: Path) -> None:
        stage = Stage(tmp_path)
        async with stage.opened():
            await stage.publish(trades(50))
            await stage.score_all()
            stage.spec = OTHER
            await stage.publish(trades(50, first=50))
            await stage.score_all()
            published = await stage.lines("anomalies")
            before, unproven_after = await foretold(stage, SPEC)
            after, unproven_before = await foretold(stage, OTHER)
            assert lines(before) + lines(after) == published
            assert [(item.run, item.start, item.end) for item in unproven_after] == [(2, 50, 100)]
            assert [(item.run, item.start, item.end) for item in unproven_before] == [(1, 0, 50)]
            assert "of another spec" in str(unproven_before[0])
            assert all(item.certain for item in (*before, *after))


class TestLostState:
    async def begun_anew(self, stage: Stage) -> list[bytes]:
        """Thirty records, then all state of the run is gone, then thirty more; what was published."""
        await stage.publish(trades(30))
        await stage.score_all()
        for path in stage.snapshots():
            path.unlink()
        birth = stage.state_folder / "p/trades/0/00000001/birth"
        kept = birth.read_bytes()
        birth.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        await stage.publish(trades(30, first=30))
        await stage.score_all()
        birth.write_bytes(kept)
        return await stage.lines("anomalies")

    async def test_what_either_run_may_have_said_is_not_certain(self, tmp_path: Path) -> None:
        async with Stage(tmp_path, config=LOST).opened() as stage:
            published = await self.begun_anew(stage)
            expected, _ = await foretold(stage)
            assert set(published) < set(lines(expected))
            assert not any(item.certain for item in expected)

    async def test_told_where_the_new_run_went_live_all_is(self, tmp_path: Path) -> None:
        async with Stage(tmp_path, config=LOST).opened() as stage:
            published = await self.begun_anew(stage)
            expected, unproven = await foretold(stage, handovers={("0", 2): (Position(30), Position(30))})
            assert lines(expected) == published
            assert unproven == []
            assert all(item.certain for item in expected)

    async def test_between_two_known_positions_nothing_is_certain(self, tmp_path: Path) -> None:
        async with Stage(tmp_path, config=LOST).opened() as stage:
            published = await self.begun_anew(stage)
            expected, _ = await foretold(stage, handovers={("0", 2): (Position(20), Position(40))})
            assert set(published) <= set(lines(expected))
            unsure = {(item.source.run, 20 <= item.source.position < 40) for item in expected if not item.certain}
            assert unsure == {(1, True), (2, True)}

    async def test_an_unreadable_birth_is_said(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            birth = stage.state_folder / "p/trades/0/00000001/birth"
            birth.write_bytes(b"nothing")
            expected, unproven = await foretold(stage)
            assert expected == []
            assert ["birth can't be read" in item.why for item in unproven] == [True]

    async def test_a_first_run_of_a_later_number_may_not_have_been_the_first(self, tmp_path: Path) -> None:
        async with Stage(tmp_path, config=LOST).opened() as stage:
            await stage.publish(trades(30))
            await stage.commit(10)
            await stage.score_all()
            expected, _ = await foretold(stage)
            assert set(await stage.lines("anomalies")) < set(lines(expected))
            assert not any(item.certain for item in expected)


class TestPastRetention:
    async def test_goes_on_from_the_oldest_usable_snapshot(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            await stage.expire_all()
            await stage.publish(trades(30, first=30))
            await stage.score_all()
            expected, (gap,) = await foretold(stage)
            published = await stage.lines("anomalies")
            first = next(at for at, text in enumerate(sources(published)) if int(text) >= gap.end)
            assert lines(expected) == published[first:]
            assert lines(expected)
            assert all(item.certain for item in expected)
            assert (gap.run, gap.start) == (1, 0)
            assert gap.end >= 30
            assert "past retention" in gap.why

    async def test_without_any_snapshot_nothing_is_proven(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            await stage.expire_all()
            await stage.publish(trades(30, first=30))
            await stage.score_all()
            for path in stage.snapshots():
                path.unlink()
            expected, unproven = await foretold(stage)
            assert expected == []
            assert [(item.start, item.end) for item in unproven] == [(0, 60)]


class TestOtherStreams:
    async def test_a_stream_that_was_never_scored(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            expected, unproven = await foretold(stage)
            assert expected == []
            assert [item.run for item in unproven] == [None]
            assert "has never scored it" in unproven[0].why

    async def test_a_stream_made_again_under_its_name(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(30))
            await stage.score_all()
            await stage.transport.delete("trades")
            await stage.transport.ensure(StreamConfig(name="trades"))
            await stage.publish(trades(30))
            expected, unproven = await foretold(stage)
            assert expected == []
            assert ["had this name before" in item.why for item in unproven] == [True]


def test_nowhere_is_after_every_position() -> None:
    assert NOWHERE > 2**256 - 1
