"""Keeps a world's processes running: each slot is one after another, until the world wants no more of it.

Owns the lives: what a process is wired to, how it dies, is frozen, stopped and started again, and whether it may end
as it did. Every kill goes through `Slot.die`, which counts where it fell. Event-loop only.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cutbank.errors import CutbankError, OutcomeUnknown
from cutbank.objects.base import ObjectStore
from cutbank.testing.clock import ManualClock
from cutbank.testing.faults import Fault, Faults
from cutbank.testing.memory_log import MemoryLog
from cutbank.testing.memory_store import MemoryStore
from cutbank.testing.process import SimulatedProcess
from cutbank.testing.taps import Around, Call
from cutbank.transports.base import Transport
from simulation.history import WHO, History
from simulation.plan import Plan, Role
from simulation.referee import Referee
from simulation.services import Figures, SpoilingTransport, run_a_scorer, run_a_sink, run_producer
from simulation.watch import SeenStore, Trap, Watch, layered

T = TypeVar("T")

RESTART_S = (0.2, 6.0)
"""How long a dead process stays dead, seconds."""

LATE_S = (1.0, 20.0)
"""How long a late put is on its way."""

STOP_S_MAX = 90.0
"""How long a graceful stop may take, simulated seconds; a stop waits for what is on its way, in any weather."""

_LOG_CALLS = (
    "publish", "publish_and_commit", "commit", "fence", "receive", "describe", "lease_committed", "ensure",
    "position_at", "stream_read", "lag", "release",
)  # fmt: skip
_STORE_CALLS = ("create", "read", "exists", "list", "delete")


@dataclass(slots=True)
class Weather:
    """The faults by chance of all processes: over the log, the objects' store and the state store."""

    log: Faults
    store: Faults
    state: Faults
    drizzle: float
    slow: float
    """Share of calls that take some milliseconds each way: so that processes are stopped in the middle of things."""

    @classmethod
    def of(cls, plan: Plan, clock: ManualClock) -> "Weather":
        """The weather of a plan."""
        log, store, state = (
            Faults(plan.rng(where).getrandbits(32), clock=clock) for where in ("log", "store", "state")
        )
        return cls(log, store, state, plan.drizzle, plan.slow)

    late: float = 0.02
    """Chance of a put or deletion to be on its way for long: it is done even if its process dies meanwhile."""

    def around_puts(self, rng: random.Random, clock: ManualClock) -> Around:
        """Around a store's calls, below its faults."""

        async def around(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            if call.name not in {"create", "delete"} or rng.random() >= self.late:
                return await do()

            async def later() -> T:
                await clock.sleep(rng.uniform(*LATE_S))
                return await do()

            # In nobody's context: it is the network's, and no process's task.
            task = asyncio.get_running_loop().create_task(later(), name=f"late {call}", context=Context())
            task.add_done_callback(_look_at)
            return await asyncio.shield(task)

        return around

    def begin(self) -> None:
        """As it usually is, everywhere."""
        for where in ("log", "store", "state"):
            self.settle(where)

    def settle(self, where: str) -> None:
        """As it usually is."""
        self._rate(where, self.drizzle)

    def worsen(self, where: str) -> None:
        """Three calls of ten fail in one way or another."""
        self._rate(where, 0.3)

    def out(self, where: str) -> None:
        """No call is done at all."""
        names = _LOG_CALLS if where == "log" else _STORE_CALLS
        self._faults(where).rate({name: {Fault.FAIL: 1.0} for name in names})

    def heal(self) -> None:
        """No faults any more."""
        self.drizzle = self.late = self.slow = 0.0
        for faults in (self.log, self.store, self.state):
            faults.heal()

    def _faults(self, where: str) -> Faults:
        return {"log": self.log, "store": self.store, "state": self.state}[where]

    def _rate(self, where: str, rate: float) -> None:
        shares = {
            Fault.FAIL: 0.25 * rate,
            Fault.FAIL_AFTER: 0.2 * rate,
            Fault.lose_request(1.5): 0.1 * rate,
            Fault.lose_reply(1.5): 0.15 * rate,
            Fault.delay(0.4): 0.1 * rate,
            Fault.delay_reply(0.4): 0.1 * rate,
            Fault.delay(7.0): 0.1 * rate,
            Fault.delay(0.02): 0.4 * self.slow * (1.0 - rate),
            Fault.delay_reply(0.03): 0.4 * self.slow * (1.0 - rate),
        }
        names = _LOG_CALLS if where == "log" else _STORE_CALLS
        self._faults(where).rate(dict.fromkeys(names, shares) if rate else {})


@dataclass(slots=True)
class Stage:
    """What all processes of a world share."""

    plan: Plan
    clock: ManualClock
    log: MemoryLog
    store: MemoryStore
    state: MemoryStore
    weather: Weather
    history: History
    referee: Referee
    figures: Figures = field(default_factory=Figures)
    kill_points: Counter[str] = field(default_factory=Counter)
    """Kills by where they fell."""
    kills: Counter[str] = field(default_factory=Counter)
    """Kills by role."""
    befell: Counter[str] = field(default_factory=Counter)
    """What has really happened, by the kind of event: an event may find nobody, or a call that never comes."""
    struck: Counter[str] = field(default_factory=Counter)
    """What has happened at a call: kind and call."""
    handovers: Counter[str] = field(default_factory=Counter)
    """What sinks finished of others."""
    claimed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By object's key, who claimed it and in which layout."""
    missing_streams_allowed: bool = False
    """Whether a process may end because a stream was deleted."""
    watches: list[Watch] = field(default_factory=list)
    """Of the processes alive: the log tells them of what it takes."""
    produce_until_s: float = 0.0
    stand_in: Callable[[Role, float], None] = lambda _role, _seconds: None
    """Told that a process of this role stands still for so long: another one may take its place."""


class Slot:
    """A place for one process after another."""

    def __init__(self, stage: Stage, role: Role, index: int) -> None:
        self.role: Role = role
        self.name = f"{role}-{index}"
        self.wanted = True
        self.held = asyncio.Event()
        """Set: it may be started."""
        self.held.set()
        self.traps: list[Trap] = []
        """For this life and the next ones, until they spring."""
        self._stage = stage
        self._rng = stage.plan.rng(f"{self.name}/lives")
        self._lives = 0
        self._process: SimulatedProcess | None = None
        self._watch: Watch | None = None
        self._stop = asyncio.Event()
        self._over = asyncio.Event()
        self._over.set()
        self._thaw: asyncio.Task[None] | None = None

        self.done = False
        """Whether its work is over for good."""

    def die(self) -> bool:
        """Kill it, now; whether there was anybody."""
        if self._process is None or self._watch is None or not self._process.alive:
            return False
        points = self._watch.kill_points()
        self._stage.kill_points.update(points)
        self._stage.kills[self.role] += 1
        where = f" {', '.join(points)}" if points else ""
        self._stage.history.say(self._process.name, f"dies{where}")
        self._process.kill()
        return True

    def put_down(self) -> None:
        """Kill it without a word: the world is over."""
        if self._process is not None:
            self._process.kill()

    def freeze(self, seconds: float) -> bool:
        """Let it stand still for so long; whether there was anybody to."""
        if self._process is None or self._process.frozen or not self._process.alive:
            return False
        process = self._process
        self._stage.history.say(process.name, f"stands still for {seconds:.1f} s")
        process.freeze()
        self._stage.stand_in(self.role, seconds)

        async def thaw() -> None:
            await self._stage.clock.sleep(seconds)
            self._resume(process)

        # The process's own task where one of its calls is why it stands still: then it dies with the process.
        self._thaw = asyncio.create_task(thaw(), name=f"thaw {process.name}")
        return True

    def _struck(self, kind: str, call: str) -> None:
        self._stage.befell[kind] += 1
        self._stage.struck[f"{kind}: {call}"] += 1

    def resume(self) -> None:
        """Let it go on, if it stands still."""
        if self._process is not None:
            self._resume(self._process)

    def _resume(self, process: SimulatedProcess) -> None:
        if process.alive and process.frozen:
            self._stage.history.say(process.name, "goes on")
            process.resume()

    def stop(self) -> bool:
        """Ask it to end gracefully; whether there was anybody."""
        if self._process is None:
            return False
        self._stage.history.say(self._process.name, "is asked to stop")
        self._stop.set()
        return True

    def end(self, *, kill: bool) -> bool:
        """Kill it, or ask it to end; whether there was anybody."""
        return self.die() if kill else self.stop()

    async def gone(self, *, within_s: float) -> bool:
        """Wait until no process is here, at most so long; whether that is so."""
        until_s = self._stage.clock.monotonic_s() + within_s
        while not self._over.is_set() and self._stage.clock.monotonic_s() < until_s:
            await self._stage.clock.sleep(0.5)
        return self._over.is_set()

    async def supervise(self) -> None:
        """Life after life, until it is no longer wanted."""
        while True:
            await self.held.wait()
            if not self.wanted:
                return
            self._over.clear()
            try:
                again = await self._live()
            finally:
                self._over.set()
            if not again or not self.wanted:
                self.done = True
                return
            await self._stage.clock.sleep(self._rng.uniform(*RESTART_S))

    async def _live(self) -> bool:
        """One life; whether another one may follow."""
        stage, rng = self._stage, self._rng
        left_s = stage.produce_until_s - stage.clock.monotonic_s()
        if self.role == "producer" and left_s < 0.1:
            return False
        self._lives += 1
        name = f"{self.name}.{self._lives}"
        process = SimulatedProcess(name, stage.clock, wall_offset_ms=rng.choice(stage.plan.wall_offsets_ms))
        watch = Watch(
            name,
            stage.history,
            kill=self.die,
            freeze=self.freeze,
            struck=self._struck,
            gate=process.gate,
            clock=stage.clock,
            traps=self.traps,
            handovers=stage.handovers,
            claimed=stage.claimed,
        )
        self._stop = asyncio.Event()
        self._process, self._watch = process, watch
        stage.watches.append(watch)
        WHO.set(name)
        stage.history.say(name, "starts")
        life = self._life(process, watch, random.Random(f"{stage.plan.seed}/{name}"), left_s)
        try:
            process.start(life)
            await process.ended()
            if process.alive:
                stage.history.say(name, "ends")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is judged
            self._judge(name, error)
        finally:
            self._process = self._watch = None
            stage.watches.remove(watch)
        return True

    async def _life(self, process: SimulatedProcess, watch: Watch, rng: random.Random, left_s: float) -> None:
        stage = self._stage
        clock, weather = process.clock, stage.weather

        def around(where: str, faults: Faults) -> Around:
            return layered(process.around, watch.outer(where), faults.of(process.name, clock=clock), watch.inner)

        def seen(store: MemoryStore, where: str, faults: Faults) -> ObjectStore:
            late = weather.around_puts(rng, stage.clock)
            return SeenStore(store.open(), layered(around(where, faults), late), created=watch.created)

        log = stage.log.open(clock=clock, client_id=process.name)
        async with AsyncExitStack() as stack:
            transport: Transport = await stack.enter_async_context(
                SpoilingTransport(
                    log,
                    around("log", weather.log),
                    rng=rng,
                    share=stage.plan.bad_share if self.role == "producer" else 0.0,
                )
            )
            match self.role:
                case "producer":
                    await run_producer(
                        stage.plan, transport, clock=clock, figures=stage.figures, stop=self._stop, rng=rng,
                        left_s=left_s,
                    )  # fmt: skip
                case "scorer":
                    state = seen(stage.state, "state", weather.state)
                    await run_a_scorer(
                        stage.plan, transport, state, clock=clock, figures=stage.figures, stop=self._stop, rng=rng
                    )
                case "sink":
                    store = seen(stage.store, "store", weather.store)
                    await run_a_sink(
                        stage.plan, transport, store, clock=clock, figures=stage.figures, stop=self._stop, rng=rng
                    )

    def _judge(self, name: str, error: Exception) -> None:
        """A process that ends by itself: a fault that outlasted its retries may end it, nothing else."""
        reasons = sorted({f"{type(each).__name__}: {each}" for each in _leaves(error)})
        self._stage.history.say(name, f"ends with {'; '.join(reasons)}")
        for each in _leaves(error):
            passing = isinstance(each, OutcomeUnknown) or (isinstance(each, CutbankError) and each.retryable)
            missing = self._stage.missing_streams_allowed and type(each).__name__ == "StreamMissing"
            if not passing and not missing:
                self._stage.referee.violated("a process failed", f"{name}: {type(each).__name__}: {each}")


def _look_at(task: "asyncio.Task[Any]") -> None:
    """A put that failed when nobody waited for it any more need not be reported as forgotten."""
    if not task.cancelled():
        task.exception()


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]
