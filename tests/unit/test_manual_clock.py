"""The manual clock wakes sleepers in order, and only when time passes."""

import asyncio

import pytest

from cutbank.clock import SystemClock
from cutbank.testing import ManualClock


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock, woken = ManualClock(), []

    async def sleeper(name: str, *delays_s: float) -> None:
        for delay_s in delays_s:
            await clock.sleep(delay_s)
            woken.append((name, clock.monotonic_s()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("a", 3.0, 1.0))
        group.create_task(sleeper("b", 1.0, 1.0, 1.0))
        await clock.advance(0.5)
        assert woken == []
        assert clock.sleepers == 2
        await clock.advance(10.0)
    assert woken == [("b", 1.0), ("b", 2.0), ("a", 3.0), ("b", 3.0), ("a", 4.0)]


async def test_wall_and_monotonic_time_move_apart_only_by_a_jump() -> None:
    clock = ManualClock(start_ms=1_000)
    await clock.advance(1.5)
    assert (clock.now_ms(), clock.monotonic_s()) == (2_500, 1.5)
    clock.jump_wall(-3_600_000)
    assert (clock.now_ms(), clock.monotonic_s()) == (2_500 - 3_600_000, 1.5)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1.0))
    await clock.settle()
    assert clock.sleepers == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0
    await clock.advance(2.0)
    assert clock.monotonic_s() == 2.0


async def test_the_system_clock_goes_forward() -> None:
    clock = SystemClock()
    before = clock.monotonic_s()
    await clock.sleep(-1.0)
    assert clock.monotonic_s() >= before
    assert clock.now_ms() > 1_700_000_000_000
