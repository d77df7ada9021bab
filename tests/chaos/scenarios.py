"""The two scenarios of a chaos run, each on a pipeline of its own, and how each ends.

The end: stop in order, wait until lag is 0, compare with the oracle.

Event-loop only; leaves no process and no mount, whatever happens.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from chaos.checks import judge
from chaos.crew import Crew, Life
from chaos.flight import Kind, Step
from chaos.freezes import freeze_and_wake
from chaos.full_disk import FAULTY, TMPFS, fill_and_free, small_disk
from chaos.kills import carry_out, plan
from chaos.outcome import Outcome
from chaos.stops import STOPS, stop_in_the_middle
from chaos.world import World

RECORDS_PER_PUBLISH = 100
"""As the world tells the producer."""


async def kills(
    folder: Path,
    outcome: Outcome,
    *,
    kills_random: int,
    kills_aimed: int,
    records_per_second: float,
    more: bool = True,
    tell: Callable[[str], None],
) -> None:
    """Kills; then, if `more`, SIGTERMs in the middle of writes, and zombies; all under load. Raises Trouble."""
    world = World(
        folder=folder / "kills",
        log_folder=folder / "kills",
        objects_folder=folder / "kills",
        records_per_second=records_per_second,
        seed=outcome.seed,
    )
    outcome.aimed = kills_aimed > 0
    async with world, Crew(world, plants=outcome.plants) as crew:
        await crew.start_all()
        tell(f"{kills_random} kills at random and {kills_aimed} aimed ones")
        await carry_out(crew, plan(kills_random, kills_aimed, seed=outcome.seed), outcome.tally)
        if more:
            tell("SIGTERM in the middle of writes, and zombies")
            async with asyncio.TaskGroup() as group:
                for role in STOPS:
                    group.create_task(_stops_and_freezes(crew, role, outcome))
        tell("comparing with an undisturbed run")
        await finish(crew)
        verdict = outcome.verdicts["kills"] = await judge(world)
        producer = crew.posts["producer"].flight.counts
        acknowledged = RECORDS_PER_PUBLISH * (outcome.tally.acknowledged + producer[Step.PUBLISH, Kind.DONE])
        unsure = RECORDS_PER_PUBLISH * outcome.tally.unsure
        if not acknowledged <= verdict.records <= acknowledged + unsure:
            verdict.findings.append(
                f"{acknowledged} records were acknowledged and at most {unsure} more begun; "
                f"the log has {verdict.records}"
            )


async def _stops_and_freezes(crew: Crew, role: str, outcome: Outcome) -> None:
    stopped = await stop_in_the_middle(crew, role, outcome.tally.findings)
    outcome.stops += stopped
    await freeze_and_wake(crew, role, outcome.zombies)


async def full_disk(
    folder: Path, outcome: Outcome, *, records_per_second: float, mount: bool, tell: Callable[[str], None]
) -> None:
    """The disk runs full, and is freed. `mount`: try to have a small one. Raises Trouble."""
    with ExitStack() as stack:
        log, objects = folder / "small-log", folder / "small-objects"
        mounted = mount and all(stack.enter_context(small_disk(place)) for place in (log, objects))
        outcome.fullness.how = TMPFS if mounted else FAULTY
        world = World(
            folder=folder / "full",
            log_folder=log,
            objects_folder=objects,
            records_per_second=records_per_second,
            seed=outcome.seed,
        )
        async with world, Crew(world, plants=outcome.plants) as crew:
            await crew.start_all()
            tell(f"disk full: {outcome.fullness.how}")
            await fill_and_free(crew, outcome.fullness)
            await finish(crew)
            outcome.verdicts["full disk"] = await judge(world)


async def finish(crew: Crew) -> None:
    """Stop the producer, let scorer and sink catch up, stop them: each ends with exit code 0. Raises Trouble."""
    world = crew.world
    crew.check_alive()
    await crew.posts["producer"].terminated()
    scorer = crew.posts["scorer"]
    await scorer.until_none(lambda: world.lag("scorer", world.spec.source), what="lag 0")
    await scorer.terminated()
    # What a sink holds becomes an object when the minute is over. The last one does not wait for it.
    await crew.posts["sink"].terminated()
    last = await crew.start("sink", flush_on_stop=True)
    await last.until_live()
    await last.until_none(lambda: _unread(world, last), what="having read everything")
    await last.terminated()


async def _unread(world: World, sink: Life) -> int:
    """Positions of the anomalies stream that it has not received; a chain that is taken up begins anywhere."""
    sink.flight.follow()
    ends = {str(info.partition): info.end for info in await world.partitions(world.spec.destination)}
    return sum(end - sink.flight.reading.get(partition, 0) for partition, end in ends.items())
