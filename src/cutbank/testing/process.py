"""A process that exists only in a test: it can be killed, frozen and resumed, and its wall clock can be wrong.

Owns the life of one process: its tasks, and a gate through which everything goes that it does. Invariants:
- after `kill` nothing that it does has an effect: every call and sleep raises Crashed, all its tasks are cancelled,
  also those that it shielded, and a new one does not begin; what an interrupted call has done stays done;
- while frozen, no call begins, no answer arrives and no sleep ends, but time and everybody else go on.

Event-loop only. One object is one life: a restarted process is another object, perhaps of the same name.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from cutbank.clock import Clock
from cutbank.objects.base import ObjectStore
from cutbank.testing.faults import Crashed, Event, Fault, Faults, Rule
from cutbank.testing.taps import Call, TappedStore, TappedTransport
from cutbank.transports.base import Transport

T = TypeVar("T")

DYING_TURNS_MAX = 1000
"""Most turns of the event loop that a killed process's tasks may take to end; more is a task that can't be ended."""

_PROCESS: ContextVar["SimulatedProcess | None"] = ContextVar("simulated process", default=None)


class SimulatedProcess:
    """One process of a simulation, or of a test.

    Give all that it runs its `clock`, and wrap each transport and store with `transport` and `store` (or put `around`
    around them), then `start` it. Opening and closing a transport or store pass the gate freely: they only take and
    free resources. `clock` is the world's, which `wall_offset_ms` skews; `faults` may be shared with other processes.
    """

    def __init__(self, name: str, clock: Clock, *, wall_offset_ms: int = 0, faults: Faults | None = None) -> None:
        self.name = name
        self.clock: Clock = _ProcessClock(self, clock, wall_offset_ms=wall_offset_ms)
        self.faults = Faults(clock=clock) if faults is None else faults
        self._world_clock = clock
        self._struck = self.faults.of(name, clock=self.clock, crash=self.kill)
        self._running = asyncio.Event()
        self._running.set()
        self._dead = False
        self._tasks: dict[asyncio.Task[Any], None] = {}  # Not a set: they are cancelled in the order of their making.
        self._failure: BaseException | None = None

    @property
    def alive(self) -> bool:
        """Whether it has not been killed; it may have ended by itself."""
        return not self._dead

    @property
    def frozen(self) -> bool:
        """Whether it is stopped, until `resume`."""
        return not self._running.is_set()

    def transport(self, transport: Transport) -> TappedTransport:
        """This transport, as the process sees it."""
        return TappedTransport(transport, self.around)

    def store(self, store: ObjectStore) -> TappedStore:
        """This store, as the process sees it."""
        return TappedStore(store, self.around)

    async def around(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        """The gate, and inside it the faults: see `taps.Around`."""
        await self.gate()
        try:
            result = await self._struck(call, do)
        except Exception:
            await self.gate()  # An error is an answer too.
            raise
        await self.gate()
        return result

    async def gate(self) -> None:
        """Return when the process may run. Raises Crashed when it is dead."""
        while not self._dead and not self._running.is_set():
            await self._running.wait()
        if self._dead:
            raise Crashed(f"{self.name} is dead")

    def start(self, work: Coroutine[Any, Any, T], *, name: str = "main") -> asyncio.Task[T]:
        """Run this as part of the process. Its failure, unless the process was killed, is raised by `ended`."""
        if self._dead:
            work.close()
            raise Crashed(f"{self.name} is dead")
        loop = asyncio.get_running_loop()
        _follow_tasks(loop)
        context = copy_context()
        context.run(_PROCESS.set, self)
        task = loop.create_task(work, name=f"{self.name} {name}", context=context)
        task.add_done_callback(self._note_end)
        self._note("started" if name == "main" else f"started {name}")
        return task

    def kill(self) -> None:
        """SIGKILL: from inside, at a crash point, or from outside; also while frozen. Idempotent; then await `ended`.

        For a loop that runs: the tasks are cancelled here, all but the one that calls.
        """
        if self._dead:
            return
        self._dead = True
        self._note("killed")
        self._running.set()  # Who waits at the gate learns of it.
        self._cancel_others()

    def freeze(self) -> None:
        """SIGSTOP. What the world has begun to do for it goes on; it learns of nothing until `resume`."""
        if not self._dead and not self.frozen:
            self._running.clear()
            self._note("frozen")

    def resume(self) -> None:
        """SIGCONT."""
        if not self._dead and self.frozen:
            self._note("resumed")
            self._running.set()

    def crash_at(self, name: str, *, subject_contains: str = "", nth: int = 1, after: bool = False) -> Rule:
        """Kill it at its `nth` such call from now on (from 1): before that call, or after it is done."""
        fault = Fault.CRASH_AFTER if after else Fault.CRASH_BEFORE
        return self.faults.at(name, fault=fault, subject_contains=subject_contains, process=self.name, nth=nth)

    async def ended(self) -> None:
        """Wait until nothing of it runs any more; raise what ended it, unless that was its death.

        Call it from outside. Raises AssertionError if a task outlives the kill by DYING_TURNS_MAX turns.
        """
        turns = 0
        while pending := self._others():
            if not self._dead:
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                continue
            turns += 1
            assert turns <= DYING_TURNS_MAX, f"tasks outlive the kill of {self.name}: {pending}"
            self._cancel_others()  # Again: a task may survive one, as cleaning up is also cut short.
            await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Take a task as part of this process: it dies with it. Tasks that its tasks make are taken by themselves."""
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        if self._dead:
            task.cancel()

    def _others(self) -> "list[asyncio.Task[Any]]":
        current = asyncio.current_task()
        return [task for task in self._tasks if task is not current and not task.done()]

    def _cancel_others(self) -> None:
        for task in self._others():
            task.cancel()

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        del self._tasks[task]
        if self._dead and not task.cancelled():
            task.exception()  # Seen: nobody is left to be told.

    def _note_end(self, task: "asyncio.Task[Any]") -> None:
        failure = None if task.cancelled() else task.exception()
        if not self._dead:
            self._note(f"ended: {task.get_name()}" + ("" if failure is None else f", {failure!r}"))
            self._failure = self._failure or failure

    def _note(self, what: str) -> None:
        self.faults.history.note(Event(self._world_clock.monotonic_s(), self.name, what))


