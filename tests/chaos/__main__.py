"""`python -m chaos`: kills real processes, fills their disk, wakes zombies, and compares what is left with the oracle.

Prints a table; exit code 0 if every promise was kept and every point was hit, 1 if not. The folder is removed unless
something was found.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from chaos import scenarios
from chaos.crew import Trouble
from chaos.outcome import Outcome
from chaos.plants import PLANTS
from cutbank.errors import CutbankError
from long_runs import at_least, save

SUMMARY = "Kills real processes at any moment, and compares what is left with an undisturbed run."

AIMED_SHARE = 0.6
"""Aimed kills for each random one, rounded; never fewer than `AIMED_MIN`."""

AIMED_MIN = 12
"""Enough for each exact point that matters, and one hunt at each service."""


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(prog="make chaos", description=SUMMARY)
    parser.add_argument("--kills", type=at_least(0), default=60, help="kills at random times (default: 60)")
    parser.add_argument("--aimed", type=at_least(0), default=None, help="kills at chosen points (default: by --kills)")
    parser.add_argument("--seed", type=at_least(0), default=None, help="of the plan; the moments differ in every run")
    parser.add_argument("--rate", type=float, default=2000.0, help="records a second (default: 2000)")
    parser.add_argument("--only", choices=("kills", "full-disk"), default=None, help="one scenario")
    parser.add_argument("--quick", action="store_true", help="no SIGTERMs, no zombies")
    parser.add_argument("--no-mount", action="store_true", help="disk full by the faulty store, not by a small tmpfs")
    parser.add_argument("--plant", choices=sorted(PLANTS), default=None, help="a bug that the run must catch")
    parser.add_argument("--result", type=Path, default=None, help="file that takes the counts, as JSON")
    return parser.parse_args(argv)


async def run(chosen: argparse.Namespace, folder: Path) -> Outcome:
    """Both scenarios, one after the other."""
    seed = chosen.seed if chosen.seed is not None else time.time_ns() % 1_000_000
    outcome = Outcome(seed, plants=(chosen.plant,) if chosen.plant else ())
    aimed = chosen.aimed if chosen.aimed is not None else max(AIMED_MIN, round(AIMED_SHARE * chosen.kills))
    began_s = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began_s:5.0f} s  {what}", flush=True)  # noqa: T201

    try:
        if chosen.only != "full-disk":
            await scenarios.kills(
                folder,
                outcome,
                kills_random=chosen.kills,
                kills_aimed=aimed,
                records_per_second=chosen.rate,
                more=not chosen.quick,
                tell=tell,
            )
        if chosen.only != "kills":
            await scenarios.full_disk(
                folder, outcome, records_per_second=chosen.rate, mount=not chosen.no_mount, tell=tell
            )
    except* (Trouble, CutbankError) as troubles:
        outcome.trouble = "\n".join(f"{type(trouble).__name__}: {trouble}" for trouble in leaves(troubles))
    outcome.seconds = time.monotonic() - began_s
    return outcome


def leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    """The errors themselves, whatever task groups they came through."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def main(argv: list[str]) -> int:
    """The exit code."""
    chosen = arguments(argv)
    # As Ctrl-C: what was mounted is unmounted. Processes would end by themselves.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="cutbank-chaos-"))
    outcome = asyncio.run(run(chosen, folder))
    print(*outcome.table(), sep="\n")  # noqa: T201  # a command prints
    for finding in outcome.findings:
        print(f"! {finding}")  # noqa: T201
    if chosen.result is not None:
        save(chosen.result, outcome.result())
    if outcome.right:
        shutil.rmtree(folder)
        return 0
    print(f"left for a look: {folder}")  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
