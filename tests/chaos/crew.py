"""The processes of a chaos run: each life of a service, from start to end, and what must be true of its end.

Invariant: only processes started here are ever signalled, by their ids; none is left when the crew is closed.
Every wait has a deadline far beyond what a loaded machine needs, and is for an event, never for a time to pass.
Event-loop only.
"""

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from chaos.flight import Event, Flight, Kind, Step, make_ring
from chaos.world import GRACE_S, World

LIVE_S_MAX = 120.0
"""To the first record of a new process: imports, the self-check, another's session time-out, a busy machine."""

END_S_MAX = GRACE_S + 15.0
"""To the end after SIGTERM: the grace period, and what the watchdog adds. Later is a finding."""

WAIT_S_MAX = 120.0
"""For anything else that a live pipeline is to do."""

LOOK_S = 0.001
"""Between two looks at a ring, seconds: shorter than a synced write."""

POLL_S = 0.02
"""Between two looks at the log or the store, seconds."""

FOLLOW_S = 0.25
"""Between two looks at the rings of those that nobody waits for, seconds: a ring must not be written over unread."""

LOG_TAIL_BYTES = 3000

FIRST = {"producer": Step.PUBLISH, "scorer": Step.RECEIVE, "sink": Step.RECEIVE}
"""The call that shows a role at work."""


class Trouble(Exception):
    """The run can't go on: something that must happen did not."""


@dataclass(eq=False)
class Life:
    """One process of a role."""

    role: str
    number: int
    process: asyncio.subprocess.Process
    flight: Flight
    ring: Path
    log: Path
    """What it wrote."""
    settings: Mapping[str, str]
    """What it was told beyond what all are told."""

    @property
    def client(self) -> str:
        """Its name where spaces can't stand."""
        return f"{self.role}-{self.number}"

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.role} {self.number}"

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.returncode is not None

    def send(self, number: signal.Signals) -> None:
        """A signal, unless it has ended."""
        with suppress(ProcessLookupError):
            if not self.over:
                self.process.send_signal(number)

    async def until(self, seen: Callable[[], bool], *, what: str, within_s: float = WAIT_S_MAX) -> None:
        """Until `seen()` holds, asked after each look at its ring. Raises Trouble when late, or when it ends first."""
        if not await self.in_time(seen, within_s=within_s):
            why = f"it ended with {self.process.returncode}" if self.over else f"not within {within_s:g} s"
            raise Trouble(f"{self.name}: waited for {what}: {why}\n{self.last_words()}")

    async def in_time(self, seen: Callable[[], bool], *, within_s: float) -> bool:
        """Like `until`; False when late or ended."""
        deadline_s = time.monotonic() + within_s
        while True:
            over = self.over
            self.flight.follow()
            if seen():
                return True
            if over or time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(LOOK_S)

    async def until_true(self, holds: Callable[[], Awaitable[bool]], *, what: str) -> None:
        """Until it holds, asked again and again while this process lives. Raises Trouble when late or without it."""
        deadline_s = time.monotonic() + WAIT_S_MAX
        while not await holds():
            if self.over or time.monotonic() > deadline_s:
                raise Trouble(f"{self.name}: waited for {what}\n{self.last_words()}")
            await asyncio.sleep(POLL_S)

    async def until_none(self, left: Callable[[], Awaitable[int]], *, what: str) -> None:
        """Until nothing is left to do. Raises Trouble when this process has ended, or when there is no progress.

        How much there is depends on how slow the machine was; so only a while without progress is too long.
        """
        least, deadline_s = await left(), time.monotonic() + WAIT_S_MAX
        while least:
            if self.over or time.monotonic() > deadline_s:
                raise Trouble(f"{self.name}: waited for {what}, {least} left\n{self.last_words()}")
            await asyncio.sleep(POLL_S)
            if (now := await left()) < least:
                least, deadline_s = now, time.monotonic() + WAIT_S_MAX

    async def until_live(self) -> None:
        """Until it is at work."""
        first = FIRST[self.role]
        await self.until(
            lambda: any(event.step == first for event in self.flight.events),
            what="its first record",
            within_s=LIVE_S_MAX,
        )

    async def until_event(self, matches: Callable[[Event], bool], *, after: int, what: str) -> Event:
        """Until there is such an event after that number; that event."""
        found: list[Event] = []

        def seen() -> bool:
            found.extend(itertools.islice(filter(matches, self.flight.since(after)), 1))
            return bool(found)

        await self.until(seen, what=what)
        return found[0]

    async def ended(self, *, within_s: float = END_S_MAX) -> int:
        """Its exit code, once it has ended. Raises Trouble when late."""
        try:
            async with asyncio.timeout(within_s):
                code = await self.process.wait()
        except TimeoutError:
            raise Trouble(f"{self.name} did not end within {within_s:g} s\n{self.last_words()}") from None
        self.flight.follow()
        self.ring.unlink(missing_ok=True)
        return code

    async def terminated(self) -> None:
        """SIGTERM, and its end: with exit code 0, within the grace period, or Trouble."""
        self.send(signal.SIGTERM)
        await self.ended_well()

    async def ended_well(self) -> None:
        """Its end by a SIGTERM that was sent already."""
        if (code := await self.ended()) != 0:
            raise Trouble(f"{self.name} ended with exit code {code} after SIGTERM\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def done(self, step: str, subject: str = "", *, after: int = 0) -> bool:
        """Whether such a call has returned, of this subject if one is named."""
        return any(
            event.kind is Kind.DONE and event.step == step and subject in ("", event.subject)
            for event in self.flight.since(after)
        )


class Crew:
    """Starts lives and sees to it that none outlasts it."""

    def __init__(self, world: World, *, plants: tuple[str, ...] = ()) -> None:
        self.world = world
        self._plants = plants
        self._numbers = itertools.count(1)
        self._lives: list[Life] = []
        self.posts: dict[str, Life] = {}
        """By role, the life that does its work now."""
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._following = asyncio.create_task(self._follow(), name="follow the rings")
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._following is not None:
            self._following.cancel()
        for life in self._lives:
            life.send(signal.SIGKILL)
        await asyncio.gather(*(life.process.wait() for life in self._lives))

    async def _follow(self) -> None:
        """Look at every ring, again and again: a life that nobody waits for writes on, and is counted in the end."""
        while True:
            for life in self._lives:
                life.flight.follow()
            await asyncio.sleep(FOLLOW_S)

    async def start(
        self, role: str, *, flush_on_stop: bool = False, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Life:
        """A new process of this role; it takes the post. `settings`: of the environment, for this one alone."""
        number = next(self._numbers)
        folder = self.world.folder
        ring, log = folder / f"{number:03}-{role}.ring", folder / f"{number:03}-{role}.log"
        make_ring(ring)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *self.world.command(role, ring, self._plants),
                env={**self.world.environment(client=f"{role}-{number}", flush_on_stop=flush_on_stop), **settings},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        life = Life(role, number, process, Flight(ring), ring, log, settings)
        self._lives.append(life)
        self.posts[role] = life
        return life

    @property
    def lives(self) -> tuple[Life, ...]:
        """All that were started, in order."""
        return tuple(self._lives)

    async def start_all(self) -> None:
        """One of each role, at work."""
        for role in FIRST:
            await self.start(role)
        for life in list(self.posts.values()):
            await life.until_live()

    def check_alive(self) -> None:
        """Nobody at a post may have ended by himself. Raises Trouble."""
        for life in self.posts.values():
            if life.over:
                raise Trouble(f"{life.name} ended by itself: {life.process.returncode}\n{life.last_words()}")
