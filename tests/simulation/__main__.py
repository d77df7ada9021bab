"""Run with `python -m simulation`: many seeds with a progress line, or one with its whole history.

    make simulate SEEDS=2000 [FIRST=0] [ARGS="--jobs 2 --result simulation.json"]
    make simulate SEED=123

Exit code 1: a seed failed, or one of the places where kills have to fall was never hit.
"""

import argparse
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from long_runs import at_least, save
from simulation.outcome import Total
from simulation.plan import plan_for
from simulation.planted_bugs import BUGS
from simulation.seeds import report, run_seeds
from simulation.world import play

PROGRESS_EVERY = 20
"""Seeds between two looks at the progress."""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make simulate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=at_least(0), help="one seed, with its whole history")
    parser.add_argument("--seeds", type=at_least(1), default=1000, help="how many seeds (1000)")
    parser.add_argument("--first", type=at_least(0), default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=at_least(1), default=os.cpu_count() or 1, help="processes (one a core)")
    parser.add_argument("--result", type=Path, help="file that takes the figures, as JSON")
    parser.add_argument("--digests", action="store_true", help="only print the digest of each seed's history")
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant this bug, to see that it is caught")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    with BUGS[given.bug]() if given.bug else nullcontext():
        if given.seed is not None:
            return _one(given.seed)
        if given.digests:
            _say("\n".join(f"{seed} {play(plan_for(seed)).digest}" for seed in seeds))
            return 0
        return _many(seeds, jobs=1 if given.bug else given.jobs, result=given.result)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _one(seed: int) -> int:
    outcome = play(plan_for(seed), whole=True)
    if outcome.violation is not None:
        _say(report(outcome, whole=True))
        if outcome.error is not None:
            raise outcome.error
        return 1
    assert outcome.history is not None
    total = Total()
    total.add(outcome)
    _say(f"{outcome.history.shown(weight=0, most=None)}\n\n{total}\nhistory {outcome.digest}")
    return 0


def _many(seeds: range, *, jobs: int, result: Path | None) -> int:
    total, began_s = Total(), time.monotonic()
    for outcome in run_seeds(seeds, jobs=jobs):
        total.add(outcome)
        if outcome.text:
            _say(f"\n{outcome.text}")
        if total.seeds % PROGRESS_EVERY == 0 or total.seeds == len(seeds):
            rate = total.seeds / (time.monotonic() - began_s)
            sys.stderr.write(
                f"\r{total.seeds:,} of {len(seeds):,} seeds, {len(total.failed)} failed, {rate:.1f} a second "
            )
            sys.stderr.flush()
    took_s = time.monotonic() - began_s
    sys.stderr.write("\n")
    _say(f"{total}\ntook {took_s:.1f} s")
    if result is not None:
        save(result, {**total.as_json(), "first_seed": seeds.start, "seconds": round(took_s, 1)})
    if total.failed:
        _say(f"failed seeds: {', '.join(map(str, sorted(total.failed)))}")
    for point in total.points_missed:
        _say(f"no kill fell {point}: that was not tested; run more seeds")
    return 1 if total.failed or total.points_missed else 0


if __name__ == "__main__":
    sys.exit(main())
