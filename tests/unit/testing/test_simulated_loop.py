"""Simulated time: passes at once, in order, the same in every process; what would hang is named."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cutbank.testing import ManualClock
from cutbank.testing.loop import TURNS_MAX, Stuck, simulate

DAY_S = 86_400.0


def test_time_passes_only_to_what_is_due() -> None:
    clock, seen = ManualClock(), []

    async def wait(name: str, *delays_s: float, by_timer: bool) -> None:
        for delay_s in delays_s:
            await (asyncio.sleep(delay_s) if by_timer else clock.sleep(delay_s))
            seen.append((name, asyncio.get_running_loop().time(), clock.now_ms()))

    async def main() -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait("timer", 3600.0, 7200.0, by_timer=True))
            group.create_task(wait("sleeper", 5000.0, 1000.0, by_timer=False))
        return "done"

    start_ms = clock.now_ms()
    assert simulate(main(), clock=clock) == "done"
    assert seen == [
        (name, seconds, start_ms + int(seconds * 1000))
        for name, seconds in [("timer", 3600.0), ("sleeper", 5000.0), ("sleeper", 6000.0), ("timer", 10_800.0)]
    ]


def test_time_goes_on_from_where_the_clock_stands() -> None:
    clock = ManualClock()
    for number in range(1, 4):
        simulate(clock.sleep(10.0), clock=clock)
        assert clock.monotonic_s() == 10.0 * number


def test_all_that_is_due_at_one_time_wakes_in_the_order_of_its_asking() -> None:
    clock, woken = ManualClock(), []

    async def wait(number: int) -> None:
        await clock.sleep(5.0)
        woken.append(number)

    async def main() -> None:
        await asyncio.gather(*map(wait, range(20)))

    simulate(main(), clock=clock)
    assert woken == list(range(20))
    assert clock.monotonic_s() == 5.0


def test_time_outs_are_simulated_too() -> None:
    clock = ManualClock()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60.0):
                await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(clock.sleep(1000.0), 1.0)

    simulate(main(), clock=clock)
    assert clock.monotonic_s() == pytest.approx(61.0)


def test_nothing_left_to_wait_for_is_said_and_named() -> None:
    ended: list[str] = []

    async def waits_for_nobody() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits_for_nobody(), name="the lonely one")

    with pytest.raises(Stuck, match="nothing is left to wait for; pending tasks: 2") as stuck:
        simulate(main(), clock=ManualClock())
    (line,) = (line for line in stuck.value.tasks if line.startswith("the lonely one: "))
    assert "waits_for_nobody" in line
    assert "in Event.wait" in line
    assert line in str(stuck.value)
    assert ended == ["cleaned up"]


def test_a_livelock_is_said() -> None:
    clock, turns = ManualClock(), 0

    async def main() -> None:
        nonlocal turns
        while True:
            turns += 1
            await clock.sleep(0.0)

    with pytest.raises(Stuck, match=r"no time passed[^$]*test_a_livelock_is_said"):
        simulate(main(), clock=clock)
    assert turns == pytest.approx(TURNS_MAX, abs=10)
    assert clock.monotonic_s() == 0.0


def test_many_turns_with_time_between_are_no_livelock() -> None:
    clock = ManualClock()

    async def main() -> None:
        for _ in range(TURNS_MAX // 80):
            for _ in range(100):
                await asyncio.sleep(0)
            await clock.sleep(0.001)

    simulate(main(), clock=clock)


def test_a_simulation_ends_after_its_seconds() -> None:
    clock = ManualClock()
    simulate(clock.sleep(DAY_S), clock=clock)

    async def main() -> None:
        while True:
            await clock.sleep(7.0)

    with pytest.raises(Stuck, match="not at its end after 100"):
        simulate(main(), clock=clock, seconds_max=100.0)
    assert DAY_S < clock.monotonic_s() <= DAY_S + 100.0


def test_what_is_left_is_cancelled_and_may_take_its_time() -> None:
    clock, seen = ManualClock(), []

    async def background() -> None:
        try:
            await clock.sleep(DAY_S * 365)
        finally:
            await clock.sleep(30.0)
            seen.append(clock.monotonic_s())

    async def main() -> int:
        task = asyncio.create_task(background())
        await clock.sleep(1.0)
        assert not task.done()
        return 7

    assert simulate(main(), clock=clock) == 7
    assert seen == [31.0]


def test_the_error_of_the_main_coroutine_is_raised_as_it_is() -> None:
    class Odd(BaseException):
        pass

    async def main() -> None:
        raise Odd

    with pytest.raises(Odd):
        simulate(main(), clock=ManualClock())


def test_threads_are_simulated() -> None:
    clock, ran_in = ManualClock(), []

    def work(number: int) -> int:
        ran_in.append(threading.get_ident())
        return 10 // number

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor() as pool:
            calls = [asyncio.to_thread(work, 5), loop.run_in_executor(pool, work, 2)]
            assert await asyncio.gather(*calls) == [2, 5]
            with pytest.raises(ZeroDivisionError):
                await loop.run_in_executor(pool, work, 0)
        given_up = loop.run_in_executor(None, work, 1)
        given_up.cancel()
        await clock.sleep(1.0)

    simulate(main(), clock=clock)
    assert ran_in == [threading.get_ident()] * 3


def test_a_call_in_a_thread_lets_others_run_before_it() -> None:
    seen: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(seen.append, "other")
        await asyncio.to_thread(seen.append, "thread")

    simulate(main(), clock=ManualClock())
    assert seen == ["other", "thread"]


def test_real_io_that_is_ready_goes_before_time() -> None:
    clock = ManualClock()

    async def main() -> None:
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            other.send(b"ready")
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(one, 10), 1.0) == b"ready"

    simulate(main(), clock=clock)
    assert clock.monotonic_s() == 0.0


def test_the_garbage_collector_rests_only_meanwhile() -> None:
    async def main() -> bool:
        return gc.isenabled()

    assert gc.isenabled()
    assert simulate(main(), clock=ManualClock()) is False
    assert gc.isenabled()


async def _sets_of_tasks(clock: ManualClock) -> list[str]:
    """The order in which sets of tasks and futures are walked through."""
    loop = asyncio.get_running_loop()
    keep = [bytearray(number % 97) for number in range(int(os.environ.get("PYTHONHASHSEED", "0")) * 1000)]
    tasks = [asyncio.create_task(clock.sleep(float(number % 5))) for number in range(60)]
    futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(60)]
    numbers = {future: str(number) for number, future in enumerate(futures)}
    seen = [numbers[future] for future in set(futures)]
    while tasks:
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        seen += [task.get_name() for task in done]
        tasks = list(pending)
        seen += [task.get_name() for task in tasks]
    del keep
    return seen


def _run_apart(hash_seed: int) -> str:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_simulated_loop import _sets_of_tasks\n"
        "from cutbank.testing import ManualClock\n"
        "from cutbank.testing.loop import simulate\n"
        "clock = ManualClock()\n"
        "print(simulate(_sets_of_tasks(clock), clock=clock))\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_sets_of_tasks_have_one_order_in_every_process() -> None:
    first = _run_apart(1)
    assert first.count("task-") >= 180
    assert first == _run_apart(29)


def test_two_simulations_in_one_process_are_the_same() -> None:
    def once() -> list[str]:
        clock = ManualClock()
        main: Coroutine[Any, Any, list[str]] = _sets_of_tasks(clock)
        return simulate(main, clock=clock)

    assert once() == once()


async def test_it_is_called_where_no_loop_runs() -> None:
    main = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="running event loop"):
        simulate(main, clock=ManualClock())
    main.close()


async def test_moving_the_clock_wakes_what_is_due_and_nothing_else() -> None:
    clock, woken = ManualClock(), []

    async def wait(delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append(delay_s)

    assert clock.next_due_s is None
    tasks = [asyncio.create_task(wait(delay_s)) for delay_s in (1.0, 2.0, 3.0, 4.0)]
    await clock.settle()
    assert clock.next_due_s == 1.0
    tasks[0].cancel()
    await clock.settle()
    assert clock.next_due_s == 2.0
    clock.move_to(3.0)
    assert (woken, clock.next_due_s) == ([], 4.0)
    await clock.settle()
    assert woken == [2.0, 3.0]
    with pytest.raises(AssertionError, match="time does not go back"):
        clock.move_to(2.0)
    clock.move_to(4.0)
    await asyncio.gather(*tasks, return_exceptions=True)
