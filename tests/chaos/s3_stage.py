"""What a fault on S3 works with beside the processes: the proxy before the server, several sinks, and bad records.

Owns the posts of the sinks: each is one process after another, told another layout each time. Event-loop only.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count

from chaos.crew import WAIT_S_MAX, Life, Trouble
from chaos.flight import Event, Kind, Step
from chaos.s3_layouts import drawn
from chaos.s3_world import S3World
from chaos.scenarios import RECORDS_PER_PUBLISH
from chaos.stage import Stage, through_a_step
from cutbank.errors import ObjectMissing
from cutbank.pipeline.sinking.claims import ChainId, Claim, decode, link_from_key
from cutbank.records import Message, Partition
from cutbank.testing.bad_records import bad_records
from object_servers.proxy import FaultProxy
from object_servers.requests import Action, Fault, Rule, What

BAD_S = 0.5
"""Between two publishes of bad records among the producer's, seconds."""

BAD_RECORDS = 10
"""Bad records of one such publish."""

BAD_BYTES_MAX = 100_000
"""Larger ones are the poison runs' business: here it is the sink of errors that is tested."""


class Fell(StrEnum):
    """Where a sink was when it was killed, by what the bucket and the log hold."""

    CLAIM = "between stretch and claim: a claim on its way or about to be, none there"
    CLAIM_OBJECT = "between claim and object: the claim there, none of its objects"
    OBJECTS = "between the objects of a claim: some there, others not"
    OBJECT_COMMIT = "between object and commit: all objects there, the position not committed"
    ELSEWHERE = "elsewhere: reading, listing, starting"


@dataclass
class S3Stage(Stage):
    """One fault's."""

    world: S3World
    proxy: FaultProxy
    sinks: dict[int, Life] = field(default_factory=dict, kw_only=True)
    """By post, who does its work now."""

    def rule(self, fault: Fault, **choice: object) -> Rule:
        """Lay a rule."""
        return self.proxy.rule(Rule(fault=fault, **choice))  # type: ignore[arg-type]

    async def sink(self, post: int, settings: Mapping[str, str] | None = None) -> Life:
        """A new sink at a post, told another layout than the one before it, or these settings."""
        before = self.sinks.get(post)
        told = drawn(self.rng, unlike=before.settings if before is not None else {}) if settings is None else settings
        self.sinks[post] = await self.crew.start("sink", settings=told)
        return self.sinks[post]

    async def start_all(self, *, sinks: int) -> None:
        """Producer, scorer and so many sinks, at work."""
        for role in ("producer", "scorer"):
            await self.crew.start(role)
        for post in range(sinks):
            await self.sink(post)
        for life in [self.crew.posts["producer"], self.crew.posts["scorer"], *self.sinks.values()]:
            await life.until_live()

    async def met(self, rule: Rule, life: Life, *, within_s: float = WAIT_S_MAX) -> bool:
        """Wait for the rule's first request while that process lives; False: not in time."""
        return await life.in_time(rule.met.is_set, within_s=within_s)

    async def killed(self, life: Life) -> Fell:
        """SIGKILL; where it fell, counted."""
        life.send(signal.SIGKILL)
        await self.gone(life)
        fell = await fell_at(self.world, life)
        self.happened[f"killed {fell}"] += 1
        await self.look(f"{life.name}, killed {fell}")
        life.flight.close()
        return fell

    @staticmethod
    async def gone(life: Life) -> None:
        """Until it has ended by a SIGKILL, its own or ours. Raises Trouble."""
        if (code := await life.ended()) != -signal.SIGKILL:
            raise Trouble(f"{life.name} ended with {code}, and was to be killed\n{life.last_words()}")

    async def sinks_at_work(self, what: str) -> None:
        """Until some sink has come through a whole step begun after now. Raises Trouble."""
        marks = {life: life.flight.last for life in self.sinks.values()}

        async def through() -> bool:
            self.check_alive()
            for life in marks:
                life.flight.follow()
            return any(through_a_step(life, mark) for life, mark in marks.items())

        await next(iter(marks)).until_true(through, what=f"a step of a sink after {what}")
        await self.look(what)

    def check_alive(self) -> None:
        """No sink at a post may have ended by itself. Raises Trouble."""
        for life in self.sinks.values():
            if life.over:
                raise Trouble(f"{life.name} ended by itself: {life.process.returncode}\n{life.last_words()}")

    @asynccontextmanager
    async def bad_records(self) -> AsyncIterator[None]:
        """Bad records among the producer's, as long as this lasts, so that there are errors to sink."""
        publishing = asyncio.create_task(self._publish_bad(), name="bad records")
        try:
            yield
        finally:
            publishing.cancel()
            await asyncio.wait({publishing})
            if not publishing.cancelled() and (error := publishing.exception()) is not None:
                raise Trouble(f"bad records were not published: {error}")

    async def _publish_bad(self) -> None:
        world, seed = self.world, self.rng.randrange(1 << 30)
        cases = (case for case in bad_records(world.spec, seed=seed, odd_share=1.0, large_share=0.0))
        partitions = count()
        while True:
            await asyncio.sleep(BAD_S)  # the producer waits for nobody either
            values = [value for value, _ in zip((case.value for case in cases), range(BAD_RECORDS), strict=False)]
            partition_id = str(next(partitions) % world.width)
            messages = [Message(world.spec.source, value, partition_id=partition_id) for value in values]
            # Whole or not at all, and known which: a publish that is cancelled would be neither.
            await asyncio.shield(self._published(messages))

    async def _published(self, messages: list[Message]) -> None:
        await self.world.transport.publish(messages)
        self.extra += len(messages)

    def count_records(self, records: int) -> None:
        """Every record that was acknowledged has to be in the log, and no other than those that were begun."""
        sure, unsure = self.count()
        least = RECORDS_PER_PUBLISH * sure + self.extra
        if not least <= records <= least + RECORDS_PER_PUBLISH * unsure:
            self.findings.append(
                f"{least} records were acknowledged, at most {RECORDS_PER_PUBLISH * unsure} more begun; "
                f"the log has {records}"
            )


