"""When the next batch is due, and what ends the producing. Owns the schedule and the deadline.

Invariant: nothing is due earlier than its place in the schedule; the schedule does not drift, since every place is
counted from one start; and after a stall at most CATCH_UP_S_MAX of it are made up, never a burst without end.
Event-loop only.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self

from cutbank.clock import Clock

CATCH_UP_S_MAX = 5.0
"""How far behind its schedule a producer may be and still catch up, seconds; the rest of a longer stall is let go."""


class Schedule:
    """Places in time, seconds after a start: the first call of `wait_s`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_s: float | None = None

    def wait_s(self, offset_s: float) -> float:
        """Seconds until the place `offset_s` after the start; 0 if it has passed."""
        now_s = self._clock.monotonic_s()
        if self._start_s is None:
            self._start_s = now_s - offset_s
        late_s = now_s - self._start_s - offset_s
        if late_s > CATCH_UP_S_MAX:
            self._start_s += late_s - CATCH_UP_S_MAX
        return max(0.0, -late_s)


class Ending:
    """Ends on a stop event, after a duration or when `left_s()` says that no time is left; waits end with it.

    Also a `Clock`, so that pauses between retries end too. An async context manager: it watches while it is entered.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        stop: asyncio.Event,
        duration_s: float | None = None,
        left_s: Callable[[], float] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._clock = clock
        self._stop = stop
        self._until_s = math.inf if duration_s is None else clock.monotonic_s() + duration_s
        self._left_s = left_s
        self._on_end = on_end
        self._ended = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._watcher is not None, "entered"
        self._watcher.cancel()
        await asyncio.wait({self._watcher})

    def why(self) -> Literal["stopped", "duration"] | None:
        """`stopped`, `duration`, or None: not ended."""
        if self._stop.is_set():
            return "stopped"
        return "duration" if self.left_s() <= 0.0 else None

    def left_s(self) -> float:
        """Seconds to the deadline, asked anew of whoever set one; infinite without."""
        left_s = self._until_s - self._clock.monotonic_s()
        return left_s if self._left_s is None else min(left_s, self._left_s())

    def now_ms(self) -> int:
        """The clock's wall time."""
        return self._clock.now_ms()

    def monotonic_s(self) -> float:
        """The clock's monotonic time."""
        return self._clock.monotonic_s()

    async def sleep(self, delay_s: float) -> None:
        """Wait so long, or until it ends."""
        if self._ended.is_set() or delay_s <= 0.0:
            await self._clock.sleep(0.0)
            return
        await _first_of(self._clock.sleep(delay_s), self._ended.wait())

    async def _watch(self) -> None:
        left_s = self.left_s()
        if math.isinf(left_s):
            await self._stop.wait()
        else:
            await _first_of(self._clock.sleep(left_s), self._stop.wait())
        self._ended.set()
        if self._on_end is not None:
            self._on_end()


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Until the first is done; the others are cancelled."""
    tasks = {asyncio.create_task(wait) for wait in waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
