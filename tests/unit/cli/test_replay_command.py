"""`cutbank replay`: what it says, its exit codes, and what it refuses in one line, on a real log."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cutbank.cli import replay
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.scoring import ScorerConfig, group_name, run_scorer
from cutbank.pipeline.spec import load_spec
from cutbank.records import Message, Partition
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig, Transport
from cutbank.transports.local.lease import LocalLease
from scoring_stage import trades

from .conftest import Run

URL = "local://data/log.db?poll_ms=5"
SPEC = 'name = "p"\nthreshold = 0.0\n[detector]\nname = "hst"\n'
RECORDS = 400


def on_the_log(act: Callable[[Transport], Awaitable[None]]) -> None:
    async def go() -> None:
        async with open_transport(URL, clock=SystemClock(), metrics=NoMetrics()) as transport:
            await act(transport)

    asyncio.run(go())


async def publish(transport: Transport) -> None:
    for stream in ("trades", "anomalies", "errors", "scores"):
        await transport.ensure(StreamConfig(stream))
    await transport.publish([Message("trades", value) for value in [*trades(RECORDS), b"{"]])


async def score(transport: Transport) -> None:
    """A scorer that runs until it has caught up."""
    spec, stop = load_spec(Path("p.toml")), asyncio.Event()
    clock = SystemClock()
    async with asyncio.timeout(60), open_store("file://data/state", clock=clock, metrics=NoMetrics()) as store:
        scoring = asyncio.create_task(
            run_scorer(
                transport,
                store,
                spec,
                ScorerConfig(),
                clock=clock,
                metrics=NoMetrics(),
                stop=stop,
                rng=random.Random(1),
            )
        )
        while await transport.committed(group_name(spec), Partition("trades", "0")) != RECORDS + 1:  # noqa: ASYNC110  # of the log
            await asyncio.sleep(0)
        stop.set()
        await scoring


def values(stream: str) -> list[bytes]:
    found: list[bytes] = []

    async def read(transport: Transport) -> None:
        (info,) = (await transport.describe(stream)).partitions
        batch = await transport.read(info.partition, info.oldest, records_max=10_000, bytes_max=1 << 26)
        found.extend(batch.values)

    on_the_log(read)
    return found


@pytest.fixture
def spec(folder: Path) -> Path:
    (folder / "p.toml").write_text(SPEC, encoding="utf-8")
    (folder / "q.toml").write_text(SPEC.replace("0.0", "0.1"), encoding="utf-8")
    return folder


@pytest.fixture
def filled(spec: Path) -> Path:
    on_the_log(publish)
    return spec


@pytest.fixture
def scored(filled: Path) -> Path:
    on_the_log(score)
    return filled


def test_says_where_it_began_and_what_it_did(cutbank: Run, scored: Path) -> None:
    code, out, err = cutbank("replay", "--from", "earliest", "--output", "again", "--spec", "p.toml")
    live = values("anomalies")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "trades/0 begins where live run 1 did, from its birth: scores are bit-identical to the live ones",
        f"0 record(s) learnt before --from, {RECORDS} scored",
        f"{len(live)} anomalies published to again",
        "1 bad record(s), which have no line: 1 invalid_json",
    ]
    assert values("again") == live != []

    code, out, _ = cutbank("replay", "--from", "earliest", "--output", "again", "--spec", "p.toml")
    assert code == 0
    assert f"0 anomalies published to again, {len(live)} were there already" in out


def test_without_a_terminal_it_says_now_and_then_how_far_it_is(
    cutbank: Run, scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "LINES_S", 0.0)
    code, _, err = cutbank("replay", "--from", "earliest", "--output", "again", "--spec", "p.toml")
    assert code == 0
    assert err.splitlines()[-1] == f"scoring: 100%, {RECORDS + 1} records"


def test_another_spec_and_warm_up(cutbank: Run, scored: Path) -> None:
    options = ("replay", "--output", "other", "--spec", "q.toml", "--emit", "all", "--from", "2020-01-01")
    code, out, _ = cutbank(*options, "--warm-up", "5000")
    assert code == 0
    assert out.splitlines() == [
        "trades/0 begins with an empty model, not where the live one began: live run 1 has another spec",
        "trades/0 has 5,000 record(s) fewer before --from than --warm-up asks for",
        f"0 record(s) learnt before --from, {RECORDS} scored",
        f"{RECORDS} score(s) published to other",
        "1 bad record(s), which have no line: 1 invalid_json",
    ]
    assert len(values("other")) == RECORDS


def test_without_state_it_says_so_and_makes_none(cutbank: Run, filled: Path) -> None:
    code, out, _ = cutbank("replay", "--from", "earliest", "--output", "again", "--spec", "p.toml")
    assert code == 0
    assert "not where the live one began: no state store is there to tell where that was; see --state-url" in out
    assert not (filled / "data/state").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--output", "x"], "Missing option '--from'"),
        (["--from", "earliest"], "Missing option '--output'"),
        (["--from", "yesterday", "--output", "x"], "--from 'yesterday': give a time such as"),
        (["--from", "latest", "--output", "x"], "--from 'latest': give a time such as"),
        (["--from", "earliest", "--to", "soon", "--output", "x"], "--to 'soon': give a time such as"),
        (["--from", "2026-01-02", "--to", "2026-01-01", "--output", "x"], "--from 2026-01-02 is not before --to"),
        (["--from", "2026-01-02", "--to", "2026-01-02", "--output", "x"], "--from 2026-01-02 is not before --to"),
        (["--from", "2020-01-01", "--to", "2020-01-02", "--output", "x"], "stream 'trades' has no record of that time"),
        (["--from", "2099-01-01", "--output", "x"], "stream 'trades' has no record of that time"),
        (["--from", "earliest", "--output", "trades"], "output stream 'trades' is the live pipeline's own"),
        (["--from", "earliest", "--output", "anomalies"], "output stream 'anomalies' is the live pipeline's own"),
        (["--from", "earliest", "--output", "a/b"], "output stream 'a/b': 1 to 100 letters"),
        (["--from", "earliest", "--output", "taken"], "output stream 'taken' holds records of another replay"),
        (["--from", "earliest", "--output", "x", "--warm-up", "-1"], "--warm-up"),
        (["--from", "earliest", "--output", "x", "--warm-up", "1000000001"], "--warm-up"),
        (["--from", "earliest", "--output", "x", "--emit", "some"], "--emit"),
        (["--from", "earliest", "--output", "x", "--spec", "none.toml"], "spec none.toml: No such file"),
        (["--from", "earliest", "--output", "x", "--state-url", "file://none"], "--state-url file://none: no such"),
        (["--from", "earliest", "--output", "x", "--state-url", "ftp://x"], "object store 'ftp://x': unknown kind"),
        (["--from", "earliest", "--output", "x", "--transport-url", "local://none.db"], "no log at"),
        (["--from", "earliest", "--output", "x", "--transport-url", "ftp://x"], "ftp://x"),
    ],
)
def test_wrong_use_is_one_line_and_changes_nothing(cutbank: Run, filled: Path, argv: list[str], said: str) -> None:
    async def take(transport: Transport) -> None:
        await transport.ensure(StreamConfig("taken"))
        await transport.publish([Message("taken", b"something else")])

    on_the_log(take)
    spec = [] if "--spec" in argv else ["--spec", "p.toml"]
    code, out, err = cutbank("replay", *argv, *spec)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    names: list[str] = []

    async def streams(transport: Transport) -> None:
        names.extend(await transport.streams())

    on_the_log(streams)
    assert names == ["anomalies", "errors", "scores", "taken", "trades"]


def test_without_the_source_it_fails(cutbank: Run, spec: Path) -> None:
    async def other(transport: Transport) -> None:
        await transport.ensure(StreamConfig("labels"))

    on_the_log(other)
    code, _, err = cutbank("replay", "--from", "earliest", "--output", "x", "--spec", "p.toml")
    assert code == 1
    assert "stream 'trades' does not exist" in err


def test_cut_off_it_says_how_to_go_on_and_does(cutbank: Run, scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cutbank.errors import StreamUnavailable
    from cutbank.pipeline.replaying import running
    from cutbank.retry import RetryPolicy

    monkeypatch.setattr(running, "BATCH_RECORDS_MAX", 50)
    monkeypatch.setattr(running, "CALL", RetryPolicy(attempts_max=1))
    publish_and_commit = LocalLease.publish_and_commit
    left = 1

    async def tired(self: LocalLease, *args: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise StreamUnavailable("the log is locked")
        await publish_and_commit(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalLease, "publish_and_commit", tired)
    argv = ("replay", "--from", "earliest", "--output", "again", "--spec", "p.toml")
    code, out, err = cutbank(*argv)
    assert code == 1
    assert err == ("cutbank: error: the log is locked (the same command goes on there and repeats nothing)\n")
    some = len(values("again"))
    assert f"{some} anomalies published to again" in out
    assert 0 < some < len(values("anomalies"))
    left = 10**6
    code, out, _ = cutbank(*argv)
    assert code == 0
    assert f"{len(values('anomalies')) - some} anomalies published to again, {some} were there already" in out
    assert values("again") == values("anomalies")
