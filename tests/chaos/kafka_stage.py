"""What a fault on Kafka has to work with: the processes, the brokers, the wire between them, chance, and the account.

Every fault is played on a stage of its own with load on, and ends with everybody at work again (`at_work`); whether
the promises were kept, the referee says (`chaos.checks`). Event-loop only.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from brokers.kafka_server import KafkaCluster, KafkaServer
from brokers.wire import Ambush, Api, Fault, Wire
from chaos.checks import positions_ahead
from chaos.crew import POLL_S, WAIT_S_MAX, Crew, Life, Trouble
from chaos.flight import Kind, Step
from chaos.freezes import Zombies
from chaos.kafka_world import KafkaWorld
from chaos.kills import Tally

COMPLETE = {
    "producer": (Step.PUBLISH,),
    "scorer": (Step.PUBLISH_AND_COMMIT, Step.COMMIT),
    "sink": (Step.COMMIT,),
}
"""The calls whose return shows that a role has come through a whole step."""

_OUTCOME_UNKNOWN = ("OutcomeUnknown", "CancelledError")


@dataclass
class Stage:
    """One fault's."""

    crew: Crew
    world: KafkaWorld
    wire: Wire
    kafka: KafkaCluster
    rng: random.Random
    tell: Callable[[str], None]
    happened: Counter[str] = field(default_factory=Counter)
    """What was done, and how often."""
    ahead: list[str] = field(default_factory=list)
    """Where a committed position was ahead of what is durable."""
    findings: list[str] = field(default_factory=list)
    """Whatever else is wrong."""
    tally: Tally = field(default_factory=Tally)
    """Kills by where they fell, if there were such."""
    zombies: Zombies = field(default_factory=Zombies)
    extra: int = 0
    """Records that were published past the producer."""

    async def hunted(self, api: Api, fault: Fault, *, role: str, partition: str = "") -> Ambush:
        """The next such request of an owner, or of any of the role, with the fault done to it. Raises Trouble."""
        holding = self.world.transactional_id(role, partition).encode()
        ambush = self.wire.ambush(api, fault, holding=holding)
        await self.in_time(ambush.met, f"{api.name} of {role} {partition}")
        return ambush

    async def in_time(self, event: asyncio.Event, what: str) -> None:
        """Wait for an event. Raises Trouble when it is late."""
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                await event.wait()
        except TimeoutError:
            self.crew.check_alive()
            raise Trouble(f"waited {WAIT_S_MAX:g} s for {what}") from None

    async def at_work(self, what: str, *, roles: tuple[str, ...] = tuple(COMPLETE)) -> None:
        """Until each role has come through a step begun after now; then look at the positions. Raises Trouble."""
        marks = {role: self.crew.posts[role].flight.last for role in roles}
        for role, mark in marks.items():
            life = self.crew.posts[role]
            await life.until(lambda life=life, mark=mark: through_a_step(life, mark), what=f"a step after {what}")  # type: ignore[misc]
        await self.look(what)

    async def look(self, what: str) -> None:
        """Note where a committed position is ahead of what is durable."""
        self.ahead += [f"after {what}: {found}" for found in await positions_ahead(self.world)]

    async def broker_ends(self, server: KafkaServer, *, kill: bool) -> None:
        """It is killed, or told to stop; returns when it is gone."""
        if kill:
            server.kill()
            return
        server.terminate()
        deadline_s = time.monotonic() + WAIT_S_MAX
        while server.process_id is not None:
            if time.monotonic() > deadline_s:
                raise Trouble(f"broker {server.address.node} did not stop: {server.output}")
            await asyncio.sleep(POLL_S)

    async def broker_comes_back(self, server: KafkaServer) -> None:
        """Start it again, and wait until it answers."""
        server.start()
        await self.kafka.ready(brokers=len(self.kafka.servers))

    def count(self) -> tuple[int, int]:
        """Publishes of all producers that were acknowledged, and those of which nobody knows."""
        lives = [life for life in self.crew.lives if life.role == "producer"]
        sure = sum(life.flight.counts[Step.PUBLISH, Kind.DONE] for life in lives)
        unsure = sum(life.flight.errors[Step.PUBLISH, name] for life in lives for name in _OUTCOME_UNKNOWN)
        return sure, unsure + sum(e.step == Step.PUBLISH for life in lives for e in life.flight.open.values())


def through_a_step(life: Life, mark: int) -> bool:
    """Whether a call that completes a step was begun and has returned since."""
    begun = set()
    for event in life.flight.since(mark):
        if event.step not in COMPLETE[life.role]:
            continue
        if event.kind is Kind.BEGUN:
            begun.add(event.call)
        elif event.kind is Kind.DONE and event.call in begun:
            return True
    return False


async def stopped(life: Life) -> None:
    """SIGSTOP, and wait until the operating system says that it is stopped."""
    life.send(signal.SIGSTOP)
    stat = Path(f"/proc/{life.process.pid}/stat")
    deadline_s = time.monotonic() + WAIT_S_MAX
    while stat.read_text(errors="replace").rpartition(")")[2].split()[0] != "T":  # noqa: ASYNC240  # /proc is memory
        if time.monotonic() > deadline_s:
            raise Trouble(f"{life.name} did not stop")
        await asyncio.sleep(0)
