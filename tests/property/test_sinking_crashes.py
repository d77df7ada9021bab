"""Random crashes at the store's calls, on the real log and store: nothing lost, nothing twice, the chain whole."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.testing.faults import Crashed
from sinking_world import World, anomaly, crashing, ids

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
