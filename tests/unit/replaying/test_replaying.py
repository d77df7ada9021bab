"""A stretch scored again on the real log, beside a real scorer: the same lines where the model is the same."""

import asyncio
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from cutbank.errors import StateLost, StreamMissing, UsageError
from cutbank.pipeline.replaying import Account, Plan, Request, prepare, replay
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message, Position
from cutbank.transports.base import Start, StreamConfig
from scoring_stage import DETECTORS, P0, QUICK, SPEC, Stage, sources, trade, trades

OTHER = SPEC.model_copy(update={"threshold": 0.9})
ALL = Start("earliest")
IDENTICAL = "scores are bit-identical to the live ones"


async def planned(stage: Stage, spec: PipelineSpec = SPEC, *, state: bool = True, **asked: Any) -> Plan:
    request = Request(**{"output": "again", "start": ALL, **asked})
    room = StateRoom(stage.store, pipeline=spec.name, stream=spec.source) if state else None
    return await prepare(stage.transport, room, spec, request, detectors=DETECTORS)


async def run(stage: Stage, plan: Plan) -> Account:
    account = Account()
    await replay(stage.transport, plan, account=account, clock=stage.log_clock, rng=random.Random(1), threads=2)
    return account


async def again(stage: Stage, spec: PipelineSpec = SPEC, **asked: Any) -> tuple[str, Account]:
    """Replay; what is said of the only partition's beginning, and the account."""
    plan = await planned(stage, spec, **asked)
    return str(plan.parts[0].origin), await run(stage, plan)


async def apart(stage: Stage, *portions: list[bytes]) -> list[Start]:
    """Publish portions that arrive seconds apart and score each; when each began."""
    starts = []
    for portion in portions:
        stage.log_clock.ahead_ms += 10_000
        starts.append(Start("timestamp", stage.log_clock.now_ms()))
        await stage.publish(portion)
        await stage.score_all()
    return starts


def after(lines: list[bytes], position: int) -> list[bytes]:
    return [line for line in lines if int(orjson.loads(line)["SOURCE"]["position"]) >= position]


