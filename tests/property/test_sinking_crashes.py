"""Random crashes at the calls of store and log, on the real ones: nothing lost, nothing twice, the chain whole."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.testing.faults import Crashed
from cutbank.testing.taps import Call, TappedStore, TappedTransport
from sinking_world import World, anomaly, crashing, ids

T = TypeVar("T")

CRASHES = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 6)), max_size=6)
"""Lives of sinks that end in a crash: at which create, before or after it is done, and their records limit."""


async def live_and_die(folder: Path, batches: list[tuple[int, int]], crashes: list[tuple[int, bool, int]]) -> None:
    async with World(folder) as world:
        total = 0
        for size, minutes in batches:
            world.clock.jump_wall(60_000 * minutes)
            await world.publish(*(anomaly(n) for n in range(total, total + size)))
            await world.publish(anomaly(total))  # delivered again
            total += size
        for at, after, records_max in crashes:
            store = crashing(world, at=at, after=after)
            try:
                async with world.sinking(store=store, stretch_records_max=records_max) as running:
                    await world.until(world.all_committed, running)
            except Crashed:
                continue
        await world.sink_all()
        assert sorted(ids(await world.lines())) == list(range(total))
        await world.check_whole()


@settings(max_examples=25, deadline=None)
@given(batches=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), min_size=1, max_size=5), crashes=CRASHES)
def test_crashes_at_any_put_lose_and_repeat_nothing(
    batches: list[tuple[int, int]], crashes: list[tuple[int, bool, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live_and_die(Path(folder), batches, crashes))


class Dying:
    """Around a store and a log: the process dies at the `at`-th call (from 1), before it is done or after it."""

    CALLS = frozenset({"create", "read", "exists", "list", "receive", "commit", "fence"})

    def __init__(self, at: int, *, after: bool) -> None:
        self._left = at
        self._after = after

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if call.name not in self.CALLS:
            return await do()
        self._left -= 1
        if self._left == 0 and self._after:
            await do()
        if self._left <= 0:
            raise Crashed(f"{call.name} {call.subject}")
        return await do()


async def live_and_die_in_flight(
    folder: Path, records: int, deaths: list[tuple[int, bool, int]], retakes: list[int], **settings: int
) -> None:
    async with World(folder) as world:
        log = world.transport
        await world.publish(*(anomaly(n) for n in range(records)))
        await world.publish(anomaly(0))  # delivered again
        for at, after, records_max in deaths:
            dying = Dying(at, after=after)
            world.transport = TappedTransport(log, dying)
            try:
                async with world.sinking(
                    store=TappedStore(world.store, dying), stretch_records_max=records_max, **settings
                ) as running:
                    await world.until(world.all_committed, running, step_s=5.0)
            except Crashed:
                continue
            finally:
                world.transport = log
        for steps in retakes:
            # Its lease is lost: what it waits for just then is cancelled, wherever that is.
            async with world.sinking(stretch_records_max=max(2, records // 20), **settings) as running:
                for _ in range(steps):
                    await asyncio.sleep(0)
                running.task.cancel()
                await asyncio.wait({running.task})
                running.task = running.idle()
        await world.sink_all()
        assert sorted(ids(await world.lines())) == list(range(records))
        await world.check_whole()


@settings(max_examples=25, deadline=None)
@given(
    records=st.integers(8, 40),
    deaths=st.lists(st.tuples(st.integers(1, 60), st.booleans(), st.integers(1, 6)), max_size=5),
    retakes=st.lists(st.integers(0, 400), max_size=3),
)
def test_a_death_at_any_call_with_stretches_in_flight_and_more_read_ahead(
    records: int, deaths: list[tuple[int, bool, int]], retakes: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live_and_die_in_flight(Path(folder), records, deaths, retakes))


@settings(max_examples=10, deadline=None)
@given(
    deaths=st.lists(st.tuples(st.integers(1, 60), st.booleans(), st.integers(100, 600)), max_size=4),
    retakes=st.lists(st.integers(0, 400), max_size=2),
)
def test_a_death_at_any_call_while_a_batch_is_taken_and_the_next_one_read(
    deaths: list[tuple[int, bool, int]], retakes: list[int]
) -> None:
    """Batches of some 270 records, which are taken in a thread."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live_and_die_in_flight(Path(folder), 1200, deaths, retakes, held_bytes_max=1 << 20))
