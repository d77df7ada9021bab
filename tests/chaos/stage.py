"""What a fault has to work with, whatever the servers: the processes, chance, and the account of what was done.

Every fault is played on a stage of its own with load on; whether the promises were kept, the referee says
(`chaos.checks`). Event-loop only.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.checks import positions_ahead
from chaos.crew import WAIT_S_MAX, Crew, Life, Trouble
from chaos.flight import Kind, Step
from chaos.freezes import Zombies
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
    rng: random.Random
    tell: Callable[[str], None]
    happened: Counter[str] = field(default_factory=Counter, kw_only=True)
    """What was done, and how often."""
    ahead: list[str] = field(default_factory=list, kw_only=True)
    """Where a committed position was ahead of what is durable."""
    findings: list[str] = field(default_factory=list, kw_only=True)
    """Whatever else is wrong."""
    tally: Tally = field(default_factory=Tally, kw_only=True)
    """Kills by where they fell, if there were such."""
    zombies: Zombies = field(default_factory=Zombies, kw_only=True)
    extra: int = field(default=0, kw_only=True)
    """Records that were published past the producer."""

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

    async def look(self, what: str, *, but: str = "") -> None:
        """Note where a committed position is ahead of what is durable; `but`: not what is said of this object."""
        found = await positions_ahead(self.crew.world)
        self.ahead += [f"after {what}: {each}" for each in found if not but or but not in each]

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