class TestWhereTheLiveOneBegan:
    async def test_from_the_birth_every_line_is_the_live_one(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish([*trades(300), b"{", b"[]", *trades(20, first=300)])
            await stage.score_all()
            said, account = await again(stage)
            assert said == f"begins where live run 1 did, from its birth: {IDENTICAL}"
            assert await stage.lines("again") == await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
            assert (account.total("learnt"), account.total("scored")) == (0, 320)
            assert account.errors == {"invalid_json": 1, "not_an_object": 1}
            assert account.total("published") == account.total("lines") == account.total("anomalies") > 50
            assert account.share == 1.0

    async def test_from_the_snapshot_before_the_stretch(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            _, second, _ = await apart(stage, trades(100), trades(100, first=100), trades(50, first=200))
            said, account = await again(stage, start=second)
            assert said == f"begins where live run 1 did, from its birth: {IDENTICAL}"  # two are kept, both later
            assert account.total("learnt") == 100
            assert await stage.lines("again") == after(await stage.lines("anomalies"), 100)

            stage.log_clock.ahead_ms += 10_000
            third = Start("timestamp", stage.log_clock.now_ms())
            await stage.publish(trades(60, first=250))
            said, account = await again(stage, start=third, output="later")
            assert said == f"begins where live run 1 did, from its snapshot at 250: {IDENTICAL}"
            assert account.total("learnt") == 0
            await stage.score_all()
            assert await stage.lines("later") == after(await stage.lines("anomalies"), 250) != []

    async def test_what_lies_between_snapshot_and_stretch_is_learnt(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            await stage.publish(trades(30, first=100))
            (stretch,) = await apart(stage, trades(70, first=130))
            plan = await planned(stage, start=stretch)
            live = plan.parts[0].origin.live
            assert live is not None
            assert live.snapshot is not None
            assert live.snapshot.next == 100
            account = await run(stage, plan)
            assert account.total("learnt") == 30
            assert await stage.lines("again") == after(await stage.lines("anomalies"), 130) != []

    async def test_a_corrupt_snapshot_is_passed_by(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            _, second = await apart(stage, trades(100), trades(50, first=100))
            for path in stage.snapshots():
                path.write_bytes(path.read_bytes()[:-1])
            said, _ = await again(stage, start=second)
            assert "from its birth" in said
            assert await stage.lines("again") == after(await stage.lines("anomalies"), 100)

    async def test_a_snapshot_that_goes_meanwhile_costs_time_and_nothing_else(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            stage.log_clock.ahead_ms += 10_000
            start = Start("timestamp", stage.log_clock.now_ms())
            await stage.publish(trades(50, first=100))
            plan = await planned(stage, start=start)
            for path in stage.snapshots():
                path.unlink()
            account = await run(stage, plan)
            assert account.total("learnt") == 100
            await stage.score_all()
            assert await stage.lines("again") == after(await stage.lines("anomalies"), 100) != []

    async def test_past_retention_the_snapshot_alone_leads_there(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            await stage.expire_all()
            await stage.publish(trades(50, first=100))
            said, _ = await again(stage)
            assert said == f"begins where live run 1 did, from its snapshot at 100: {IDENTICAL}"
            await stage.score_all()
            assert await stage.lines("again") == after(await stage.lines("anomalies"), 100) != []
            plan = await planned(stage, output="more")
            assert plan.parts[0].origin.birth is None
            for path in stage.snapshots():
                path.unlink()
            with pytest.raises(StateLost, match="the snapshot to begin from has gone"):
                await run(stage, plan)

    async def test_up_to_where_a_later_live_run_began(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            stage.spec = OTHER
            (second,) = await apart(stage, trades(100, first=100))
            said, _ = await again(stage, OTHER, start=second, output="second")
            assert said == f"begins where live run 2 did, from its birth: {IDENTICAL}"
            assert await stage.lines("second") == after(await stage.lines("anomalies"), 100) != []
            said, _ = await again(stage)
            assert said.endswith(f"{IDENTICAL} up to 100, where another live run begins")
            assert (await stage.lines("again"))[: len(await stage.lines("anomalies"))] != []
            live = [line for line in await stage.lines("anomalies") if orjson.loads(line)["SOURCE"]["run"] == 1]
            assert (await stage.lines("again"))[: len(live)] == live
            said, _ = await again(stage, OTHER, output="other")
            assert "live run 1 has another spec" in said

    async def test_a_run_begun_for_lost_state_is_not_called_certain(self, tmp_path: Path) -> None:
        config = QUICK.model_copy(update={"on_lost_state": "new_run"})
        async with Stage(tmp_path, config=config).opened() as stage:
            await apart(stage, trades(60))
            room = StateRoom(stage.store, pipeline="p", stream="trades")
            identity = (await stage.transport.describe("trades")).identity
            spec_hash = SPEC.hash(algorithm_version=DETECTORS.algorithm_version)
            born = Run(pipeline="p", partition=P0, identity=identity, number=2, spec_hash=spec_hash)
            await room.create_birth(Birth(run=born, start=Position(0)))
            said, _ = await again(stage)
            assert "live run 2" in said
            assert said.endswith("its state was lost before, so the run before may have scored some of these records")


class TestElsewhere:
    async def test_another_spec_begins_empty_and_says_so(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(200))
            said, account = await again(stage, OTHER)
            assert said == ("begins with an empty model, not where the live one began: live run 1 has another spec")
            lines = [orjson.loads(line) for line in await stage.lines("again")]
            stage.spec = OTHER
            assert [{**line, "SOURCE": None} for line in lines] == [
                {**orjson.loads(line), "SOURCE": None} for line in (await stage.oracle())["anomalies"]
            ]
            assert {line["SOURCE"]["run"] for line in lines} == {0}  # no live run has this number
            assert account.total("scored") == 200

    @pytest.mark.parametrize(("warm_up", "learnt"), [(0, 0), (1, 1), (37, 37), (99, 99)])
    async def test_warm_up_is_learnt_without_a_line(self, tmp_path: Path, warm_up: int, learnt: int) -> None:
        async with Stage(tmp_path).opened() as stage:
            _, second = await apart(stage, trades(100), trades(80, first=100))
            said, account = await again(stage, start=second, warm_up=warm_up)
            assert said.endswith("not where the live one began: it began at 0")
            assert account.total("learnt") == learnt
            expected = (await stage.oracle(run=0, start=Position(100 - warm_up)))["anomalies"]
            assert await stage.lines("again") == after(expected, 100)

    async def test_warm_up_back_to_the_birth_is_where_the_live_one_began(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            _, second = await apart(stage, trades(100), trades(80, first=100))
            plan = await planned(stage, start=second, warm_up=150)
            assert str(plan.parts[0].origin).startswith("begins where live run 1 did, from its birth")
            assert plan.parts[0].origin.short == 50
            await run(stage, plan)
            assert await stage.lines("again") == after(await stage.lines("anomalies"), 100)

    @pytest.mark.parametrize("missing", ["state", "births", "snapshots", "another stream"])
    async def test_what_is_not_known_is_not_claimed(self, tmp_path: Path, missing: str) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            spec, why = SPEC, "no state store is there"
            if missing == "births":
                spec, why = SPEC.model_copy(update={"name": "q"}), "knows of no live run of pipeline q on trades/0"
            if missing == "snapshots":
                await stage.expire_all()
                await stage.publish(trades(20, first=100))
                for path in stage.snapshots():
                    path.unlink()
                why = "began with records that are past retention, and no snapshot from before is left"
            if missing == "another stream":
                await stage.transport.delete("trades")
                await stage.transport.ensure(StreamConfig("trades"))
                await stage.publish(trades(20))
                why = "live run 1 scored another stream, which had this name before"
            plan = await planned(stage, spec, state=missing != "state")
            assert plan.parts[0].origin.live is None
            assert why in str(plan.parts[0].origin)
            await run(stage, plan)
            assert {orjson.loads(line)["SOURCE"]["run"] for line in await stage.lines("again")} == {0}

    async def test_before_the_live_one_began(self, tmp_path: Path) -> None:
        config = QUICK.model_copy(update={"start": "latest"})
        async with Stage(tmp_path, config=config).opened() as stage:
            await stage.publish(trades(40))
            (second,) = await apart(stage, trades(0))
            await apart(stage, trades(60, first=40))
            said, _ = await again(stage)
            assert said.endswith("the first live run began later, at 40")
            said, _ = await again(stage, start=second, output="at-its-birth")
            assert said.startswith("begins where live run 1 did, from its birth")
            assert await stage.lines("at-its-birth") == await stage.lines("anomalies") != []


class TestTheStretch:
    async def test_ends_before_the_time_named(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            first, second, third = await apart(stage, trades(50), trades(50, first=50), trades(50, first=100))
            _, account = await again(stage, start=second, to_ms=third.timestamp_ms, emit="all")
            assert sources(await stage.lines("again")) == [str(number) for number in range(50, 100)]
            assert account.total("scored") == 50
            _, account = await again(stage, start=second, emit="all")  # longer: what is missing is added
            assert account.total("published") == 50
            assert sources(await stage.lines("again")) == [str(number) for number in range(50, 150)]
            _, account = await again(stage, start=second, to_ms=third.timestamp_ms, emit="all")  # shorter: nothing
            assert account.total("published") == 0
            with pytest.raises(UsageError, match="has no record of that time"):
                await planned(stage, start=first, to_ms=first.timestamp_ms, output="none")
            with pytest.raises(UsageError, match="has no record of that time"):
                await planned(stage, start=Start("timestamp", third.timestamp_ms + 5_000), output="none")
            assert "none" not in await stage.transport.streams()

    async def test_has_every_partition_and_the_output_as_many(self, tmp_path: Path) -> None:
        async with Stage(tmp_path, partitions=3).opened() as stage:
            await stage.publish(trades(50), partition="0")
            await stage.publish(trades(70, first=50), partition="2")
            plan = await planned(stage, state=False, emit="all")
            assert [part.stretch.partition.id for part in plan.parts] == ["0", "2"]
            account = await run(stage, plan)
            assert account.total("scored") == 120
            counts = [len(await stage.read("again", one)) for one in "012"]
            assert counts == [50, 0, 70]

    async def test_all_lines_are_those_of_the_scores_stream(self, tmp_path: Path) -> None:
        config = QUICK.model_copy(update={"emit": "all"})
        async with Stage(tmp_path, config=config).opened() as stage:
            await apart(stage, [*trades(80), b"{"])
            await again(stage, emit="all")
            assert await stage.lines("again") == await stage.lines("scores")
            assert len(await stage.lines("scores")) == 80


class TestTheLivePipeline:
    async def test_notices_nothing(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            await stage.publish(trades(20, first=100))

            def files() -> dict[str, bytes]:
                return {str(p): p.read_bytes() for p in stage.state_folder.rglob("*") if p.is_file()}

            streams = await stage.transport.streams()
            before = files(), await stage.committed(), [list((await stage.read(name)).values) for name in streams]
            await again(stage)
            await again(stage, OTHER, output="other", warm_up=5)
            assert before == (
                files(),
                await stage.committed(),
                [list((await stage.read(name)).values) for name in streams],
            )
            await stage.score_all()
            assert await stage.lines("again") == await stage.lines("anomalies") == (await stage.oracle())["anomalies"]


class TestTheOutputStream:
    @pytest.mark.parametrize("name", ["trades", "anomalies", "errors", "scores"])
    async def test_is_never_the_pipelines_own(self, tmp_path: Path, name: str) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(5))
            with pytest.raises(UsageError, match="is the live pipeline's own; name a new one"):
                await planned(stage, output=name)

    @pytest.mark.parametrize("name", ["", "a/b", "-x", "x" * 101])
    async def test_has_a_lawful_name(self, tmp_path: Path, name: str) -> None:
        async with Stage(tmp_path).opened() as stage:
            with pytest.raises(UsageError, match="output stream"):
                await planned(stage, output=name)

    async def test_is_not_the_live_one_even_where_the_spec_names_another(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            elsewhere = SPEC.model_copy(update={"destination": "elsewhere"})
            with pytest.raises(UsageError, match="'anomalies' holds records of another replay"):
                await planned(stage, elsewhere, output="anomalies")

    @pytest.mark.parametrize(
        "other", [{"warm_up": 7}, {"emit": "all"}, {"spec": OTHER}, {"start": Start("timestamp", 1)}, {"state": False}]
    )
    async def test_takes_no_other_replay(self, tmp_path: Path, other: dict[str, Any]) -> None:
        async with Stage(tmp_path).opened() as stage:
            _, second = await apart(stage, trades(50), trades(60, first=50))
            await again(stage, start=second)
            held = await stage.lines("again")
            with pytest.raises(UsageError, match="'again' holds records of another replay"):
                await planned(stage, **{"start": second, **other})
            assert await stage.lines("again") == held != []

    async def test_takes_no_other_spec_where_no_live_run_tells_them_apart(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await stage.publish(trades(60))
            await run(stage, await planned(stage, state=False))
            with pytest.raises(UsageError, match="'again' holds records of another replay"):
                await planned(stage, OTHER, state=False)

    async def test_run_again_gets_nothing_twice(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            await again(stage)
            _, account = await again(stage)
            assert (account.total("published"), account.total("lines")) == (0, len(await stage.lines("anomalies")))
            assert await stage.lines("again") == await stage.lines("anomalies")

    async def test_with_another_line_under_its_key_is_refused(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            plan = await planned(stage)
            await stage.transport.ensure(StreamConfig("again"))
            await stage.transport.publish([Message("again", b"{}", plan.parts[0].key)])
            with pytest.raises(UsageError, match="'again' holds records of another replay"):
                await run(stage, plan)
            assert await stage.lines("again") == [b"{}"]

    async def test_where_somebody_else_writes_too_is_refused_at_the_end(self, tmp_path: Path) -> None:
        async with Stage(tmp_path).opened() as stage:
            await apart(stage, trades(100))
            plan = await planned(stage)
            account = Account()

            meddling: list[asyncio.Future[None]] = []

            def meddle() -> None:
                meddling.append(asyncio.ensure_future(stage.transport.publish([Message("again", b"theirs")])))

            with pytest.raises(UsageError, match="or of something else"):
                await replay(
                    stage.transport,
                    plan,
                    account=account,
                    clock=stage.log_clock,
                    rng=random.Random(1),
                    threads=1,
                    on_step=meddle,
                )
            with pytest.raises(UsageError, match="or of something else"):
                await again(stage)  # and by whoever comes upon it later


async def test_without_the_source_it_says_which(tmp_path: Path) -> None:
    async with Stage(tmp_path, streams=()).opened() as stage:
        with pytest.raises(StreamMissing, match="trades"):
            await planned(stage)


async def test_a_record_is_a_line_as_the_scorer_writes_it(tmp_path: Path) -> None:
    async with Stage(tmp_path).opened() as stage:
        await stage.publish([trade(1)])
        await again(stage, emit="all")
        (line,) = await stage.lines("again")
        assert list(orjson.loads(line)) == [
            *[column.name for column in SPEC.columns],
            "ANOMALY_SCORE",
            "ROWTIME",
            "SOURCE",
        ]
