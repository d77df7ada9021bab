"""Many small worlds: whatever befalls them, nothing is lost, nothing is there twice, every score is bit-identical.

A seed is one world; the same seeds in every run, so a failure is no accident. `make simulate SEEDS=…` runs others.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from simulation.__main__ import main
from simulation.outcome import Outcome, Total, Violation
from simulation.plan import CI_SEEDS, EVENTS, SPECIAL, SPECIAL_EVERY, Event, plan_for
from simulation.planted_bugs import BUGS
from simulation.referee import layout_name
from simulation.seeds import run_seed, run_seeds
from simulation.services import ERROR_LAYOUTS, LAYOUTS, MANY_VALUES
from simulation.watch import KILL_POINTS
from simulation.world import play

CHUNKS = 4
CHUNK_SEEDS = CI_SEEDS // CHUNKS
TESTS = Path(__file__).parent.parent
NAMED_CALLS = (
    "publish", "publish_and_commit", "between publish and commit", "commit", "create claim", "create object",
    "create snapshot",
)  # fmt: skip
"""Every chunk kills at each of these, before or after its effect."""
ZOMBIE_CALLS = ("publish_and_commit", "commit", "create claim", "create object")
"""Every chunk makes zombies at these."""


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_promise_holds_in_every_world(chunk: int, record_property: Callable[[str, object], None]) -> None:
    total = Total()
    for seed in range(chunk * CHUNK_SEEDS, (chunk + 1) * CHUNK_SEEDS):
        outcome = run_seed(seed)
        total.add(outcome)
        assert outcome.violation is None, outcome.text
    record_property("simulation figures", total.as_json())
    assert not total.points_missed, "a point that was never hit is not tested"
    assert set(total.events) == set(EVENTS), "everything befell them"
    assert set(total.struck) >= {f"kill at call: {call}" for call in NAMED_CALLS}
    assert set(total.struck) >= {f"freeze at call: {call}" for call in ZOMBIE_CALLS}
    assert "kill, call arrives late: create claim" in total.struck
    assert set(total.layouts) == {layout_name(layout) for layout in (*LAYOUTS, MANY_VALUES, *ERROR_LAYOUTS)}
    assert all(total.handovers.values()), "claims were finished by others, which then had another layout"
    assert {kind for kind in SPECIAL if total.kinds[kind]} == set(SPECIAL)
    assert {stop.split()[0] for stop in total.stops} == {"scorer", "sink"}, "special worlds stopped, loudly"
    assert (total.lost, total.repeated, total.different) == (0, 0, 0)


def test_a_seed_has_the_same_history_in_every_process() -> None:
    def digests(hash_seed: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "simulation", "--digests", "--first", str(SPECIAL_EVERY - 4), "--seeds", "6"],
            env={**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        )
        return done.stdout

    first = digests("1")
    assert first == digests("2")
    assert len({line.split()[1] for line in first.splitlines()}) == 6, "six seeds are six histories"


def test_worker_processes_give_the_same_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    alone = [outcome.digest for outcome in run_seeds(range(4), jobs=1)]
    assert [outcome.digest for outcome in run_seeds(range(4), jobs=2)] == alone


def test_two_plans_of_a_seed_are_equal_and_seeds_differ() -> None:
    assert plan_for(5) == plan_for(5)
    assert plan_for(5) != plan_for(6)


def test_a_failing_seed_says_what_failed_how_to_run_it_again_and_what_happened() -> None:
    with BUGS["commit before put"]():
        text = run_seed(0).text
    assert "seed 0 (ordinary) FAILED: committed ahead of objects: sinks committed " in text
    assert "make simulate SEED=0" in text
    assert "create claim _cutbank/simulated/anomalies/" in text, "its history"
    assert len(text.splitlines()) < 150, "of a bounded length"


def test_what_befell_a_world_is_counted_where_it_happened_not_where_it_was_planned() -> None:
    never = Event(at_s=1.0, kind="kill at call", role="producer", call="ensure", number=1000)
    late = Event(at_s=5.0, kind="kill, call arrives late", role="sink", call="create claim", seconds=3.0)
    nobody = Event(at_s=2.0, kind="kill", role="producer")
    dies = Event(at_s=2.0, kind="kill at call", role="producer", call="publish")
    plan = replace(plan_for(4), events=(never, dies, nobody, late), drizzle=0.0, sinks=1)
    outcome = play(plan)
    assert outcome.violation is None
    assert outcome.struck == {"kill at call: publish": 1, "kill, call arrives late: create claim": 1}
    assert outcome.events["kill at call"] == outcome.events["kill, call arrives late"] == 1


def test_the_command_shows_one_seed_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["simulation", "--seed", "3"])
    assert main() == 0
    shown = capsys.readouterr().out
    assert "info: checking the detector" in shown
    assert play(plan_for(3), whole=True).digest in shown


def test_the_command_fails_when_a_point_was_never_hit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = tmp_path / "made" / "simulation.json"
    seed = next(seed for seed in range(100) if len(run_seed(seed).kill_points) < len(KILL_POINTS))
    argv = ["simulation", "--first", str(seed), "--seeds", "1", "--jobs", "1", "--result", str(result)]
    monkeypatch.setattr(sys, "argv", argv)
    assert main() == 1
    captured = capsys.readouterr()
    assert "no kill fell " in captured.out
    assert "1 of 1 seeds, 0 failed" in captured.err
    figures = json.loads(result.read_text())
    assert (figures["seeds"], figures["first_seed"], figures["failed"]) == (1, seed, [])
    assert set(figures["kill_points"]) == set(KILL_POINTS)
    assert figures["records"] > 0
    assert (figures["lost"], figures["repeated"], figures["different"]) == (0, 0, 0)


def test_a_total_is_the_sum_of_its_outcomes() -> None:
    total = Total()
    total.add(Outcome(seed=1, kind="ordinary", records=3))
    total.add(Outcome(seed=2, kind="ordinary", records=4, violation=Violation("lost", "one"), lost=1))
    assert (total.seeds, total.records, total.lost, total.failed) == (2, 7, 1, [2])
    assert total.points_missed == list(KILL_POINTS)
    twice = Total()
    twice.merge(total.as_json())
    twice.merge(total.as_json())
    assert (twice.seeds, twice.records, twice.kinds["ordinary"], twice.failed) == (4, 14, 4, [2, 2])
