"""Runs seeds, here or in several processes, and says of a failed one all that is needed to see it again."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from simulation.outcome import Outcome
from simulation.plan import plan_for
from simulation.world import play


def report(outcome: Outcome, *, whole: bool = False) -> str:
    """A failed seed: its history, what failed, how to run it again."""
    history = outcome.history
    shown = "" if history is None else history.shown(weight=0, most=None) if whole else history.shown()
    return (
        f"{shown}\n\nseed {outcome.seed} ({outcome.kind}) FAILED: {outcome.violation}\n"
        f"run it again, with its whole history: make simulate SEED={outcome.seed}\n"
    )


def run_seed(seed: int) -> Outcome:
    """One seed; a failed one has its report as text, so that it can leave its process."""
    outcome = play(plan_for(seed))
    if outcome.violation is not None:
        outcome.text = report(outcome)
    outcome.history = outcome.error = None
    return outcome


def run_seeds(seeds: range, *, jobs: int) -> Iterator[Outcome]:
    """Every seed, in order; in several processes if asked to."""
    if jobs == 1:
        yield from map(run_seed, seeds)
        return
    executor = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from executor.map(run_seed, seeds, chunksize=4)
    finally:
        executor.shutdown(cancel_futures=True)
