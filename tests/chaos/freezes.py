"""Zombies: a process is stopped by SIGSTOP right before a write, another takes over, and it wakes up and writes on.

Invariant to be shown: from its old lease nothing is accepted. The store's create-only puts may make a zombie's put the
chain's next link, which is right; every write to the log is refused.

A process stopped inside a transaction of the embedded log holds the file's lock: safe, but nobody can go on. Then it is
woken and stopped at its next such write; how often is counted. Event-loop only.
"""

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from chaos.crew import WAIT_S_MAX, Crew, Life, Trouble
from chaos.flight import Action, Aim, Event, Kind, Step, When
from chaos.points import partition_of

FREEZES: dict[str, tuple[Step, ...]] = {
    "scorer": (Step.PUBLISH_AND_COMMIT,),
    "sink": (Step.OBJECT, Step.COMMIT, Step.CLAIM),
}
"""Who is stopped before which write."""

_LEASE_WRITES = frozenset({Step.PUBLISH_AND_COMMIT, Step.COMMIT})
_PUTS = frozenset({Step.CLAIM, Step.OBJECT})
_REFUSED = frozenset({"Fenced", "AlreadyExists"})


@dataclass
class Zombies:
    """What became of the zombies' writes."""

    zombies: int = 0
    held_lock: int = 0
    """Stopped inside a transaction, and so woken again at once."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of the write before which each was stopped."""
    findings: list[str] = field(default_factory=list)


async def freeze_and_wake(crew: Crew, role: str, zombies: Zombies) -> None:
    """A role's `FREEZES`. Raises Trouble."""
    for step in FREEZES[role]:
        await _freeze_and_wake(crew, role, step, zombies)


async def _freeze_and_wake(crew: Crew, role: str, step: Step, zombies: Zombies) -> None:
    zombie = crew.posts[role]
    await zombie.until_live()
    heir = await crew.start(role)
    # Two partitions, two members: each has one, and each works on it.
    await heir.until_live()
    # Before the zombie is stopped: on a slow machine the heir may take over while we still look at the zombie.
    mark = heir.flight.last
    hit = await stop_before(crew, zombie, step, zombies)
    partition = partition_of(hit.subject)
    last = Step.COMMIT if role == "sink" else Step.PUBLISH_AND_COMMIT
    stream = crew.world.spec.source if role == "scorer" else crew.world.spec.destination
    await heir.until(
        lambda: (
            heir.done(Step.FENCE, f"{stream}/{partition}", after=mark)
            and heir.done(last, f"{stream}/{partition}", after=mark)
        ),
        what=f"taking over {stream}/{partition}",
    )
    zombie.flight.follow()
    asleep = zombie.flight.last
    zombie.flight.disarm()
    zombie.send(signal.SIGCONT)
    end = await zombie.until_event(
        lambda event: event.call == hit.call and event.kind in (Kind.DONE, Kind.FAILED),
        after=asleep,
        what="the end of the write that it slept before",
    )
    # It has found out when it has joined again and fenced, or has nothing any more and lets go.
    await zombie.until(lambda: _found_out(zombie, asleep, f"{stream}/{partition}"), what="finding out that it is one")
    zombies.zombies += 1
    _judge(zombie, step, end, asleep, f"{stream}/{partition}", zombies)
    await heir.terminated()
    heir.flight.close()
    crew.posts[role] = zombie


async def stop_before(crew: Crew, life: Life, step: Step, zombies: Zombies) -> Event:
    """Stop it before such a call, outside of any transaction; the event of the call that it sleeps before.

    It stays armed: `disarm` and SIGCONT wake it for good.
    """
    after = life.flight.last
    life.flight.arm(Aim(step, When.BEFORE, Action.FREEZE))
    deadline_s = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline_s:
        hit = await life.until_event(lambda event: event.kind is Kind.AIMED, after=after, what=f"a {step}")
        await _stopped(life)
        if await crew.world.lock_is_free():
            return hit
        zombies.held_lock += 1
        after = hit.number
        life.send(signal.SIGCONT)
    raise Trouble(f"{life.name} was always stopped inside a transaction")


async def _stopped(life: Life) -> None:
    """Until the operating system says that it is stopped."""
    stat = Path(f"/proc/{life.process.pid}/stat")
    deadline_s = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline_s:
        if stat.read_text(errors="replace").rpartition(")")[2].split()[0] == "T":  # noqa: ASYNC240  # /proc is memory
            return
        await asyncio.sleep(0)
    raise Trouble(f"{life.name} did not stop")


def _found_out(life: Life, asleep: int, partition: str) -> bool:
    """Whether it was told that its lease is over, by a refusal or by a cancelled call, or has taken a new one."""
    for event in life.flight.since(asleep):
        if event.step == Step.FENCE and event.kind is Kind.DONE:
            return True
        if event.subject == partition and event.kind is Kind.FAILED and event.note in ("Fenced", "CancelledError"):
            return True
        if event.step == "release":
            return True
    return False


def _judge(life: Life, step: Step, end: Event, asleep: int, partition: str, zombies: Zombies) -> None:
    outcome = end.note if end.kind is Kind.FAILED else "done"
    zombies.outcomes[f"{step}: {outcome}"] += 1
    if step in _PUTS and outcome == "done":
        return  # the chain's next link; whether it is right, the oracle says
    for event in life.flight.since(asleep):
        if event.step == Step.FENCE and event.kind is Kind.DONE and event.subject == partition:
            return
        if event.step in _LEASE_WRITES and event.subject == partition and event.kind is Kind.DONE:
            zombies.findings.append(f"zombie {life.name}: its {event.step} of {partition} was taken")
