"""Kill -9, again and again: which service, when and how, and where each kill fell.

Three sorts, counted apart. **random**: the parent kills after a random time. **hunted**: the parent kills as soon as
it sees a certain call under way, so the kill falls somewhere inside it. **exact**: the child kills itself right before
or right after a call's effect. Owns the plan, which follows from the seed; the moments do not.
Event-loop only: one task a role, so that several services may be dead at once.
"""

import asyncio
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from chaos.checks import positions_ahead
from chaos.crew import Crew, Life, Trouble
from chaos.flight import Action, Aim, Kind, Step, When
from chaos.points import Point, point_of

DELAY_S_MAX = 1.5
"""A random kill comes at most so long after the service is at work, seconds."""

START_SHARE = 0.15
"""Share of the random kills that do not wait until the service is at work."""

HUNT_S_MAX = 20.0
"""A hunted call that nobody sees for so long: killed all the same, and counted where it fell."""

EXACT: dict[str, tuple[tuple[str, When], ...]] = {
    "producer": ((Step.PUBLISH, When.AFTER), (Step.PUBLISH, When.BEFORE)),
    "scorer": (
        (Step.SNAPSHOT, When.BEFORE),
        (Step.PUBLISH_AND_COMMIT, When.AFTER),
        (Step.SNAPSHOT, When.AFTER),
        (Step.PUBLISH_AND_COMMIT, When.BEFORE),
    ),
    "sink": (
        (Step.CLAIM, When.AFTER),
        (Step.OBJECT, When.AFTER),
        (Step.OBJECT, When.BEFORE),
        (Step.COMMIT, When.AFTER),
        (Step.COMMIT, When.BEFORE),
        (Step.CLAIM, When.BEFORE),
    ),
}
"""Where each role kills itself, the more telling points first."""

HUNTED: dict[str, tuple[str, ...]] = {
    "producer": (Step.PUBLISH,),
    "scorer": (Step.PUBLISH_AND_COMMIT, Step.SNAPSHOT),
    "sink": (Step.OBJECT, Step.COMMIT, Step.CLAIM),
}
"""The calls in which the parent tries to hit each role."""


class Sort(StrEnum):
    """How a kill was aimed."""

    RANDOM = "random"
    HUNTED = "hunted"
    EXACT = "exact"


@dataclass(frozen=True)
class Kill:
    """One kill of a plan."""

    sort: Sort
    delay_s: float = 0.0
    at_work: bool = True
    """Wait until the service is at work, then the delay."""
    step: str = ""
    when: When = When.BEFORE


@dataclass
class Tally:
    """What the kills came to."""

    kills: Counter[tuple[str, Sort, Point]] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    """Positions ahead of what is durable, right after a kill."""
    acknowledged: int = 0
    """Publishes of the producers that were killed: returned."""
    unsure: int = 0
    """Publishes of theirs: begun, and not returned."""

    def at(self, point: Point) -> int:
        """All kills at a point."""
        return sum(count for (_, _, where), count in self.kills.items() if where is point)

    def of(self, sort: Sort) -> int:
        """All kills of a sort."""
        return sum(count for (_, how, _), count in self.kills.items() if how is sort)


def plan(kills_random: int, kills_aimed: int, *, seed: int) -> dict[str, list[Kill]]:
    """By role: its kills, in order. Of the aimed ones about a third are hunted, and each exact point comes in turn."""
    rng = random.Random(f"chaos/{seed}")
    plans: dict[str, list[Kill]] = {role: [] for role in EXACT}
    roles = list(plans)
    rng.shuffle(roles)
    for number in range(kills_random):
        at_work = rng.random() >= START_SHARE
        delay_s = rng.uniform(0.0, DELAY_S_MAX)
        plans[roles[number % len(roles)]].append(Kill(Sort.RANDOM, delay_s, at_work=at_work))
    # Sinks and scorers have more points than a producer: of six aimed kills it gets one.
    turns = ("sink", "scorer", "sink", "scorer", "sink", "producer")
    counts: Counter[tuple[str, Sort]] = Counter()
    for number in range(kills_aimed):
        role = turns[number % len(turns)]
        sort = Sort.HUNTED if counts[role, Sort.EXACT] > 2 * counts[role, Sort.HUNTED] else Sort.EXACT
        turn = counts[role, sort]
        counts[role, sort] += 1
        delay_s = rng.uniform(0.0, DELAY_S_MAX / 3)
        if sort is Sort.HUNTED:
            plans[role].append(Kill(sort, delay_s, step=HUNTED[role][turn % len(HUNTED[role])]))
        else:
            step, when = EXACT[role][turn % len(EXACT[role])]
            plans[role].append(Kill(sort, delay_s, step=step, when=when))
    for kills in plans.values():
        rng.shuffle(kills)
    return plans


async def carry_out(crew: Crew, plans: dict[str, list[Kill]], tally: Tally) -> None:
    """All kills, the roles side by side; in the end every role has a living process at work. Raises Trouble."""
    async with asyncio.TaskGroup() as group:
        for role, kills in plans.items():
            group.create_task(_carry_out(crew, role, kills, tally))


async def _carry_out(crew: Crew, role: str, kills: list[Kill], tally: Tally) -> None:
    for kill in kills:
        life = crew.posts[role]
        await _strike(life, kill)
        if (code := await life.ended()) != -signal.SIGKILL:
            raise Trouble(f"{life.name} ended with {code}, and was to be killed\n{life.last_words()}")
        flight = life.flight
        point = await point_of(role, flight.events, flight.open.values(), crew.world.store.exists)
        tally.kills[role, kill.sort, point] += 1
        if role == "producer":
            tally.acknowledged += flight.counts[Step.PUBLISH, Kind.DONE]
            tally.unsure += sum(event.step == Step.PUBLISH for event in flight.open.values())
        tally.findings += [f"after {life.name}, {point}: {found}" for found in await positions_ahead(crew.world)]
        flight.close()
        await crew.start(role)
    await crew.posts[role].until_live()


async def _strike(life: Life, kill: Kill) -> None:
    """Kill, or have it kill itself."""
    if kill.at_work:
        await life.until_live()
    await asyncio.sleep(kill.delay_s)  # at a random time: nothing is waited for here
    if kill.sort is Sort.EXACT:
        life.flight.arm(Aim(kill.step, kill.when, Action.KILL))
        await life.until(lambda: life.over, what=f"its end at {kill.step}")
        return
    if kill.sort is Sort.HUNTED:
        await life.in_time(
            lambda: any(event.step == kill.step for event in life.flight.open.values()), within_s=HUNT_S_MAX
        )
    life.send(signal.SIGKILL)
