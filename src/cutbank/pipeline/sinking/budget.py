"""One byte limit for everything that a sink holds, whatever the number of partitions. Owns the count, no bytes.

Invariant: nobody reads on while the records held reach the ceiling: what each partition may receive in one call is
set aside from the limit beforehand. Who needs room has the largest holders cut their stretches early, and waits:
back-pressure. What has been cut and is on its way into objects counts until it is there.
Waiters are served in order, so a large claim to be finished is not overtaken for ever.
A single stretch larger than the limit is let in when it is alone, so any claim can be finished by any process.
Event-loop only.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

READ_BYTES_MIN = 8 << 10
READ_BYTES_MAX = 4 << 20
"""Bounds of what one call of `receive` asks for, bytes."""

_READ_SHARE = 20  # all partitions' reads together: at most this part of the limit
_READ_FACTOR = 5  # memory that a received byte may take, until it is counted, and one that was read ahead


class Holder:
    """One partition's part of what is held."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.busy = False
        """It is making its bytes go away already; nobody needs to ask."""
        self.squeezed = asyncio.Event()
        """Set: cut the stretch now, others need room."""


class Budget:
    """Counts what all partitions hold, and makes room."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._holders: set[Holder] = set()
        self._departed: set[Holder] = set()
        self._gate = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        """What all hold now."""
        return sum(holder.held_bytes for holder in (*self._holders, *self._departed))

    @property
    def read_bytes(self) -> int:
        """What one call of `receive` should ask for, given the partitions held now."""
        fair = self._bytes_max // (_READ_SHARE * max(1, len(self._holders)))
        return max(READ_BYTES_MIN, min(READ_BYTES_MAX, fair))

    @property
    def ceiling_bytes(self) -> int:
        """What records may take before reading stops: the limit without what all may be about to receive."""
        return max(self._bytes_max // 2, self._bytes_max - _READ_FACTOR * self.read_bytes * len(self._holders))

    @property
    def has_room(self) -> bool:
        """Whether `room` would not wait."""
        return self.held_bytes < self.ceiling_bytes and not self._gate.locked()

    @contextmanager
    def holder(self) -> Iterator[Holder]:
        """A new holder; what it holds counts as freed when it leaves."""
        holder = Holder()
        self._holders.add(holder)
        try:
            yield holder
        finally:
            self._holders.discard(holder)
            self._freed.set()

    def departing(self, holder: Holder) -> Holder:
        """What it holds, apart and on its way out, so that it can go on reading: a holder until `arrived`."""
        departed = Holder()
        departed.busy = True
        departed.held_bytes, holder.held_bytes = holder.held_bytes, 0
        self._departed.add(departed)
        return departed

    def arrived(self, departed: Holder) -> None:
        """Nothing is left of it."""
        self._departed.discard(departed)
        self._freed.set()

    def hold(self, holder: Holder, held_bytes: int) -> None:
        """It holds so much now."""
        if held_bytes < holder.held_bytes:
            self._freed.set()
        holder.held_bytes = held_bytes

    async def room(self, wanted_bytes: int = 1) -> None:
        """Wait until so much more fits, or nothing is held at all. Cancellable.

        A holder that waits here has to watch its own `squeezed` too: it may be the largest.
        """
        async with self._gate:
            while (excess := self.held_bytes + wanted_bytes - self.ceiling_bytes) > 0 and self.held_bytes:
                self._freed.clear()
                self._squeeze(excess)
                await self._freed.wait()

    def _squeeze(self, excess_bytes: int) -> None:
        """Ask the largest, and no more of them than needed."""
        idle = []
        for holder in (*self._holders, *self._departed):
            if holder.busy or holder.squeezed.is_set():
                excess_bytes -= holder.held_bytes
            elif holder.held_bytes:
                idle.append(holder)
        for holder in sorted(idle, key=lambda each: each.held_bytes, reverse=True):
            if excess_bytes <= 0:
                return
            holder.squeezed.set()
            excess_bytes -= holder.held_bytes
