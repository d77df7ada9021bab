"""Stretches on their way into objects while the next one is read: rendered, claimed, put, committed, in their order.

One partition's, at most `FLIGHTS_MAX`, each a task that goes through these states:

    rendering      in a thread, beside the one before it, since bodies do not depend on what becomes of that
    waiting        until the one before it has landed; where that did not, this one ends as dropped
    claiming       from here on at most one of the partition, so its chain is written in order
    putting        the objects, then the commit of the claim's end
    landed         ours counts; or THEIRS: somebody else's claim does, and what was read ahead is read again; or failed

Invariant: claim, then objects, then commit, then the next claim; so a crash at any point leaves at most the newest
claim unfinished. Its bytes count in the budget from departure to the end, and are on their way out all that time.
Event-loop only; one task, the worker, calls these.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from cutbank.pipeline.sinking.budget import Budget, Holder
from cutbank.pipeline.sinking.chain import Chain
from cutbank.pipeline.sinking.claims import Claim
from cutbank.pipeline.sinking.gauges import Gauges
from cutbank.pipeline.sinking.reading import Reader
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Position

FLIGHTS_MAX = 2
"""Stretches of a partition that are on their way: one being rendered while another one is claimed and put."""


class Dropped(Exception):
    """It was not claimed, since the one before it did not land: its records are read again."""


class Flights:
    """One partition's."""

    def __init__(
        self,
        *,
        chain: Chain,
        reader: Reader,
        budget: Budget,
        gauges: Gauges,
        commit: Callable[[Position], Awaitable[None]],
    ) -> None:
        self._chain = chain
        self._reader = reader
        self._budget = budget
        self._gauges = gauges
        self._commit = commit
        self._flights: deque[asyncio.Task[Claim | None]] = deque()
        self.trouble = asyncio.Event()
        """Set when one has failed or somebody else's claim counts: `settle` says which."""

    def __len__(self) -> int:
        """How many are on their way, or ended with what `settle` has not said yet."""
        return len(self._flights)

    @property
    def full(self) -> bool:
        """Whether the next one has to wait for `room`."""
        return len(self._flights) >= FLIGHTS_MAX

    def depart(self, stretch: Stretch, holder: Holder) -> None:
        """Send a stretch off; what `holder` holds of it moves with it."""
        assert not self.full, "the worker waits for room"
        before = self._flights[-1] if self._flights else None
        cargo = self._budget.departing(holder)
        rendering = asyncio.ensure_future(self._reader.claim(stretch))
        flight = asyncio.create_task(self._fly(rendering, stretch.count, before, cargo))

        def ended(flight: "asyncio.Task[Claim | None]") -> None:
            if not flight.cancelled() and not _landed(flight):
                self.trouble.set()
            # A thread can't be cancelled: what it holds is held until it ends.
            rendering.add_done_callback(lambda _: self._budget.arrived(cargo))

        flight.add_done_callback(ended)
        self._flights.append(flight)

    async def room(self) -> None:
        """Wait until one more may depart, or there is trouble."""
        while self.full and not self.trouble.is_set():
            await asyncio.wait({self._flights[0]})
            self._clear_landed()

    async def land(self) -> None:
        """Wait until all have landed, or there is trouble and none goes on."""
        if self._flights:
            await asyncio.wait(self._flights)
            self._clear_landed()

    def settle(self) -> Claim | None:
        """What became of those that have ended: None when all is well; a claim: somebody else's counts.

        Raises what the first one that failed has raised.
        """
        self._clear_landed()
        for flight in self._flights:
            if flight.done():
                return flight.result()
        return None

    async def drop(self) -> None:
        """Give up what has not landed: nothing is lost, it is read again."""
        for flight in self._flights:
            flight.cancel()
        if self._flights:
            await asyncio.wait(self._flights)
        self._flights.clear()
        self.trouble.clear()

    def _clear_landed(self) -> None:
        while self._flights and _landed(self._flights[0]):
            self._flights.popleft()

    async def _fly(
        self,
        rendering: "asyncio.Future[tuple[Claim, list[bytes]]]",
        records: int,
        before: "asyncio.Task[Claim | None] | None",
        cargo: Holder,
    ) -> Claim | None:
        """None: landed. A claim: somebody else's counts."""
        with self._gauges.cutting(records):
            claim, bodies = await asyncio.shield(rendering)
            self._budget.hold(cargo, sum(map(len, bodies)))
            if before is not None:
                await asyncio.wait({before})
                if not _landed(before):
                    raise Dropped
            counts = await self._chain.append(claim)
            if counts != claim:
                return counts
            await self._chain.put(claim, bodies)
            # Last: a crash above finds the claim and finishes it; a lost commit repeats nothing.
            await self._commit(claim.end)
            return None


def _landed(flight: "asyncio.Task[Claim | None]") -> bool:
    """Whether it has ended, and ours counts."""
    return flight.done() and not flight.cancelled() and flight.exception() is None and flight.result() is None
