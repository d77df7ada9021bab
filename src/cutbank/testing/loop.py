"""An event loop on simulated time: whole systems run for hours of their own time in milliseconds, each time the same.

Owns the order in which callbacks run and the steps by which the clock moves. Invariants:
- time passes only when nothing can run, and then exactly to the next sleeper's or timer's time;
- what runs in an executor runs here, inline, a turn after it was asked for: nothing depends on the machine's threads;
- tasks and futures hash by a counter, so that no order depends on addresses: a run repeats in every process.

One thread. Real I/O is polled and never waited for: a simulation has none.
"""

import asyncio
import gc
import itertools
import selectors
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, TypeVarTuple

from cutbank.testing.clock import ManualClock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TURNS_MAX = 100_000
"""Most turns of the loop without time passing; more is a livelock."""

SECONDS_MAX = 24 * 3600.0
"""Most simulated seconds that a simulation takes, unless told otherwise; more: it never comes to its end."""

_TASKS_NAMED_MAX = 40
_DEPTH_MAX = 100


class Stuck(Exception):
    """A simulation that would not end: nothing left to wait for, a livelock, or too long. Names what hangs."""

    def __init__(self, why: str, tasks: tuple[str, ...]) -> None:
        shown = [*tasks[:_TASKS_NAMED_MAX], *(["…"] if len(tasks) > _TASKS_NAMED_MAX else [])]
        super().__init__("\n  ".join([f"{why}; pending tasks: {len(tasks)}", *shown]))
        self.tasks = tasks
        """A line for each pending task: its name and where it waits."""


class _CountedTask(asyncio.Task[T]):
    """A task that hashes by its number."""

    def __init__(self, coro: Coroutine[Any, Any, T], *, number: int, **options: Any) -> None:
        self._number = number  # First: the constructor already puts the task into a set.
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    def set_name(self, value: object) -> None:
        """Python 3.13.0 names a task None after its making if it was given no name."""
        if value is not None:
            super().set_name(value)


class _CountedFuture(asyncio.Future[T]):
    """A future that hashes by its number."""

    def __init__(self, *, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class _SimulatedSelector(selectors.BaseSelector):
    """Asks the machine without waiting; where the loop would wait, lets simulated time pass instead."""

    def __init__(self, idle: Callable[[float | None], None]) -> None:
        self._inner = selectors.DefaultSelector()
        self._idle = idle
        self.turns = 0
        """Turns since time last passed."""
        self.too_many_turns: Callable[[], None] = lambda: None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; if nothing is and the loop would wait `timeout` seconds (None: for ever), time passes."""
        self.turns += 1
        if self.turns > TURNS_MAX:
            self.too_many_turns()
        waits = timeout is None or timeout > 0.0
        # The loop's own wake-up pipe is always there; alone it matters only when there is nothing else to do.
        if not waits and len(self._inner.get_map()) <= 1:
            return []
        ready = self._inner.select(0.0)
        if waits and not ready:
            self._idle(timeout)
            self.turns = 0
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose time is a `ManualClock`'s. Made and closed by `simulate`, or by `asyncio.Runner`."""

    def __init__(self, clock: ManualClock, *, seconds_max: float = SECONDS_MAX) -> None:
        self._clock = clock
        self._seconds_max = seconds_max
        self._until_s = clock.monotonic_s() + seconds_max
        self._numbers = itertools.count(1)
        self._selecting = _SimulatedSelector(self._pass_time)
        super().__init__(self._selecting)
        self._selecting.too_many_turns = self._livelock
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]  # 3.11 passes no options, 3.14 does

    def time(self) -> float:
        """The clock's monotonic seconds."""
        return self._clock.monotonic_s()

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop that hashes by a counter."""
        return _CountedFuture(number=next(self._numbers), loop=self)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **options: Any
    ) -> asyncio.Task[T]:
        number = next(self._numbers)
        # Default names count per process, these per loop: a history that shows them repeats.
        options["name"] = options.get("name") or f"task-{number}"
        return _CountedTask(coro, number=number, loop=loop, **options)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run the call here, in the loop's next turn, whatever the executor; not at all if cancelled before."""
        del executor
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            if future.done():
                return
            try:
                future.set_result(func(*args))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  # as executors do: whatever it is, it is the caller's
                future.set_exception(error)

        self.call_soon(run)
        return future

    def _pass_time(self, timer_s: float | None) -> None:
        """Nothing can run: move the clock to the next sleeper or, `timer_s` from now, the next timer."""
        due_s = self._clock.next_due_s
        if timer_s is not None and (due_s is None or self.time() + timer_s < due_s):
            due_s = self.time() + timer_s
        if due_s is None:
            raise Stuck("nothing is left to wait for", self._pending())
        if due_s > self._until_s:
            self._until_s += self._seconds_max  # Cancelled tasks may take their time to end.
            raise Stuck(f"not at its end after {self._seconds_max} simulated seconds", self._pending())
        self._clock.move_to(due_s)

    def _livelock(self) -> None:
        self._selecting.turns = 0
        raise Stuck(f"{TURNS_MAX} turns of the loop and no time passed", self._pending())

    def _pending(self) -> tuple[str, ...]:
        tasks = sorted(asyncio.all_tasks(self), key=hash)
        return tuple(f"{task.get_name()}: {_place_of(task.get_coro())}" for task in tasks)


def _place_of(awaitable: Any) -> str:
    """Where a suspended coroutine stands: its name, and the innermost line that waits."""
    name = getattr(awaitable, "__qualname__", type(awaitable).__name__)
    frame: FrameType | None = None
    for _ in range(_DEPTH_MAX):
        for kind in ("cr", "gi", "ag"):
            if (here := getattr(awaitable, f"{kind}_frame", None)) is not None:
                frame = here
                awaitable = getattr(awaitable, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
                break
        else:
            break
    where = "" if frame is None else f" at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
    return f"{name}{where}"


@contextmanager
def _collector_resting() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def simulate(main: Coroutine[Any, Any, T], *, clock: ManualClock, seconds_max: float = SECONDS_MAX) -> T:
    """Run `main` to its end on simulated time, cancel what is left, and return its result or raise its error.

    Call it where no event loop runs. `clock` is the clock that everything in `main` is given; time goes on from where
    it stands. Raises Stuck if nothing is left to wait for, after TURNS_MAX turns without time passing, or after
    `seconds_max` simulated seconds. The garbage collector rests meanwhile: it would close abandoned generators at
    moments that depend on what the process did before.
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001  # asyncio.run asks so too
        main.close()
        raise RuntimeError("a simulation has an event loop of its own: call it where no running event loop is")
    with (
        _collector_resting(),
        asyncio.Runner(loop_factory=lambda: SimulatedLoop(clock, seconds_max=seconds_max)) as run,
    ):
        return run.run(main)
