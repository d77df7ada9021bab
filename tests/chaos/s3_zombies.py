"""Sinks that sleep past their session while another takes over, and wake up with a put of theirs on its way or done.

What a zombie puts is refused, or becomes the chain's next link, which the owner takes over; its commit is refused.
Event-loop only.
"""

import asyncio
import signal
from dataclasses import dataclass

from chaos.crew import Life
from chaos.flight import Kind, Step
from chaos.s3_stage import S3Stage, create
from chaos.stage import stopped
from cutbank.pipeline.sinking.claims import link_from_key
from object_servers.requests import CONFLICT, Fault, Rule, S3Request, What


@dataclass(frozen=True)
class Sleep:
    """When a sink is stopped, and when what it had sent arrives."""

    name: str
    what: What
    fault: Fault
    early: bool = False
    """Whether the held request arrives before the next owner has come, else after its first commit."""


SLEEPS = (
    Sleep("at its claim's put, which arrives before its heir's", What.CLAIM, Fault.HOLD, early=True),
    Sleep("at its claim's put, which arrives after its heir's", What.CLAIM, Fault.HOLD),
    Sleep("its claim is there, the reply waits", What.CLAIM, Fault.HOLD_REPLY),
    Sleep("at its object's put, which arrives after its heir's", What.OBJECT, Fault.HOLD),
    Sleep("its object is there, the reply waits", What.OBJECT, Fault.HOLD_REPLY),
)


async def zombies(stage: S3Stage, times: int) -> None:
    """Every sleep, so many times; two sinks, four partitions."""
    for _ in range(times):
        for sleep in SLEEPS:
            await _sleeps(stage, 0, 1, sleep)
            await stage.sinks_at_work(f"a zombie, {sleep.name}")
            stage.happened[f"zombie: stopped {sleep.name}"] += 1


async def _sleeps(stage: S3Stage, who: int, other: int, sleep: Sleep) -> None:
    zombie, heir = stage.sinks[who], stage.sinks[other]
    await zombie.until_live()
    await heir.until_live()
    rule, partition = await _caught(stage, zombie, sleep)
    await stopped(zombie)
    mark = heir.flight.last
    if sleep.early:
        stage.proxy.remove(rule)
    await _taken_over(heir, partition, mark)
    zombie.flight.follow()
    asleep = zombie.flight.last
    stage.proxy.remove(rule)
    zombie.send(signal.SIGCONT)
    await zombie.until(lambda: _told(zombie, asleep, partition), what=f"finding out that {partition} is another's")
    stage.findings += [
        f"zombie {zombie.name}: its commit of {partition} was taken" for _ in _wrong(zombie, asleep, partition)
    ]


async def _caught(stage: S3Stage, life: Life, sleep: Sleep) -> tuple[Rule, str]:
    """The rule that holds its put, and the partition that it is about."""
    held: list[S3Request] = []
    rule = stage.rule(sleep.fault, **create(sleep.what, life, then=held.append))
    await life.until(rule.met.is_set, what=f"a put of a {sleep.what}")
    key = held[0].key
    return rule, next(subject for subject in _subjects(life) if _is_about(subject, key))


def _subjects(life: Life) -> list[str]:
    """Partitions whose lease it has, the newest first."""
    life.flight.follow()
    own = (event.subject for event in reversed(life.flight.events) if event.step in (Step.FENCE, Step.RECEIVE))
    return list(dict.fromkeys(own))


def _is_about(partition: str, key: str) -> bool:
    """Whether a claim or an object of this key is of that partition (`anomalies/0`)."""
    stream, _, number = partition.rpartition("/")
    link = link_from_key(key[at:]) if (at := key.find("_cutbank/")) >= 0 else None
    if link is not None:
        return (link.chain.stream, link.chain.partition) == (stream, number)
    return key.rpartition("/")[2].split("-")[1:3] == [stream, number]


async def _taken_over(heir: Life, partition: str, mark: int) -> None:
    await heir.until(
        lambda: heir.done(Step.FENCE, partition, after=mark) and heir.done(Step.COMMIT, partition, after=mark),
        what=f"taking over {partition}",
    )


def _told(zombie: Life, asleep: int, partition: str) -> bool:
    """Whether it was refused, or has let go, or has begun the partition anew."""
    return any(
        (event.step == Step.FENCE and event.kind is Kind.DONE)
        or (event.subject == partition and event.kind is Kind.FAILED and event.note in ("Fenced", "CancelledError"))
        or event.step == "release"
        for event in zombie.flight.since(asleep)
    )


def _wrong(zombie: Life, asleep: int, partition: str) -> list[str]:
    """Commits of the partition that were taken before it had fenced it anew."""
    found = []
    for event in zombie.flight.since(asleep):
        if event.step == Step.FENCE and event.kind is Kind.DONE and event.subject == partition:
            break
        if event.step == Step.COMMIT and event.kind is Kind.DONE and event.subject == partition:
            found.append(str(event.number))
    return found


async def pair(stage: S3Stage, times: int) -> None:
    """Two sinks and one partition: each is put to sleep in turn with its put on its way, and wakes when the other has
    begun; replies are lost and conflicts answered meanwhile."""
    storm = [
        stage.rule(Fault.RESET_AFTER, what=What.CLAIM, times=None, share=0.15),
        stage.rule(Fault.answer(CONFLICT), times=None, share=0.1),
        stage.rule(Fault.answer_after(CONFLICT), what=What.OBJECT, times=None, share=0.1),
    ]
    for number in range(times):
        what = (What.CLAIM, What.OBJECT)[number % 2]
        # Whoever owns the partition puts first.
        held: list[S3Request] = []
        rule = stage.rule(Fault.HOLD, what=what, action=None, where=_is_put, then=held.append)
        await next(iter(stage.sinks.values())).until(rule.met.is_set, what=f"a put of a {what}")
        owner = next(life for life in stage.sinks.values() if life.client == held[0].client)
        other = next(life for life in stage.sinks.values() if life is not owner)
        await stopped(owner)
        await _fences(other, after=other.flight.last)
        # Both have the same stretch in hand now, and run for it.
        stage.proxy.remove(rule)
        owner.send(signal.SIGCONT)
        stage.happened[f"both sinks at one {what}"] += 1
        await asyncio.sleep(stage.rng.uniform(0.0, 1.0))  # at a random time: nothing is waited for here
    for rule in storm:
        stage.happened[f"{rule.fault} meanwhile"] += rule.struck
        stage.proxy.remove(rule)
    await stage.sinks_at_work("a fight for one partition")


async def _fences(life: Life, *, after: int) -> None:
    await life.until_event(
        lambda event: event.step == Step.FENCE and event.kind is Kind.DONE, after=after, what="taking over"
    )


def _is_put(request: S3Request) -> bool:
    return request.method == "PUT"
