"""With the log beside it, an audit proves that every anomaly is in the objects, and tells a lag from a loss."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from cutbank.cli import main
from cutbank.cli.verify import _say
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.scoring.model import registered
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.sinking import Layout, Sink, SinkConfig
from cutbank.pipeline.sinking.claims import ChainId, Claim, encode
from cutbank.pipeline.sinking.prefix import folders
from cutbank.pipeline.sinking.rendering import content, lines, render
from cutbank.pipeline.spec import DetectorSpec, PipelineSpec
from cutbank.pipeline.verifying import Log, Proof, Scope, Verdict, verify
from cutbank.records import Batch, Position
from cutbank.testing.clock import START_MS
from cutbank.transports.base import Assigned, Start
from scoring_stage import DETECTORS, QUICK, SPEC, LogClock, Stage, TappedLease, trades
from sunk_root import Late, claims, data_file, names, rewrite

CHAIN = ChainId("p", "anomalies", "0")
LOST = QUICK.model_copy(update={"on_lost_state": "new_run"})


class StillClock(LogClock):
    """The log's wall time stands still, in the middle of a minute, until a test moves it: one minute, one claim."""

    def now_ms(self) -> int:
        return START_MS + self.ahead_ms


def still(stage: Stage) -> Stage:
    stage.log_clock = StillClock()
    return stage


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with still(Stage(tmp_path)).opened() as opened:
        yield opened


def root(stage: Stage) -> Path:
    return stage.folder / "objects"


def objects(stage: Stage) -> FileSystemStore:
    return FileSystemStore(root(stage), clock=SystemClock(), metrics=NoMetrics())


class Hasty(TappedLease):
    """A real lease that never waits long for the first record."""

    async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        return await super().receive(records_max=records_max, bytes_max=bytes_max, wait_s=min(wait_s, 0.01))


async def sink_all(stage: Stage, *, stream: str = "anomalies", **settings: Any) -> None:
    """Sink everything that there is on a stream, then stop and make objects of it."""
    config = SinkConfig(**{"pipeline": "p", "stream": stream, "flush_on_stop": True, **settings})
    sink = Sink(
        stage.transport, objects(stage), config, clock=SystemClock(), metrics=stage.metrics, rng=random.Random(1)
    )
    stop = asyncio.Event()

    async def until_idle(name: str, phase: str) -> None:
        if name == "idle":
            stop.set()

    async with stage.transport.consumer("p.sink", [stream]) as consumer:
        async for event in consumer.events():
            assert isinstance(event, Assigned)
            await sink.work(Hasty(event.lease, until_idle), stop)
            return


async def run_all(stage: Stage, *, first: int = 0, count: int = 60) -> None:
    await stage.publish(trades(count, first=first))
    await stage.score_all()
    await sink_all(stage)


async def audit(stage: Stage, *, spec: PipelineSpec = SPEC, state: bool = True, scope: Scope | None = None) -> Verdict:
    room = StateRoom(stage.store, pipeline=spec.name, stream=spec.source) if state else None
    return await verify(objects(stage), scope=scope, log=Log(stage.transport, spec, room, DETECTORS))


async def published(stage: Stage, stream: str = "anomalies") -> int:
    return len(await stage.lines(stream))


def mixed(count: int, *, first: int = 0) -> list[bytes]:
    """Trades, and after each of them a record that can't be scored."""
    return [value for trade in trades(count, first=first) for value in (trade, b"junk" + trade[:9])]


async def run_both(stage: Stage, *, first: int = 0, count: int = 30) -> None:
    """Records and bad ones, scored and sunk."""
    await stage.publish(mixed(count, first=first))
    await stage.score_all()
    await sink_all(stage)
    await sink_all(stage, stream="errors")


def errors_of(verdict: Verdict) -> Proof:
    assert verdict.proof is not None
    assert verdict.proof.errors is not None
    return verdict.proof.errors


def respell(stage: Stage, texts: Sequence[bytes], claim: Claim) -> Claim:
    """Let an object hold these lines, and its claim say so: as another sink would have written it."""
    rendered = render(claim.layout, texts)
    (root(stage) / claim.objects[0].key).write_bytes(rendered.body)
    return rewrite(root(stage), claim, objects=(rendered.described(claim.objects[0].key),))


def held(stage: Stage, claim: Claim) -> list[bytes]:
    return lines(claim.layout, content(claim.layout, (root(stage) / claim.objects[0].key).read_bytes()))


