"""One seed's world: producer, scorers and sinks on simulated time, what befalls them, and whether the promises held.

Owns the course: set-up, the plan's events each at its time, healing, catching up, a graceful stop, the verdict. A world
is a pure function of its plan; `play` runs it in one go, without real time. What may be done to a world while it runs
(`events`, `loud`) goes through its public methods.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from typing import Any

from cutbank.records import Batch, Partition, Position
from cutbank.testing.clock import ManualClock
from cutbank.testing.loop import Stuck, simulate
from cutbank.testing.memory_log import MemoryLog
from cutbank.testing.memory_store import MemoryStore
from cutbank.transports.base import StreamConfig, Transport
from simulation.events import befall
from simulation.history import History, listening
from simulation.loud import stop_loudly
from simulation.outcome import Outcome, Violation
from simulation.plan import DEAL_S, Plan, Role
from simulation.processes import STOP_S_MAX, Slot, Stage, Weather
from simulation.referee import Referee
from simulation.services import DETECTORS, SCORER_GROUP, SINK_GROUP, SPEC, SUNK
from simulation.verdict import check_chains, check_lines, oracle_lines

SESSION_S = 5.0
"""A process silent for so long loses its partitions."""

CATCH_UP_S_MAX = 300.0
"""How long the lag may take to return to zero once the world has healed: a minute's end, a stretch of the broker's
clock having gone back, pauses between attempts and session time-outs included."""

STAND_IN_SHARE = 0.7
"""How often a process that stands still is replaced by another one."""

STAND_IN_FIRST = 10
"""Slots of stand-ins and storms are numbered from here."""

PUT_DOWN_TURNS = 50
"""Turns of the event loop that killed processes are given to end."""

WORLD_S_MAX = 3000.0
"""Longest simulated time of one world; more is a service that never comes to its end."""


def play(plan: Plan, *, whole: bool = False) -> Outcome:
    """Run a plan's world to its end. Raises nothing for a broken promise: the outcome says it.

    `whole`: the history also has what the services log for information.
    """
    clock = ManualClock()
    world = World(plan, clock)
    outcome = world.outcome
    with listening(world.history, whole=whole):
        try:
            simulate(world.run(), clock=clock, seconds_max=WORLD_S_MAX)
        except Violation as violation:
            outcome.violation = violation
        except Stuck as stuck:
            outcome.violation = Violation("stuck", str(stuck))
        except Exception as error:  # noqa: BLE001  # a failure of the harness must name its seed, too
            outcome.violation, outcome.error = Violation("the harness failed", repr(error)), error
    world.sum_up()
    return outcome


class World:
    """See the file's head."""

    def __init__(self, plan: Plan, clock: ManualClock) -> None:
        self.plan = plan
        self.clock = clock
        self.history = History(clock)
        self.outcome = Outcome(seed=plan.seed, kind=plan.kind, history=self.history)
        self.log = MemoryLog(
            clock=clock,
            atomic=plan.atomic,
            heartbeat_s=1.0,
            session_timeout_s=SESSION_S,
            gap_max=plan.gap_max,
            seed=plan.seed,
        )
        self.store, self.state = MemoryStore(name="objects"), MemoryStore(name="state")
        self.referee = Referee(SPEC, DETECTORS, emit=plan.emit, atomic=plan.atomic, history=self.history)
        self.weather = Weather.of(plan, clock)
        self.operator: Transport = self.log.open(client_id="operator")
        self.last: dict[Partition, Position] = {}
        """Where the last record of each partition lies."""
        self.retained = False
        """Whether records have passed retention: the oracle can't read them any more."""
        self.began_s = clock.monotonic_s()
        self._stage = Stage(
            plan=plan,
            clock=clock,
            log=self.log,
            store=self.store,
            state=self.state,
            weather=self.weather,
            history=self.history,
            referee=self.referee,
            produce_until_s=self.began_s + plan.produce_s,
            stand_in=self._stand_in,
        )
        self._rng = plan.rng("world")
        self._slots: list[Slot] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted_in: list[tuple[Role, float]] = []
        self._wanting = asyncio.Event()
        self._published = defaultdict[str, asyncio.Event](asyncio.Event)
        self.log.on_publish.append(self._log_took)
        self.log.on_commit.append(self._log_committed)
        self.store.on_create.append(self.referee.store_took)

    async def run(self) -> None:
        """From the beginning to the verdict. Raises Violation."""
        plan = self.plan
        self.history.say("world", f"seed {plan.seed}: {plan.kind}, {'atomic' if plan.atomic else 'not atomic'}")
        try:
            await self._set_up()
            for event in plan.events:
                await self.sleep_until(self.began_s + event.at_s)
                self.history.say("world", str(event))
                await befall(self, event)
            if plan.kind == "ordinary":
                await self._end_well()
            else:
                await self._end_loudly()
        finally:
            await self._put_down()

    async def _set_up(self) -> None:
        plan = self.plan
        info = await self.operator.ensure(StreamConfig(SPEC.source, partitions=plan.source_partitions))
        self.referee.begin([part.partition for part in info.partitions], identity=info.identity)
        self.weather.begin()
        self.open("producer", 0)
        for index in range(plan.scorers):
            self.open("scorer", index)
        for index in range(plan.sinks):
            self.open("sink", index)
        self.spawn(self._stand_ins(), name="stand-ins")

    # Observers: told in the middle of whatever call it is.

    def _log_took(self, partition: Partition, positions: Sequence[Position], values: Sequence[bytes]) -> None:
        self.last[partition] = positions[-1]
        self._published[partition.stream].set()
        count, arrival_ms = len(positions), self.clock.now_ms()
        self.referee.log_took(
            Batch(
                partition=partition,
                start=positions[0],
                end=Position(positions[-1] + 1),
                positions=positions,
                arrivals_ms=[arrival_ms] * count,
                keys=[None] * count,
                values=values,
            )
        )
        for watch in list(self._stage.watches):
            watch.log_took()

    def _log_committed(self, group: str, partition: Partition, position: Position) -> None:
        if group == SCORER_GROUP:
            self.referee.scorer_committed(partition, position)
        elif group == SINK_GROUP:
            self.referee.sink_committed(partition, position)

    def _stand_in(self, role: Role, seconds: float) -> None:
        # From within a process: what is opened must not become its child, so another task does it.
        self._wanted_in.append((role, seconds))
        self._wanting.set()

    # What may be done to a world.

    def open(self, role: Role, index: int | None = None) -> Slot:
        """Start a process, and again when it dies, until its slot is no longer wanted; None: one beside the usual."""
        slot = Slot(self._stage, role, STAND_IN_FIRST + len(self._slots) if index is None else index)
        self._slots.append(slot)
        self.spawn(slot.supervise(), name=f"supervisor of {slot.name}")
        return slot

    def slots(self, role: Role) -> list[Slot]:
        """The role's processes that are wanted now."""
        return [slot for slot in self._slots if slot.role == role and slot.wanted]

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Let something happen beside the plan's course."""
        self._tasks.append(asyncio.create_task(work, name=name))

    async def sleep_until(self, until_s: float) -> None:
        """Let time pass; raises Violation as soon as there is one."""
        sleeping = asyncio.create_task(self.clock.sleep(until_s - self.clock.monotonic_s()))
        failing = asyncio.create_task(self.referee.failed.wait())
        try:
            await asyncio.wait({sleeping, failing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            failing.cancel()
        self._check()

    async def sleep(self, seconds: float) -> None:
        """Let so much time pass; raises Violation as soon as there is one."""
        await self.sleep_until(self.clock.monotonic_s() + seconds)

    async def busy(self, stream: str, *, within_s: float) -> None:
        """Wait until something is published to a stream, at most so long."""
        self._published[stream].clear()
        publishing = asyncio.create_task(self._published[stream].wait())
        sleeping = asyncio.create_task(self.clock.sleep(within_s))
        try:
            await asyncio.wait({publishing, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            publishing.cancel()
            sleeping.cancel()

    async def take_away(self, slots: Sequence[Slot], *, kill: bool) -> None:
        """End these processes; they are started again when `held` is set."""
        for slot in slots:
            slot.held.clear()
            slot.resume()
            slot.end(kill=kill)
        await self._gone(slots)

    def heal(self) -> None:
        """No faults any more, neither by chance nor by trap; what stands still goes on."""
        self.history.say("world", "heals")
        self.weather.heal()
        for slot in self._slots:
            slot.traps.clear()
            slot.resume()

    def befell(self, kind: str) -> None:
        """An event has done what it was to do."""
        self._stage.befell[kind] += 1

    def streams_go(self) -> None:
        """From now on a process may end because a stream was deleted."""
        self._stage.missing_streams_allowed = True

    async def stop_all(self) -> None:
        """A graceful stop of everything."""
        for slot in self._slots:
            slot.wanted = False
            slot.held.set()
            slot.stop()
        await self._gone(self._slots)

    async def _gone(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            if not await slot.gone(within_s=STOP_S_MAX):
                raise Violation("does not stop", f"{slot.name} after {STOP_S_MAX} s")
        self._check()

    def _check(self) -> None:
        if self.referee.violations:
            raise self.referee.violations[0]
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if self.plan.kind == "ordinary" and self.history.alarms:
            who, alarm = self.history.alarms[0]
            raise Violation("a loud stop without a reason", f"{who}: {alarm}")

    async def _stand_ins(self) -> None:
        """Open a process for one that stands still, as an orchestrator would; it leaves some time after."""
        while True:
            await self._wanting.wait()
            self._wanting.clear()
            while self._wanted_in:
                role, seconds = self._wanted_in.pop()
                if self._rng.random() < STAND_IN_SHARE:
                    self.spawn(self._stay(self.open(role), 1.5 * seconds), name="stand-in")

    async def _stay(self, slot: Slot, seconds: float) -> None:
        await self.clock.sleep(seconds)
        slot.wanted = False
        slot.stop()

    # Ends.

    async def _end_well(self) -> None:
        """Nothing lost, nothing twice, nothing different, and no lag."""
        await self.sleep_until(self.began_s + self.plan.produce_s)
        self.heal()
        await self._caught_up(lambda: self._lag() or self._not_durable())
        await self.stop_all()
        check_lines(self.referee, await self._wanted(), self.outcome)
        await check_chains(self.store, whole=True)

    async def _end_loudly(self) -> None:
        """What can't be kept stops its partition, and nothing wrong is written."""
        await self.sleep_until(self.began_s + self.plan.produce_s - 2 * DEAL_S)
        self.heal()
        await self.sleep(DEAL_S / 2)
        stopped = await stop_loudly(self)
        await self._caught_up(lambda: self._lag(without=stopped))
        await self.stop_all()
        await check_chains(self.store, whole=False)

    async def _wanted(self) -> Mapping[str, Counter[bytes]]:
        """All lines by stream: what the oracle says, where the log still holds all that it needs."""
        if self.retained:
            return {stream: Counter(self.referee.expected(stream)) for stream in (SPEC.destination, SPEC.errors)}
        return await oracle_lines(self.operator, self.state, self.plan)

    async def _caught_up(self, lag: Callable[[], str | None]) -> None:
        until_s = self.clock.monotonic_s() + CATCH_UP_S_MAX
        while (what := lag()) is not None:
            if self.clock.monotonic_s() >= until_s:
                raise Violation("lag", f"{what}, {CATCH_UP_S_MAX} s after the world healed")
            await self.sleep(1.0)

    def _lag(self, *, without: Container[Partition] = ()) -> str | None:
        """What lags, `without` these partitions; None: nothing."""
        if not all(slot.done for slot in self.slots("producer")):
            return "the producer has not ended"
        for partition, last in self.last.items():
            group = SCORER_GROUP if partition.stream == SPEC.source else SINK_GROUP
            if partition.stream not in {SPEC.source, *SUNK} or partition in without:
                continue
            committed = self.log.committed(group, partition)
            if committed is None or committed <= last:
                return f"{group} has committed {committed} of {partition}, whose last record is at {last}"
        return None

    def _not_durable(self) -> str | None:
        return None if self.referee.everything_durable() else "not every anomaly and error is in an object"

    async def _put_down(self) -> None:
        """Whatever still runs ends here and now: a failed world's processes must not be waited for."""
        for slot in self._slots:
            slot.wanted = False
            slot.put_down()
        for task in self._tasks:
            task.cancel()
        for _ in range(PUT_DOWN_TURNS):
            await asyncio.sleep(0)

    def sum_up(self) -> None:
        """The world's figures."""
        outcome, stage = self.outcome, self._stage
        outcome.simulated_s = self.clock.monotonic_s() - self.began_s
        outcome.digest = self.history.digest()
        outcome.kill_points, outcome.kills = stage.kill_points, stage.kills
        outcome.handovers = stage.handovers
        outcome.events, outcome.struck = stage.befell, stage.struck
        outcome.counters = Counter(stage.figures.counters)
        self.referee.sum_up(outcome)
