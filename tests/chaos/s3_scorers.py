"""Scorers whose snapshots lie on the same S3: killed around the put of one, with answers cut while the next one reads.

Event-loop only.
"""

import signal

from chaos.crew import Life
from chaos.s3_stage import S3Stage, create
from object_servers.requests import SLOW_DOWN, Action, Fault, What

SPOTS: tuple[tuple[str, Fault, bool], ...] = (
    ("on its way, lost", Fault.HOLD, False),
    ("on its way, arrives after the next one is at work", Fault.HOLD, True),
    ("there, the reply on its way", Fault.HOLD_REPLY, True),
)
"""Where a snapshot is when its scorer is killed; whether what is held arrives."""

READING: tuple[Fault, ...] = (Fault.CUT_BODY, Fault.answer(SLOW_DOWN), Fault.RESET)
"""What the next scorer's first reads meet, one of each."""


async def snapshots(stage: S3Stage, times: int) -> None:
    """Each spot, so many times."""
    for _ in range(times):
        for name, fault, arrives in SPOTS:
            scorer = stage.crew.posts["scorer"]
            await scorer.until_live()
            held = stage.rule(fault, **create(What.SNAPSHOT, scorer))
            await scorer.until(held.met.is_set, what="a snapshot")
            scorer.send(signal.SIGKILL)
            await stage.gone(scorer)
            scorer.flight.close()
            if not arrives:
                held.release(forward=False)
            heir = await _reads(stage)
            stage.proxy.remove(held)
            stage.happened[f"scorer killed, its snapshot {name}"] += 1
            await stage.at_work(f"{heir.name} came", roles=("producer", "scorer"))
    await stage.sinks_at_work("snapshots")


async def _reads(stage: S3Stage) -> Life:
    """A new scorer that finds snapshots hard to read."""
    heir = await stage.crew.start("scorer")
    rules = [stage.rule(fault, action=Action.READ, what=What.SNAPSHOT, client=heir.client) for fault in READING]
    await heir.until_live()
    for rule in rules:
        stage.happened[f"its heir's read of a snapshot: {rule.fault}"] += rule.struck
        stage.proxy.remove(rule)
    return heir
