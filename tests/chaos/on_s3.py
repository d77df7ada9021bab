"""`python -m chaos.on_s3`: the services on a real S3 server behind the fault proxy, every fault of `chaos.s3_faults`,
each held against the oracle and by `cutbank verify`; then the planted bugs, each of which has to be caught.

Prints a table; exit code 0 if every promise was kept and every planted bug caught, 1 if not. The folder is removed
unless something was found.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from brokers.jars import ServerUnavailable
from chaos.checks import judge
from chaos.crew import Crew, Trouble
from chaos.on_kafka import leaves
from chaos.played import Played
from chaos.s3_faults import BY_NAME, CAUGHT_BY, FAULTS, Fault
from chaos.s3_finish import finish, verified
from chaos.s3_outcome import S3Outcome, renewed
from chaos.s3_stage import S3Stage
from chaos.s3_world import S3World
from chaos.world import SPEC
from cutbank.errors import CutbankError
from cutbank.pipeline.scoring.model import registered
from cutbank.pipeline.spec import PipelineSpec
from long_runs import at_least, save
from object_servers.proxy import FaultProxy
from object_servers.seaweed import OWNER, REGION, SeaweedFS, secret_of, weed_version

SUMMARY = "The services on a real S3 server, fault after fault, each compared with an undisturbed run."


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(prog="make chaos-s3", description=SUMMARY)
    parser.add_argument(
        "--kills", type=at_least(0), default=None, help="sinks killed in `kills` (default: by the form)"
    )
    parser.add_argument("--short", action="store_true", help="the short form: every fault once or a few times")
    parser.add_argument("--only", choices=sorted(BY_NAME), action="append", default=None, help="this fault; may repeat")
    parser.add_argument(
        "--plant", choices=sorted(CAUGHT_BY), default=None, help="this bug alone; the run must catch it"
    )
    parser.add_argument("--no-plants", action="store_true", help="the faults alone, without the planted bugs")
    parser.add_argument("--seed", type=at_least(0), default=None, help="of the plan; the moments differ in every run")
    parser.add_argument("--rate", type=float, default=1000.0, help="records a second (default: 1000)")
    parser.add_argument(
        "--result",
        type=Path,
        default=None,
        help="file that takes the counts, as JSON; with --only, those of the faults played, beside the rest",
    )
    return parser.parse_args(argv)


class Run:
    """Plays faults on a server that it starts."""

    def __init__(self, folder: Path, *, seed: int, records_per_second: float, short: bool) -> None:
        self.outcome = S3Outcome(seed, server=f"SeaweedFS {weed_version()}", short=short)
        self._folder = folder
        self._records_per_second = records_per_second
        self._began_s = time.monotonic()

    def tell(self, what: str) -> None:
        """Print it, with the time."""
        print(f"{time.monotonic() - self._began_s:5.0f} s  {what}", flush=True)  # noqa: T201  # a command prints

    async def play(self, faults: Iterable[tuple[Fault, int]], plants: Iterable[str], server: SeaweedFS) -> None:
        """The faults, each so many times; then the planted bugs."""
        # A cold cache of compiled kernels would cost the first scorer minutes on a busy machine.
        self.tell("compiling the kernels")
        await asyncio.to_thread(registered(PipelineSpec.model_validate(tomllib.loads(SPEC))).self_check)
        for fault, times in faults:
            self.outcome.played.append(await self._play(server, fault, times))
        for plant in plants:
            name, times = CAUGHT_BY[plant]
            self.outcome.planted[plant] = await self._play(server, BY_NAME[name], times, plant=plant)
        self.outcome.seconds = time.monotonic() - self._began_s

    async def _play(self, server: SeaweedFS, fault: Fault, times: int, *, plant: str = "") -> Played:
        """One fault, on a pipeline of its own, and the judgement of it."""
        name = f"{fault.name}{f', planted: {plant}' if plant else ''}"
        self.tell(name)
        folder = self._folder / name.replace(" ", "-").replace(",", "").replace(":", "")
        played, began_s = Played(fault.name), time.monotonic()
        rng = random.Random(f"{self.outcome.seed}/{fault.name}")
        try:
            async with FaultProxy(server.endpoint, seed=self.outcome.seed) as proxy:
                world = S3World(
                    folder=folder,
                    log_folder=folder,
                    objects_folder=folder,
                    records_per_second=fault.load * self._records_per_second,
                    seed=self.outcome.seed,
                    width=fault.width,
                    endpoint=server.endpoint,
                    bucket=server.bucket,
                    proxy=proxy,
                    stretch_records_max=fault.stretch_records_max,
                )
                async with world, Crew(world, plants=(plant,) if plant else ()) as crew:
                    stage = S3Stage(crew, rng, self.tell, world, proxy)
                    played.stage = stage
                    await stage.start_all(sinks=fault.sinks)
                    async with stage.bad_records():
                        await fault.play(stage, times)
                    self.tell(f"{name}: played, now all is stopped in order and compared")
                    await finish(stage)
                    self.tell(f"{name}: stopped")
                    played.verdict = await judge(world)
                    stage.count_records(played.verdict.records)
                    self.tell(f"{name}: judged")
                    stage.findings += await verified(world)
        except* (Trouble, CutbankError) as troubles:
            played.trouble = "\n".join(f"{type(trouble).__name__}: {trouble}" for trouble in leaves(troubles))
        played.seconds = time.monotonic() - began_s
        self.tell(f"{name}: {played.summary}")
        return played


def main(argv: list[str]) -> int:
    """The exit code."""
    chosen = arguments(argv)
    # As Ctrl-C: the server and the services end with this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="cutbank-chaos-s3-"))
    seed = chosen.seed if chosen.seed is not None else time.time_ns() % 1_000_000
    # For the run's own handles, and what the services are told.
    os.environ.update(
        AWS_ACCESS_KEY_ID=OWNER, AWS_SECRET_ACCESS_KEY=secret_of(OWNER), AWS_REGION=REGION, AWS_DEFAULT_REGION=REGION
    )
    try:
        run = Run(folder, seed=seed, records_per_second=chosen.rate, short=chosen.short)
        with SeaweedFS(folder / "s3") as server:
            asyncio.run(run.play(*programme(chosen), server))
    except ServerUnavailable as missing:
        sys.exit(f"make chaos-s3: {missing}")
    outcome = run.outcome
    print(*outcome.table(), sep="\n")  # noqa: T201  # a command prints
    for finding in outcome.findings:
        print(f"! {finding}")  # noqa: T201
    if chosen.result is not None:
        result = outcome.result()
        if (chosen.only is not None or chosen.plant is not None) and chosen.result.exists():
            result = renewed(json.loads(chosen.result.read_text(encoding="utf-8")), result)
        save(chosen.result, result)
    if outcome.right:
        shutil.rmtree(folder)
        return 0
    print(f"left for a look: {folder}")  # noqa: T201
    return 1


def programme(chosen: argparse.Namespace) -> tuple[list[tuple[Fault, int]], list[str]]:
    """The faults with their times, and the bugs to plant."""
    if chosen.plant is not None:
        return [], [chosen.plant]
    faults = FAULTS if chosen.only is None else [BY_NAME[name] for name in chosen.only]
    if chosen.kills is not None:
        faults = [replace(fault, times_long=chosen.kills) if fault.name == "kills" else fault for fault in faults]
    timed = [(fault, fault.times_short if chosen.short else fault.times_long) for fault in faults]
    plants = [] if chosen.no_plants or chosen.short or chosen.only is not None else list(CAUGHT_BY)
    return [(fault, times) for fault, times in timed if times], plants


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
