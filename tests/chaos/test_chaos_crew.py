"""The run's own patience: it reads every ring in time, waits as long as there is progress, and tells what it can't get
over."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos import crew as crew_module
from chaos import scenarios
from chaos.__main__ import arguments, run
from chaos.crew import Crew, Life, Trouble
from chaos.flight import SLOTS, Flight, Kind, Recorder, Step, make_ring
from chaos.full_disk import _without_room
from chaos.world import World
from cutbank.errors import Fenced, StreamUnavailable
from cutbank.testing.taps import Call


async def nothing() -> None:
    pass


async def life_of(folder: Path, *code: str) -> Life:
    ring, log = folder / "ring", folder / "log"
    make_ring(ring)
    log.write_bytes(b"its last words")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", *code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    return Life("producer", 1, process, Flight(ring), ring, log, {})


async def waiting(folder: Path) -> Life:
    """A process that lives until it is killed."""
    return await life_of(folder, "import sys; sys.stdin.read()")


def world(folder: Path) -> World:
    return World(folder=folder, log_folder=folder, objects_folder=folder, records_per_second=1.0, seed=1)


async def test_a_ring_that_nobody_waits_for_is_not_written_over_unread(tmp_path: Path) -> None:
    life = await waiting(tmp_path)
    recorder, crew = Recorder(life.ring), Crew(world(tmp_path))
    crew._lives.append(life)
    calls = SLOTS // 4
    async with crew, asyncio.timeout(60):
        for times in range(1, 4):
            for _ in range(calls):
                await recorder(Call("publish", "trades"), nothing)
            while life.flight.last < 2 * calls * times:  # noqa: ASYNC110  # the ring tells nobody
                await asyncio.sleep(0)
    assert life.flight.counts[Step.PUBLISH, Kind.DONE] == 3 * calls
    life.flight.close()
    assert life.flight.follow() == [], "closed: nothing more is read"


async def test_what_takes_long_is_waited_for_while_there_is_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "WAIT_S_MAX", 0.1)
    life = await waiting(tmp_path)
    amounts: Iterator[int] = iter(range(20, -1, -1))

    async def less() -> int:
        return next(amounts)

    async def same() -> int:
        return 7

    await life.until_none(less, what="lag 0")
    with pytest.raises(Trouble, match=r"producer 1: waited for lag 0, 7 left\nits last words"):
        await life.until_none(same, what="lag 0")
    life.process.kill()
    await life.process.wait()
    with pytest.raises(Trouble):
        await life.until_none(same, what="lag 0")


async def test_a_zombies_refusal_is_no_write_without_room(tmp_path: Path) -> None:
    life = await waiting(tmp_path)
    recorder = Recorder(life.ring)

    async def fail(error: Exception) -> None:
        async def do() -> None:
            raise error

        with pytest.raises(type(error)):
            await recorder(Call("commit", "anomalies/0"), do)

    await fail(Fenced("another has it"))
    await fail(StreamUnavailable("disk full"))
    life.flight.follow()
    assert life.flight.counts[Step.COMMIT, Kind.FAILED] == 2
    assert _without_room(life, (Step.COMMIT,)) == 1
    life.process.kill()
    await life.process.wait()


async def test_an_error_that_the_run_itself_meets_is_told_with_all_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def kills(*_: Any, **__: Any) -> None:
        raise StreamUnavailable("log.db: busy")

    monkeypatch.setattr(scenarios, "kills", kills)
    chosen: argparse.Namespace = arguments(["--only", "kills", "--seed", "1"])
    outcome = await run(chosen, tmp_path)
    assert outcome.findings[0] == "StreamUnavailable: log.db: busy"
    assert not outcome.right