async def fell_at(world: S3World, life: Life) -> Fell:
    """Where a dead sink was. Of several partitions, the one that was furthest from a commit in order of the values."""
    found: list[Fell] = []
    for partition in _flushing(life.flight.events):
        claim = await newest(world, partition)
        committed = await world.committed("sink", partition)
        if claim is None or (committed is not None and committed >= claim.end):
            found.append(Fell.CLAIM)
            continue
        there = [await world.store.exists(item.key) for item in claim.objects]
        if all(there):
            found.append(Fell.OBJECT_COMMIT)
        else:
            found.append(Fell.OBJECTS if any(there) else Fell.CLAIM_OBJECT)
    order = [Fell.OBJECTS, Fell.CLAIM_OBJECT, Fell.OBJECT_COMMIT, Fell.CLAIM]
    return min(found, key=order.index, default=Fell.ELSEWHERE)


_ENDS: Mapping[str, Kind] = {Step.COMMIT: Kind.DONE, Step.FENCE: Kind.BEGUN}
"""Calls after which a partition's claim is no longer on its way, and when."""


def _flushing(events: Iterable[Event]) -> list[Partition]:
    """Partitions whose claim this process has begun to put, and not committed the end of."""
    open_: dict[Partition, None] = {}
    for event in events:
        if event.step == Step.CLAIM and event.kind is Kind.BEGUN:
            link = link_from_key(event.subject)
            if link is not None:
                open_[Partition(link.chain.stream, link.chain.partition)] = None
        elif event.kind is _ENDS.get(event.step):
            stream, _, partition = event.subject.rpartition("/")
            open_.pop(Partition(stream, partition), None)
    return list(open_)


async def newest(world: S3World, partition: Partition) -> Claim | None:
    """A chain's newest claim."""
    chain = ChainId(world.spec.name, partition.stream, partition.id)
    async for info in world.store.list(chain.prefix):
        link = link_from_key(info.key)
        if link is not None and link.kind == "claim":
            try:
                return decode(await world.store.read(info.key), Claim, key=info.key)
            except ObjectMissing:
                return None
    return None


def create(what: What, life: Life, **more: object) -> dict[str, object]:
    """A rule's choice: puts of that sort by that process."""
    return {"action": Action.CREATE, "what": what, "client": life.client, **more}
