"""`python -m chaos.on_kafka`: the services on real brokers, every fault of `chaos.kafka_faults`, each held against the
oracle; then the planted bugs, each of which has to be caught.

Prints a table; exit code 0 if every promise was kept and every planted bug caught, 1 if not. The folder is removed
unless something was found.
"""

import argparse
import asyncio
import json
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

from brokers.jars import ServerUnavailable, kafka_version
from brokers.kafka_server import KafkaCluster
from brokers.wire import Wire
from chaos.checks import judge
from chaos.crew import Crew, Trouble
from chaos.kafka_faults import BY_NAME, CAUGHT_BY, FAULTS, Fault
from chaos.kafka_outcome import KafkaOutcome, renewed
from chaos.kafka_stage import KafkaStage
from chaos.kafka_world import KafkaWorld
from chaos.played import Played
from chaos.scenarios import RECORDS_PER_PUBLISH, finish
from chaos.world import SPEC
from cutbank.errors import CutbankError
from cutbank.pipeline.scoring.model import registered
from cutbank.pipeline.spec import PipelineSpec
from long_runs import at_least, save

SUMMARY = "The services on real Kafka brokers, fault after fault, each compared with an undisturbed run."


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(prog="make chaos-kafka", description=SUMMARY)
    parser.add_argument("--kills", type=at_least(0), default=None, help="kills at random times (default: by the form)")
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
    """Plays faults on clusters that it starts, one cluster at a time."""

    def __init__(self, folder: Path, *, seed: int, records_per_second: float) -> None:
        self.outcome = KafkaOutcome(seed, broker=f"Apache Kafka {kafka_version()}")
        self._folder = folder
        self._records_per_second = records_per_second
        self._began_s = time.monotonic()

    def tell(self, what: str) -> None:
        """Print it, with the time."""
        print(f"{time.monotonic() - self._began_s:5.0f} s  {what}", flush=True)  # noqa: T201  # a command prints

    async def play(self, faults: Iterable[tuple[Fault, int]], plants: Iterable[str]) -> None:
        """The faults, each so many times, on as many brokers as it needs; then the planted bugs."""
        left = list(faults)
        # A cold cache of compiled kernels would cost the first scorer minutes on a busy machine.
        self.tell("compiling the kernels")
        await asyncio.to_thread(registered(PipelineSpec.model_validate(tomllib.loads(SPEC))).self_check)
        planted = [(BY_NAME[CAUGHT_BY[plant][0]], plant) for plant in plants]
        for brokers in sorted({fault.brokers for fault, _ in (*left, *planted)}):
            cluster = KafkaCluster(self._folder / f"kafka-{brokers}", brokers=brokers)
            try:
                cluster.start()
                await cluster.ready()
                for fault, times in left:
                    if fault.brokers == brokers:
                        played = await self._play(cluster, fault, times)
                        self.outcome.played.append(played)
                for fault, plant in planted:
                    if fault.brokers == brokers:
                        times = CAUGHT_BY[plant][1]
                        self.outcome.planted[plant] = await self._play(cluster, fault, times, plant=plant)
            finally:
                cluster.close()
        self.outcome.seconds = time.monotonic() - self._began_s

    async def _play(self, cluster: KafkaCluster, fault: Fault, times: int, *, plant: str = "") -> Played:
        """One fault, on a pipeline of its own, and the judgement of it."""
        name = f"{fault.name}{f', planted: {plant}' if plant else ''}"
        self.tell(name)
        folder = self._folder / name.replace(" ", "-").replace(",", "")
        world = KafkaWorld(
            folder=folder,
            log_folder=folder,
            objects_folder=folder,
            records_per_second=self._records_per_second,
            seed=self.outcome.seed,
            width=fault.width,
            kafka=cluster,
        )
        played, began_s = Played(fault.name), time.monotonic()
        plants = (plant,) if plant else ()
        rng = random.Random(f"{self.outcome.seed}/{fault.name}")
        try:
            async with world, Wire.of(cluster) as wire, Crew(world, plants=plants) as crew:
                stage = played.stage = KafkaStage(crew, rng, self.tell, world, wire, cluster)
                await crew.start_all()
                await fault.play(stage, times)
                await finish(crew)
                played.verdict = await judge(world)
                self._count(stage, played)
        except* (Trouble, CutbankError) as troubles:
            played.trouble = "\n".join(f"{type(trouble).__name__}: {trouble}" for trouble in leaves(troubles))
        played.seconds = time.monotonic() - began_s
        self.tell(f"{name}: {played.summary}")
        return played

    @staticmethod
    def _count(stage: KafkaStage, played: Played) -> None:
        """Every record that was acknowledged has to be in the log, and no other than those that were begun."""
        assert played.verdict is not None
        sure, unsure = stage.count()
        least = RECORDS_PER_PUBLISH * sure + stage.extra
        if not least <= played.verdict.records <= least + RECORDS_PER_PUBLISH * unsure:
            stage.findings.append(
                f"{least} records were acknowledged and at most {RECORDS_PER_PUBLISH * unsure} more begun; "
                f"the log has {played.verdict.records}"
            )


def leaves(group: BaseExceptionGroup[Exception]) -> Iterable[Exception]:
    """The errors themselves, whatever task groups they came through."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def main(argv: list[str]) -> int:
    """The exit code."""
    chosen = arguments(argv)
    # As Ctrl-C: brokers and services end with this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="cutbank-chaos-kafka-"))
    seed = chosen.seed if chosen.seed is not None else time.time_ns() % 1_000_000
    try:
        run = Run(folder, seed=seed, records_per_second=chosen.rate)
        asyncio.run(run.play(*programme(chosen)))
    except ServerUnavailable as missing:
        sys.exit(f"make chaos-kafka: {missing}")
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