class TestComplete:
    async def test_everything_is_there_byte_for_byte(self, stage: Stage) -> None:
        await run_all(stage)
        await run_all(stage, first=60)
        verdict = await audit(stage)
        proof = verdict.proof
        assert verdict.findings == ()
        assert proof is not None
        assert proof.foretold == proof.met == await published(stage) > 20
        assert (proof.unscored, proof.unsunk, proof.beyond, proof.unproven) == (0, 0, 0, [])

    async def test_without_a_state_store_one_run_is_taken_for_granted(self, stage: Stage) -> None:
        await run_all(stage)
        verdict = await audit(stage, state=False)
        assert verdict.findings == ()
        assert verdict.proof is not None
        assert verdict.proof.met == await published(stage)

    @pytest.mark.parametrize("packed", ["none", "gzip"])
    async def test_csv_is_compared_as_it_is_written(self, stage: Stage, packed: Any) -> None:
        columns = ("tickerSymbol", "tradeType", "price", "quantity", "id", "ANOMALY_SCORE", "ROWTIME", "SOURCE")
        await stage.publish(trades(60))
        await stage.score_all()
        await sink_all(stage, layout=Layout(format="csv", compression=packed, columns=columns))
        verdict = await audit(stage)
        assert verdict.findings == ()
        assert verdict.proof is not None
        assert verdict.proof.met == await published(stage)

    async def test_what_lags_is_said_and_no_fault(self, stage: Stage) -> None:
        await run_all(stage)
        sunk = await published(stage)
        await stage.publish(trades(60, first=60))
        await stage.score_all()
        scored = await published(stage)
        await stage.publish(trades(60, first=120))
        verdict = await audit(stage)
        proof = verdict.proof
        assert verdict.findings == ()
        assert proof is not None
        assert (proof.met, proof.unsunk) == (sunk, scored - sunk)
        await stage.score_all()
        assert proof.unscored == await published(stage) - scored

    async def test_an_object_that_comes_while_the_audit_runs_lags(self, stage: Stage) -> None:
        await run_all(stage)
        store = Late(root(stage), data_file(root(stage), -1, chain=CHAIN))
        room = StateRoom(stage.store, pipeline=SPEC.name, stream=SPEC.source)
        verdict = await verify(store, log=Log(stage.transport, SPEC, room, DETECTORS))
        assert verdict.findings == ()
        assert verdict.proof is not None
        assert (verdict.proof.met, verdict.proof.unsunk) == (0, await published(stage))

    async def test_two_specs_each_vouch_for_their_run(self, stage: Stage) -> None:
        await run_all(stage)
        before = await published(stage)
        stage.spec = SPEC.model_copy(update={"threshold": 0.9})
        await run_all(stage, first=60)
        for spec, met in ((SPEC, before), (stage.spec, await published(stage) - before)):
            verdict = await audit(stage, spec=spec)
            assert verdict.findings == ()
            assert verdict.proof is not None
            assert (verdict.proof.met, verdict.proof.beyond) == (met, await published(stage) - met)
            assert "of another spec" in verdict.proof.unproven[0]

    async def test_what_is_past_retention_is_said_and_no_fault(self, stage: Stage) -> None:
        await run_all(stage)
        before = await published(stage)
        await stage.expire_all()
        await run_all(stage, first=60)
        verdict = await audit(stage)
        proof = verdict.proof
        assert verdict.findings == ()
        assert proof is not None
        assert proof.met + proof.beyond == before + await published(stage)  # the log has forgotten the first
        assert proof.beyond >= before
        assert proof.met > 0
        assert "past retention" in proof.unproven[0]

    async def test_a_run_that_began_anew_after_lost_state(self, tmp_path: Path) -> None:
        async with still(Stage(tmp_path, config=LOST)).opened() as stage:
            await run_all(stage)
            for path in stage.snapshots():
                path.unlink()
            birth = stage.state_folder / "p/trades/0/00000001/birth"
            kept = birth.read_bytes()
            birth.write_bytes(b"")
            await run_all(stage, first=60)
            birth.write_bytes(kept)
            verdict = await audit(stage)
            assert verdict.findings == ()
            assert verdict.proof is not None
            assert verdict.proof.met == await published(stage)
            claim = claims(root(stage), CHAIN)[0]
            respell(stage, held(stage, claim)[1:], claim)
            assert "missing anomaly" in names(await audit(stage))


