"""Worlds of the special kinds: what can't be kept happens to one, and must stop the partitions concerned, loudly.

Owns what happens and what has to follow: exactly the partitions concerned stop, each for its reason. That nothing
wrong is written meanwhile is the referee's. Event-loop only.
"""

from typing import TYPE_CHECKING

from cutbank.pipeline.sinking.claims import ChainId
from cutbank.records import Partition
from cutbank.transports.base import StreamConfig
from simulation.outcome import Violation
from simulation.plan import DEAL_S, EXPIRED, MADE_AGAIN, Role
from simulation.services import SCORER_GROUP, SINK_GROUP, SPEC

if TYPE_CHECKING:
    from simulation.world import World

ONE_PARTITION_SHARE = 0.5
"""How often the records of one partition alone pass retention."""


async def stop_loudly(world: "World") -> frozenset[Partition]:
    """Let it happen, and check who stops. Returns the partitions that need not go on. Raises Violation."""
    of, what = world.plan.kind.split("_")
    stream, role = (SPEC.source, "scorer") if of == "source" else (SPEC.destination, "sink")
    happen, reasons = (_make_again, MADE_AGAIN) if what == "remade" else (_expire, EXPIRED)
    partitions = await happen(world, stream, "scorer" if role == "scorer" else "sink")
    concerned = set(map(str, partitions))
    await world.sleep(2 * DEAL_S)
    stopped = {alarm["partition"]: alarm["reason"] for _, alarm in world.history.alarms if "reason" in alarm}
    for partition, reason in stopped.items():
        world.outcome.stops[f"{role} {reason}"] += 1
        if partition not in concerned or reason not in reasons:
            raise Violation("a loud stop without a reason", f"{partition}: {reason}")
    if silent := sorted(concerned - set(stopped)):
        raise Violation("no loud stop", f"of {', '.join(silent)} after {world.plan.kind}")
    if what == "remade":
        return frozenset(partition for partition in world.last if partition.stream == stream)
    return frozenset(partitions)


async def _make_again(world: "World", stream: str, role: Role) -> list[Partition]:
    """Delete a stream and make another one under its name; the services notice at the latest when started again.

    Returns the partitions that the pipeline had begun with.
    """
    partitions = [part.partition for part in (await world.operator.describe(stream)).partitions]
    begun = [partition for partition in partitions if _begun(world, partition)]
    world.history.say("world", f"{stream} is deleted and made again")
    world.streams_go()
    world.log.delete(stream)
    world.referee.stream_made_again(stream)
    await world.operator.ensure(StreamConfig(stream, partitions=len(partitions)))
    rng = world.plan.rng("made again")
    for slot in world.slots(role):
        await world.sleep(rng.uniform(0.0, 3.0))
        slot.end(kill=rng.random() < 0.5)
    return begun


async def _expire(world: "World", stream: str, role: Role) -> list[Partition]:
    """Let records that nobody has read pass retention: all partitions', or one's, and then the others have to go on.

    Returns the partitions that have lost some.
    """
    slots, group = world.slots(role), SCORER_GROUP if role == "scorer" else SINK_GROUP
    rng = world.plan.rng("expire")
    await world.take_away(slots, kill=rng.random() < 0.5)
    await world.sleep(DEAL_S)
    unread = [
        partition
        for partition, last in world.last.items()
        if partition.stream == stream
        and _begun(world, partition)
        and last >= (world.log.committed(group, partition) or 0)
    ]
    alone: str | None = None
    if unread and rng.random() < ONE_PARTITION_SHARE:
        unread = [rng.choice(unread)]
        alone = unread[0].id
    world.history.say("world", f"{stream} is past retention; unread in {', '.join(map(str, unread)) or 'none'}")
    world.log.expire(stream, partition_id=alone)
    for slot in slots:
        slot.held.set()
    return unread


def _begun(world: "World", partition: Partition) -> bool:
    """Whether the pipeline has taken up this partition."""
    if partition.stream == SPEC.source:
        return any(key.startswith(f"{SPEC.name}/{partition}/") for key in world.state.objects)
    return ChainId(SPEC.name, *partition).birth_key in world.store.objects
