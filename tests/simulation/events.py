"""What befalls a world: each event of a plan, done to it when its time has come.

Owns nothing; draws what the plan leaves open from generators of the event's own, so that one event more or less
changes no other. Event-loop only.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from cutbank.errors import SnapshotUnusable
from cutbank.pipeline.scoring.snapshots import snapshot_from_bytes
from cutbank.pipeline.scoring.state import SNAPSHOTS_KEPT
from cutbank.pipeline.sinking.claims import ChainId, Link, link_from_key
from cutbank.records import Partition, Position
from simulation.plan import Event
from simulation.processes import Slot
from simulation.services import SCORER_GROUP, SINK_GROUP, SPEC, SUNK
from simulation.watch import Trap

if TYPE_CHECKING:
    from simulation.world import World

KILLED_SHARE = 0.4
"""How many of those that come in a storm go by being killed."""

BUSY_S_MAX = 10.0
"""How long a kill, stop or freeze waits for something to be published, seconds."""

BUSY_S = 0.06
"""How soon after that it comes, at most."""

NEWEST_SHARE = 0.6
"""How often the snapshot that is spoilt is the newest one, which a restart needs."""


async def befall(world: "World", event: Event) -> None:
    """Do it, and count it where it is done. Events that last go on beside the plan's course."""
    slot = next(slot for slot in world.slots(event.role) if slot.name == f"{event.role}-{event.slot}")
    match event.kind:
        case "kill at call" | "freeze at call":
            slot.traps.append(Trap(event.call, event.number, after=event.after, freeze_s=event.seconds))
        case "kill, call arrives late":
            slot.traps.append(Trap(event.call, event.number, after=False, late_s=event.seconds))
        case "kill" | "stop" | "freeze":
            world.spawn(_in_the_middle(world, slot, event), name=event.kind)
        case "storm":
            world.spawn(_storm(world, event), name="storm")
        case "bad weather" | "outage" | "long outage":
            world.spawn(_weather(world, event), name="weather")
        case "positions":
            await _positions(world, event)
        case "wall clock":
            world.clock.jump_wall(event.wall_ms)
            world.befell(event.kind)
        case "retention":
            _retention(world)
            world.befell(event.kind)
        case _:
            _spoil_snapshot(world, event)


async def _in_the_middle(world: "World", slot: Slot, event: Event) -> None:
    """Kill, stop or freeze a process shortly after something was published: when most of them have work in hand."""
    rng = world.plan.rng(f"{event.kind} at {event.at_s}")
    stream = SPEC.destination if event.role == "sink" else SPEC.source
    await world.busy(stream, within_s=BUSY_S_MAX)
    await world.clock.sleep(rng.uniform(0.0, BUSY_S))
    if slot.freeze(event.seconds) if event.kind == "freeze" else slot.end(kill=event.kind == "kill"):
        world.befell(event.kind)


async def _storm(world: "World", event: Event) -> None:
    """Processes come and go."""
    rng = world.plan.rng(f"storm at {event.at_s}")
    world.befell(event.kind)
    for _ in range(event.number):
        slot = world.open(event.role)
        await world.clock.sleep(rng.uniform(0.3, 2.0) * event.seconds / event.number)
        slot.wanted = False
        slot.end(kill=rng.random() < KILLED_SHARE)


async def _weather(world: "World", event: Event) -> None:
    world.befell(event.kind)
    if event.kind.endswith("outage"):
        world.weather.out(event.call)
    else:
        world.weather.worsen(event.call)
    await world.clock.sleep(event.seconds)
    world.weather.settle(event.call)


async def _positions(world: "World", event: Event) -> None:
    """The committed positions of a group are lost, or set to earlier ones."""
    if world.retained and event.role == "scorer" and event.call != "lost":
        return  # The records between are gone: that is no ordinary world's.
    slots, rng = world.slots(event.role), world.plan.rng(f"positions at {event.at_s}")
    if not event.live:
        await world.take_away(slots, kill=event.after)
    group, streams = (SCORER_GROUP, {SPEC.source}) if event.role == "scorer" else (SINK_GROUP, SUNK)
    moved = False
    for partition in [partition for partition in world.last if partition.stream in streams]:
        before = world.log.committed(group, partition)
        if before is None:
            continue  # Nobody has begun: there is nothing to lose.
        if not moved:
            world.befell(event.kind)
        moved = True
        position = {"lost": None, "earlier": Position(rng.randint(0, before)), "zero": Position(0)}[event.call]
        world.log.set_committed(group, partition, position)
        world.history.say("world", f"{group}, {partition}: committed {before} is now {position}")
        if event.role == "scorer":
            world.referee.operator_moved_scorer(partition)
    if event.live:
        for slot in slots:
            await world.sleep(rng.uniform(0.0, 5.0))
            slot.end(kill=event.after)
    for slot in slots:
        slot.held.set()


def _spoil_snapshot(world: "World", event: Event) -> None:
    """A snapshot is cut, changed or lost, and (unless `live`) the scorers killed, so that somebody has to read it."""
    if world.retained:
        return  # The records that an older one needs may be gone.
    rng = world.plan.rng(f"snapshot at {event.at_s}")
    keys = [key for key in world.state.objects if not key.endswith("birth")]
    if not keys:
        return
    # The newest of a partition sorts first.
    key = min(keys) if rng.random() < NEWEST_SHARE else rng.choice(keys)
    body = world.state.objects[key]
    at = rng.randrange(len(body))
    if event.call == "removed":
        world.state.remove(key)
    elif event.call == "cut":
        world.state.overwrite(key, body[:at])
    else:
        world.state.overwrite(key, body[:at] + bytes([body[at] ^ 1 << rng.randrange(8)]) + body[at + 1 :])
    world.history.say("world", f"{key} {event.call}")
    world.befell(event.kind)
    if not event.live:
        for slot in world.slots("scorer"):
            slot.end(kill=True)


def _retention(world: "World") -> None:
    """Records pass retention, but for those that a restart needs: after the second newest snapshot, and unclaimed."""
    needed: dict[Partition, Position] = {}
    for partition in world.last:
        if partition.stream == SPEC.source:
            committed = world.log.committed(SCORER_GROUP, partition)
            kept = [at for at in sorted(_good_snapshots(world, partition)) if committed is None or at <= committed]
            needed[partition] = kept[-SNAPSHOTS_KEPT] if len(kept) >= SNAPSHOTS_KEPT else Position(0)
        elif partition.stream == SPEC.destination:
            starts = [
                link.start for link in map(link_from_key, world.store.objects) if link and _is_of(link, partition)
            ]
            needed[partition] = max((start for start in starts if start is not None), default=Position(0))
    for stream in (SPEC.source, SPEC.destination):
        # One length for all partitions of a stream, as a retention time is one.
        counts = [sum(at >= needed[partition] for at in world.log.content(partition).positions)
                  for partition in needed if partition.stream == stream]  # fmt: skip
        if counts:
            world.log.expire(stream, keep=max(counts))
            world.history.say("world", f"{stream} keeps {max(counts)} records a partition")
    world.retained = True


def _good_snapshots(world: "World", partition: Partition) -> Iterator[Position]:
    for key, body in world.state.objects.items():
        if key.startswith(f"{SPEC.name}/{partition}/") and not key.endswith("birth"):
            with suppress(SnapshotUnusable):
                yield snapshot_from_bytes(body, key=key).next


def _is_of(link: Link, partition: Partition) -> bool:
    return link.kind == "claim" and link.chain == ChainId(SPEC.name, *partition)
