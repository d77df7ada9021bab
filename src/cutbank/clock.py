"""Time as an argument. Code takes a `Clock`; tests pass `cutbank.testing.ManualClock`.

Wall time stamps what people read (ROWTIME on the local log, logs); durations and time-outs use monotonic time only.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since the epoch, UTC. May jump."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some start; never goes back."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait that long; 0 or less only yields to other tasks. Cancellable."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """`time.monotonic`."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(max(delay_s, 0.0))
