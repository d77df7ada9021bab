"""A clock that moves only when a test says so.

Event-loop only. `sleep` parks its task until `advance` has passed its time; sleepers wake in the order of their
times, and every task runs until it waits again before the next sleeper wakes.
"""

import asyncio
import heapq
import itertools

START_MS = 1_790_000_000_000
"""Where the wall clock starts: 2026-09-21T14:13:20Z."""

_SETTLE_ROUNDS = 20


class ManualClock:
    """A `Clock` under the test's control; wall and monotonic time can be moved apart with `jump_wall`."""

    def __init__(self, *, start_ms: int = START_MS) -> None:
        self._wall_offset_ms = float(start_ms)
        self._elapsed_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the epoch."""
        return int(self._wall_offset_ms + self._elapsed_s * 1000.0)

    def monotonic_s(self) -> float:
        """Seconds that `advance` has let pass."""
        return self._elapsed_s

    def jump_wall(self, delta_ms: int) -> None:
        """Move the wall clock alone, as an operator or NTP would."""
        self._wall_offset_ms += delta_ms

    @property
    def sleepers(self) -> int:
        """How many tasks wait for time to pass."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock has been advanced by `delay_s`."""
        if delay_s <= 0.0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + delay_s, next(self._order), future))
        await future

    @property
    def next_due_s(self) -> float | None:
        """When the next sleeper is to wake, on the monotonic clock; None without a sleeper."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def move_to(self, time_s: float) -> None:
        """Set the monotonic clock to `time_s` at once and wake all that is due by then; for event loops.

        Unlike `advance`, it lets nothing run in between: whoever calls it sees to that.
        """
        assert time_s >= self._elapsed_s, "time does not go back"
        self._elapsed_s = time_s
        while (due_s := self.next_due_s) is not None and due_s <= time_s:
            heapq.heappop(self._sleepers)[2].set_result(None)

    async def advance(self, seconds: float) -> None:
        """Let that much time pass; everything that is due wakes, in order, and runs until it waits again."""
        assert seconds >= 0.0, "time does not go back"
        until = self._elapsed_s + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, future = heapq.heappop(self._sleepers)
            self._elapsed_s = max(self._elapsed_s, due)
            if not future.done():
                future.set_result(None)
                await self.settle()
        self._elapsed_s = until
        await self.settle()

    async def settle(self) -> None:
        """Let every task that can run do so, some rounds of the loop; work in threads is not waited for."""
        for _ in range(_SETTLE_ROUNDS):
            await asyncio.sleep(0)
