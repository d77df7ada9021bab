"""Killed at every await, again and again: nothing is lost, nothing is there twice, every score is bit-identical.

A life of the scorer ends at its n-th call to log or store, before or after that call was done; from then on it makes
no call any more. The next life finds what it left. The oracle is one undisturbed run over the log as it lies.
"""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from cutbank.pipeline.scoring.config import ScorerConfig
from scoring_stage import QUICK, Stage, TappedLease, TappedStore, trade, trades

WANTED = {
    f"{phase} {call}"
    for phase in ("before", "after")
    for call in ("fence", "read", "committed", "receive", "publish", "create snapshot")
}
"""Where kills must have fallen, each at least once."""

EAGER = QUICK.model_copy(update={"batch_records_max": 4, "snapshot_s": 0.0001})


class Death:
    """Comes at the n-th hook of a life, or the n-th of that name; afterwards every call hangs until it is cancelled."""

    def __init__(self, at: int, where: str) -> None:
        self._left = at
        self._aim = where
        self.came = asyncio.Event()
        self.where = ""

    async def hook(self, name: str, phase: str) -> None:
        if not self.came.is_set():
            if self._aim in ("", f"{phase} {name}"):
                self._left -= 1
            if self._left > 0:
                return
            self.where = f"{phase} {name}"
            self.came.set()
        await asyncio.Event().wait()


async def live(stage: Stage, *, die_at: int, where: str = "") -> str:
    """One process, killed at its n-th call (of those `where`); where it was killed, or nothing if it finished first."""
    death, stop = Death(die_at, where), asyncio.Event()

    async def hook(name: str, phase: str) -> None:
        if name == "idle":
            stop.set()
        else:
            await death.hook(name, phase)

    store = TappedStore(stage.store, death.hook)
    async with stage.lease() as lease, stage.worker(store=store) as worker:
        working = asyncio.create_task(worker.work(TappedLease(lease, hook), stop))
        dying = asyncio.create_task(death.came.wait())
        await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if not death.came.is_set():
            await working
            return ""
        working.cancel()
        await asyncio.wait({working})
        assert working.cancelled()
        return death.where


async def check(stage: Stage) -> None:
    """The published lines are the oracle's."""
    await stage.score_all()
    oracle = await stage.oracle()
    assert await stage.lines("anomalies") == oracle["anomalies"]
    assert await stage.lines("errors") == oracle["errors"]
    assert await stage.lines("scores") == oracle["scores"]


@pytest.mark.parametrize("at", range(1, 24))
async def test_killed_at_each_call_of_its_first_assignment(tmp_path: Path, at: int) -> None:
    async with Stage(tmp_path, config=EAGER).opened() as stage:
        await stage.publish([*trades(5), b"[]", *trades(6, first=5)])
        assert await live(stage, die_at=at)
        await check(stage)


@pytest.mark.parametrize("config", [EAGER, EAGER.model_copy(update={"emit": "all"})], ids=["anomalies", "all"])
async def test_killed_at_each_call_of_a_life_one_life_after_another(tmp_path: Path, config: ScorerConfig) -> None:
    kills = Counter[str]()
    async with Stage(tmp_path, config=config).opened() as stage:
        for life in range(240):
            # Which call is the n-th depends on the machine's load: what was not met by number is aimed at by name.
            left = sorted(WANTED - set(kills))
            if life >= 60 and not left:
                break
            await stage.publish([trade(life), b"{", *trades(10, first=life * 100)])
            aim = left[life % len(left)] if life >= 60 else ""
            kills[await live(stage, die_at=1 if aim else life + 1, where=aim)] += 1
        await check(stage)
    assert not WANTED - set(kills), "a point that was never hit is not tested"


@pytest.mark.parametrize("seed", range(6))
async def test_killed_at_random_with_a_corrupted_snapshot_now_and_then(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with Stage(tmp_path, config=EAGER).opened() as stage:
        for life in range(20):
            await stage.publish([trade(life), b"null", *trades(rng.randrange(12), first=life * 100)])
            await live(stage, die_at=rng.randrange(1, 80))
            if (found := stage.snapshots()) and rng.random() < 0.3:
                found[0].chmod(0o644)
                found[0].write_bytes(found[0].read_bytes()[: rng.randrange(200)])
        await check(stage)