class TestFaults:
    async def test_a_missing_anomaly(self, stage: Stage) -> None:
        await run_all(stage)
        (claim,) = claims(root(stage), CHAIN)
        respell(stage, held(stage, claim)[1:], claim)
        verdict = await audit(stage)
        assert names(verdict) == {"missing anomaly"}
        assert [finding.count for finding in verdict.findings] == [1]

    async def test_anomalies_at_the_end_that_the_sink_has_skipped(self, stage: Stage) -> None:
        """Published, passed by the chain, and in no object: no lag."""
        await run_all(stage)
        (claim,) = claims(root(stage), CHAIN)
        texts = held(stage, claim)
        last = max(texts, key=lambda text: int(orjson.loads(text)["SOURCE"]["position"]))
        kept = [text for text in texts if text != last]
        position = max(int(orjson.loads(text)["SOURCE"]["position"]) for text in kept)
        mark = claim.marks_after[0].model_copy(update={"position": Position(position)})
        respell(stage, kept, rewrite(root(stage), claim, marks_after=(mark,)))
        assert names(await audit(stage)) == {"missing anomaly"}

    async def test_another_score(self, stage: Stage) -> None:
        await run_all(stage)
        (claim,) = claims(root(stage), CHAIN)
        first, *others = held(stage, claim)
        row = orjson.loads(first)
        row["ANOMALY_SCORE"] += 1e-9
        respell(stage, [orjson.dumps(row), *others], claim)
        verdict = await audit(stage)
        assert names(verdict) == {"different anomaly"}
        assert [finding.count for finding in verdict.findings] == [1]

    async def test_an_anomaly_of_a_record_that_is_none(self, stage: Stage) -> None:
        await run_all(stage)
        (claim,) = claims(root(stage), CHAIN)
        first, *others = held(stage, claim)
        there = {orjson.loads(text)["SOURCE"]["position"] for text in [first, *others]}
        row = orjson.loads(first)
        row["SOURCE"]["position"] = next(text for text in map(str, range(60)) if text not in there)
        respell(stage, [first, orjson.dumps(row), *others], claim)
        verdict = await audit(stage)
        assert "extra anomaly" in names(verdict)
        assert "missing anomaly" not in names(verdict)

    async def test_a_claim_of_another_stream(self, stage: Stage) -> None:
        await run_all(stage)
        (claim,) = claims(root(stage), CHAIN)
        assert claim.first is not None
        rewrite(root(stage), claim, first=claim.first.model_copy(update={"sha256": "0" * 64}))
        assert names(await audit(stage)) == {"another record"}

    async def test_a_minute_later_than_the_records_arrived_in(self, stage: Stage) -> None:
        """Nothing in the bucket tells; the log does."""
        await run_all(stage)
        (claim,) = claims(root(stage), CHAIN)
        later = claim.minute_ms + 24 * 3_600_000
        (item,) = claim.objects
        path = root(stage) / item.key
        folder = f"{folders(claim.layout, later)}{item.key.rpartition('/')[2]}"
        (root(stage) / folder).parent.mkdir(parents=True)
        path.rename(root(stage) / folder)
        changed = item.model_copy(update={"key": folder})
        (root(stage) / claim.key).write_bytes(
            encode(claim.model_copy(update={"minute_ms": later, "objects": (changed,)}))
        )
        assert (await verify(objects(stage))).findings == ()
        assert names(await audit(stage)) == {"wrong minute"}


