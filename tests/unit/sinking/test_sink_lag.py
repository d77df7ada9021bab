"""A sink's lag, while its store hangs: it grows, by what is held for the store too, and goes when the store is back."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from cutbank.testing import taps
from cutbank.testing.taps import Call
from sinking_world import World, anomaly

T = TypeVar("T")


def lag(world: World, what: str) -> float:
    return world.metrics.gauges[f"cutbank_lag_{what} sink anomalies/0"]


async def test_lag_grows_while_a_put_hangs(tmp_path: Path) -> None:
    hangs, back = asyncio.Event(), asyncio.Event()

    async def slow(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if call.name == "create" and not call.subject.startswith("_cutbank/"):
            hangs.set()
            await back.wait()
        return await do()

    async with World(tmp_path) as world:
        await world.publish(anomaly(0), anomaly(1), anomaly(2), minute=0)
        async with world.sinking(store=taps.TappedStore(world.store, slow)) as running:

            async def put_hangs() -> bool:
                return hangs.is_set()

            await world.until(put_hangs, running)
            await world.publish(anomaly(3), anomaly(4))

            async def told() -> bool:
                return lag(world, "records") == 5

            await world.until(told, running)
            seconds = lag(world, "seconds")
            await world.clock.advance(10.0)

            async def older() -> bool:
                # In between it may be 3: two wait in the open stretch, which is no lag, until they depart as well.
                return lag(world, "records") == 5 and lag(world, "seconds") >= seconds + 9.0

            await world.until(older, running)
            back.set()

            async def none() -> bool:
                return lag(world, "records") == lag(world, "seconds") == 0

            await world.until(none, running)
        await world.check_whole()