class _ProcessClock:
    """The world's clock through the process's gate, with the wall clock skewed."""

    def __init__(self, process: SimulatedProcess, clock: Clock, *, wall_offset_ms: int) -> None:
        self._process = process
        self._clock = clock
        self._wall_offset_ms = wall_offset_ms

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the epoch, wrong by the process's offset."""
        return self._clock.now_ms() + self._wall_offset_ms

    def monotonic_s(self) -> float:
        """The world's; it goes on while the process is frozen, as a machine's does."""
        return self._clock.monotonic_s()

    async def sleep(self, delay_s: float) -> None:
        """Wait that long, and while the process is frozen."""
        await self._process.gate()
        await self._clock.sleep(delay_s)
        await self._process.gate()


class _Following:
    """A task factory around the loop's own: a task belongs to the process in whose context it is made."""

    def __init__(self, inner: Callable[..., Any] | None) -> None:
        self._inner = inner

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, /, **options: Any) -> Any:
        task = asyncio.Task(coro, loop=loop, **options) if self._inner is None else self._inner(loop, coro, **options)
        context = options.get("context")
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is not None:
            process.adopt(task)
        return task


def _follow_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Make the loop tell processes of their tasks, and keep silent about crashes that nobody is left to be told of."""
    factory = loop.get_task_factory()
    if isinstance(factory, _Following):
        return
    loop.set_task_factory(_Following(factory))
    told = loop.get_exception_handler()

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), Crashed):
            return
        if told is None:
            loop.default_exception_handler(context)
        else:
            told(loop, context)

    loop.set_exception_handler(tell)
