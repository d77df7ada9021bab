"""The producer's schedule does not drift, bounds its bursts, and ends when told."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutbank.testing import ManualClock
from cutbank_producer.pace import CATCH_UP_S_MAX, Ending, Schedule


class TestSchedule:
    def test_a_place_in_time_does_not_move_with_late_calls(self) -> None:
        async def run() -> None:
            clock = ManualClock()
            schedule = Schedule(clock)
            assert schedule.wait_s(0.0) == 0.0
            for batch in range(1, 50):
                # Every batch takes 0.3 s of its second to publish; the places stay whole seconds.
                await clock.advance(0.3)
                wait_s = schedule.wait_s(float(batch))
                assert wait_s == pytest.approx(0.7)
                await clock.advance(wait_s)
            assert clock.monotonic_s() == pytest.approx(49.0)

        asyncio.run(run())

    def test_the_first_place_is_now_wherever_it_lies(self) -> None:
        assert Schedule(ManualClock()).wait_s(1_723_161_255.342) == 0.0

    async def test_a_short_stall_is_caught_up_in_full(self) -> None:
        clock = ManualClock()
        schedule = Schedule(clock)
        schedule.wait_s(0.0)
        await clock.advance(4.0)
        assert [schedule.wait_s(place) for place in (1.0, 2.0, 3.0, 4.0, 5.0)] == [0.0, 0.0, 0.0, 0.0, 1.0]

    async def test_of_a_long_stall_a_bounded_part_is_caught_up(self) -> None:
        clock = ManualClock()
        schedule = Schedule(clock)
        schedule.wait_s(0.0)
        await clock.advance(3600.0)
        at_once = 0
        while schedule.wait_s(1.0 + at_once) == 0.0:
            at_once += 1
        assert at_once == CATCH_UP_S_MAX + 1

    @given(
        steps=st.lists(st.tuples(st.floats(0, 30), st.floats(0.01, 10)), min_size=1, max_size=40),
    )
    def test_never_early_and_never_a_burst_over_the_bound(self, steps: list[tuple[float, float]]) -> None:
        """Whatever stalls: what went out since any moment is at most what time has passed, and the bound."""

        async def run() -> None:
            clock = ManualClock()
            schedule = Schedule(clock)
            schedule.wait_s(0.0)
            place, sent = 0.0, [(0.0, 0.0)]
            for stall_s, gap_s in steps:
                clock._elapsed_s += stall_s  # no task waits on this clock
                place += gap_s
                clock._elapsed_s += schedule.wait_s(place)
                sent.append((clock.monotonic_s(), place))
            for index, (earlier_s, earlier) in enumerate(sent):
                for later_s, later in sent[index:]:
                    assert later - earlier <= later_s - earlier_s + CATCH_UP_S_MAX + 1e-6

        asyncio.run(run())


class TestEnding:
    async def test_a_stop_wakes_a_sleep_and_tells_once(self) -> None:
        clock, stop, told = ManualClock(), asyncio.Event(), []
        async with Ending(clock=clock, stop=stop, on_end=lambda: told.append(1)) as ending:
            assert (ending.why(), ending.left_s()) == (None, math.inf)
            sleeping = asyncio.create_task(ending.sleep(3600.0))
            await clock.settle()
            assert not sleeping.done()
            stop.set()
            async with asyncio.timeout(10):
                await sleeping
            assert (ending.why(), told) == ("stopped", [1])

    async def test_the_duration_ends_it_on_monotonic_time(self) -> None:
        clock = ManualClock()
        async with Ending(clock=clock, stop=asyncio.Event(), duration_s=10.0) as ending:
            sleeping = asyncio.create_task(ending.sleep(3600.0))
            clock.jump_wall(3_600_000)
            await clock.advance(9.9)
            assert (sleeping.done(), ending.why()) == (False, None)
            await clock.advance(0.1)
            assert (sleeping.done(), ending.why()) == (True, "duration")

    async def test_whoever_says_that_less_time_is_left_counts(self) -> None:
        clock, left = ManualClock(), [100.0]
        async with Ending(clock=clock, stop=asyncio.Event(), duration_s=10.0, left_s=lambda: left[0]) as ending:
            assert ending.left_s() == 10.0
            left[0] = 3.0
            assert (ending.left_s(), ending.why()) == (3.0, None)
            left[0] = 0.0
            assert ending.why() == "duration"

    async def test_a_sleep_ends_by_itself_and_leaves_no_task(self) -> None:
        clock = ManualClock()
        async with Ending(clock=clock, stop=asyncio.Event()) as ending:
            sleeping = asyncio.create_task(ending.sleep(1.0))
            await clock.advance(1.0)
            assert sleeping.done()
        await clock.settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