class TestErrors:
    """Every bad record is in the objects, where a sink puts errors into this root."""

    CHAIN = ChainId("p", "errors", "0")

    async def test_every_one_is_there_byte_for_byte(self, stage: Stage) -> None:
        await run_both(stage)
        await run_both(stage, first=30)
        verdict = await audit(stage)
        assert verdict.findings == ()
        proof = errors_of(verdict)
        assert proof.sunk
        assert proof.foretold == proof.met == await published(stage, "errors") == 60
        assert verdict.proof is not None
        assert verdict.proof.met == await published(stage)

    async def test_where_none_are_sunk_they_are_counted_and_no_fault(
        self, stage: Stage, capsys: pytest.CaptureFixture[str]
    ) -> None:
        await stage.publish(mixed(30))
        await stage.score_all()
        await sink_all(stage)
        verdict = await audit(stage)
        assert verdict.findings == ()
        proof = errors_of(verdict)
        assert (proof.sunk, proof.foretold, proof.met) == (False, 30, 0)
        assert _say(verdict) == 0
        assert "p: 30 error records of an undisturbed run: no sink puts them here\n" in capsys.readouterr().out

    async def test_what_lags_is_said_and_no_fault(self, stage: Stage) -> None:
        await run_both(stage)
        await stage.publish(mixed(30, first=30))
        await stage.score_all()
        await stage.publish(mixed(30, first=60))
        verdict = await audit(stage)
        assert verdict.findings == ()
        proof = errors_of(verdict)
        assert (proof.met, proof.unsunk, proof.unscored) == (30, 30, 30)

    async def test_a_missing_one_and_one_that_is_none(self, stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
        await run_both(stage)
        (claim,) = claims(root(stage), self.CHAIN)
        texts = held(stage, claim)
        claim = respell(stage, texts[1:], claim)
        verdict = await audit(stage)
        assert names(verdict) == {"missing error"}
        assert _say(verdict) == 1
        assert "p: 29 of 30 error records of an undisturbed run are in the objects" in capsys.readouterr().out
        row = orjson.loads(texts[0])
        row["SOURCE"]["position"] = "0"  # of a good record
        respell(stage, [orjson.dumps(row), *texts[1:]], claim)
        assert names(await audit(stage)) == {"missing error", "extra error"}

    async def test_another_reason(self, stage: Stage) -> None:
        await run_both(stage)
        (claim,) = claims(root(stage), self.CHAIN)
        texts = [text.replace(b"invalid_json", b"not_an_object") for text in held(stage, claim)]
        respell(stage, texts, claim)
        verdict = await audit(stage)
        assert names(verdict) == {"different error"}
        assert [finding.count for finding in verdict.findings] == [30]

    async def test_errors_from_before_their_chain_began_may_never_have_been_there_to_sink(self, stage: Stage) -> None:
        """As where a sink did not sink errors at first, and the stream has forgotten them since."""
        await stage.publish(mixed(10))
        await stage.score_all()
        await sink_all(stage)
        await sink_all(stage, stream="errors", start=Start("latest"))
        await stage.publish(mixed(10, first=10))
        await stage.score_all()
        await sink_all(stage, stream="errors")
        verdict = await audit(stage)
        assert verdict.findings == ()
        proof = errors_of(verdict)
        assert (proof.foretold, proof.met, proof.unsure) == (20, 10, 10)


class TestSpans:
    async def test_only_what_belongs_to_the_span_is_expected(self, stage: Stage) -> None:
        await run_all(stage)
        before = await published(stage)
        stage.log_clock.ahead_ms += 120_000
        await run_all(stage, first=60)
        first, second = claims(root(stage), CHAIN)
        later = await published(stage) - before
        for scope, met in (
            (Scope(second.minute_ms), later),
            (Scope(None, second.minute_ms), before),
            (Scope(second.minute_ms + 3_600_000), 0),
        ):
            verdict = await audit(stage, scope=scope)
            assert verdict.findings == ()
            assert verdict.proof is not None
            assert (verdict.proof.met, verdict.proof.foretold, verdict.proof.unsunk) == (met, met, 0)
        respell(stage, held(stage, first)[1:], first)
        assert names(await audit(stage, scope=Scope(second.minute_ms))) == set()
        assert names(await audit(stage, scope=Scope(None, second.minute_ms))) == {"missing anomaly"}


class TestCommand:
    async def test_proves_what_a_real_detector_found(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        spec = SPEC.model_copy(
            update={"threshold": 0.5, "detector": DetectorSpec(name="rcf", number_of_trees=3, sub_sample_size=10)}
        )
        detectors = registered(spec)
        detectors.self_check()  # compiles, where nothing has yet, before the stage's deadline runs
        detectors.create().score_then_learn(np.ones((2, 2)))
        async with still(Stage(tmp_path, spec=spec, detectors=detectors)).opened() as stage:
            await run_all(stage, count=200)
            count = await published(stage)
            assert count > 20
        path = tmp_path / "cutbank.toml"
        path.write_text(
            'name = "p"\nthreshold = 0.5\n[detector]\nname = "rcf"\nnumber_of_trees = 3\nsub_sample_size = 10\n'
        )
        alone = ["verify", str(tmp_path / "objects"), "--stream", f"local://{tmp_path}/log.db", "--spec", str(path)]
        for argv in (alone, [*alone, "--state", str(tmp_path / "state")]):
            capsys.readouterr()
            code = await asyncio.to_thread(main, argv)
            out, err = capsys.readouterr()
            assert (code, err) == (0, "")
            assert f"p: {count} of {count} anomalies of an undisturbed run are in the objects" in out
            assert "\nclean: " in out
        path.write_text(path.read_text().replace("0.5", "0.6", 1))
        assert await asyncio.to_thread(main, argv) == 1
        out, err = capsys.readouterr()
        assert "not provable: 0, run 1: it is of another spec" in out
        assert "\nclean as far as can be proven: " in out
        assert "not one line could be proven: is --spec" in err
