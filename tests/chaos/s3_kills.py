"""Sinks killed on S3, again and again, at chosen requests and at random moments; each time the next one is told another
prefix, time zone, format and compression. Event-loop only: one task a post, so that several may be dead at once.
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass

from chaos.crew import Life
from chaos.flight import Action as Do
from chaos.flight import Aim, Step, When
from chaos.s3_layouts import MANY_VALUES, VALUES_OPEN
from chaos.s3_stage import Fell, S3Stage, create
from object_servers.requests import Action, Fault, Rule, S3Request, What

POSTS = 3
"""Sinks at once."""

HUNT_S_MAX = 20.0
"""A request that does not come for so long: killed all the same, and counted where it fell."""

DELAY_S_MAX = 2.0
"""A random kill comes at most so long after the sink is at work, seconds."""

LATE_S_MAX = 3.0
"""What arrives after its sender's death comes at most so long after it, seconds: before or after the next owner's."""


@dataclass(frozen=True)
class Spot:
    """Where a kill is aimed."""

    name: str
    what: What | None = None
    """Put of this sort; None: no request."""
    fault: Fault = Fault.HOLD
    arrives: bool = False
    """Whether the held request arrives after its sender's death; else it is lost with it."""
    nth_max: int = 1
    """At one of the first so many."""
    aim: Aim | None = None
    """Or at this call."""


SPOTS = (
    Spot("at the claim's put, which is lost", What.CLAIM),
    Spot("at the claim's put, which arrives late", What.CLAIM, arrives=True),
    Spot("the claim is there, the reply is not", What.CLAIM, Fault.HOLD_REPLY),
    Spot("at an object's put, which is lost", What.OBJECT, nth_max=3),
    Spot("at an object's put, which arrives late", What.OBJECT, arrives=True, nth_max=3),
    Spot("the object is there, the reply is not", What.OBJECT, Fault.HOLD_REPLY, nth_max=3),
    Spot("at the commit, not done", aim=Aim(Step.COMMIT, When.BEFORE, Do.KILL)),
    Spot("at the commit, done", aim=Aim(Step.COMMIT, When.AFTER, Do.KILL)),
    Spot("at random"),
    Spot("at random"),
)
"""A kill takes the next one of a shuffled pack of these."""

OTHER_SETTINGS = "a claim left unfinished, the next sink told another prefix, zone, format and compression"

MANY = f"with {VALUES_OPEN} partition values open"

KILLS_WITH_MANY = 2
"""So many of each round."""

NEEDED = (Fell.CLAIM, Fell.CLAIM_OBJECT, Fell.OBJECTS, Fell.OBJECT_COMMIT)
"""A run of kills in which none fell on one of these has not tested it."""


async def kills(stage: S3Stage, times: int) -> None:
    """So many kills, shared out among the posts."""
    pack: list[Spot] = []
    while len(pack) < times:
        shuffled = list(SPOTS)
        stage.rng.shuffle(shuffled)
        pack += shuffled
    left = pack[:times]
    done = 0

    async def post(number: int) -> None:
        nonlocal done
        while left:
            await _kill(stage, number, left.pop(), random.Random(stage.rng.random()))
            done += 1
            if done % 20 == 0:
                stage.tell(f"{done} of {times} sinks killed")

    async with asyncio.TaskGroup() as group:
        for number in stage.sinks:
            group.create_task(post(number))
    await stage.sinks_at_work("the kills")
    if times >= 2 * len(SPOTS):
        stage.findings += [
            f"no kill fell {fell}: not tested"
            for fell in NEEDED
            # Few layouts have several objects: among few kills chance decides, and `many_values` aims at them.
            if not stage.happened[f"killed {fell}"] and (fell is not Fell.OBJECTS or times >= MANY_KILLS)
        ]


MANY_KILLS = 100
"""So many kills fall between the objects of a claim too."""


async def many_values(stage: S3Stage, times: int) -> None:
    """Killed with 50 partition values open, once, or several times in a row."""
    for _ in range(times):
        for post in list(stage.sinks):
            await replaced(stage, post, MANY_VALUES)
        for left in reversed(range(KILLS_WITH_MANY)):
            await _killed_with_many(stage, random.Random(stage.rng.random()), heir=MANY_VALUES if left else None)
        await stage.sinks_at_work("many values")
    if not stage.happened[f"killed {MANY}"]:
        stage.findings.append(f"no kill fell {MANY}: not tested")


async def _killed_with_many(stage: S3Stage, rng: random.Random, *, heir: Mapping[str, str] | None) -> None:
    """Whoever puts the objects of such a claim; the heir is told this, or other settings than it had."""
    held: list[S3Request] = []
    rule = stage.rule(
        Fault.HOLD, action=Action.CREATE, where=_is_of_many, nth=rng.randint(2, VALUES_OPEN), then=held.append
    )
    await next(iter(stage.sinks.values())).until(rule.met.is_set, what="an object of a claim with many values")
    post, life = next((post, life) for post, life in stage.sinks.items() if life.client == held[0].client)
    fell = await stage.killed(life)
    rule.release(forward=rng.random() < 0.5)
    stage.proxy.remove(rule)
    if fell is Fell.OBJECTS:
        stage.happened[f"killed {MANY}"] += 1
    await stage.sink(post, heir)


def _is_of_many(request: S3Request) -> bool:
    return "/at=" in request.key


async def replaced(stage: S3Stage, post: int, settings: Mapping[str, str]) -> None:
    """The post's sink ends in order, and another one with these settings comes. Raises Trouble."""
    life = stage.sinks[post]
    await life.until_live()
    await life.terminated()
    life.flight.close()
    await stage.sink(post, settings)


async def _kill(stage: S3Stage, post: int, spot: Spot, rng: random.Random) -> None:
    life = stage.sinks[post]
    await life.until_live()
    rule = await _strike(stage, life, spot, rng)
    fell = await stage.killed(life)
    stage.happened[f"aimed {spot.name}"] += 1
    before = life.settings
    if rule is not None and spot.arrives:
        asyncio.get_running_loop().call_later(rng.uniform(0.0, LATE_S_MAX), stage.proxy.remove, rule)
    elif rule is not None:
        rule.release(forward=False)
        stage.proxy.remove(rule)
    heir = await stage.sink(post)
    if fell in (Fell.CLAIM_OBJECT, Fell.OBJECTS) and heir.settings != before:
        stage.happened[
            "a claim was unfinished, and the next sink had another prefix, zone, format and compression"
        ] += 1


async def _strike(stage: S3Stage, life: Life, spot: Spot, rng: random.Random) -> Rule | None:
    """Wait for the moment; the rule that holds a request, if one does."""
    if spot.aim is not None:
        life.flight.arm(spot.aim)
        await life.in_time(lambda: life.over, within_s=HUNT_S_MAX)
        return None
    if spot.what is None:
        await asyncio.sleep(rng.uniform(0.0, DELAY_S_MAX))  # at a random time: nothing is waited for here
        return None
    rule = stage.rule(spot.fault, **create(spot.what, life, nth=rng.randint(1, spot.nth_max)))
    if not await stage.met(rule, life, within_s=HUNT_S_MAX):
        stage.happened["a request that did not come"] += 1
    return rule
