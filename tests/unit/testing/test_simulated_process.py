"""A simulated process dies, stops and goes on as a real one does: what it has done stays, and it does nothing more."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from cutbank.errors import Fenced
from cutbank.testing import ManualClock
from cutbank.testing.faults import Crashed, Fault, Faults
from cutbank.testing.loop import simulate
from cutbank.testing.process import SimulatedProcess
from cutbank.testing.taps import Call

T = TypeVar("T")

HOUR_MS = 3_600_000


class World:
    """What lies outside processes: what was done in it stays."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.done: list[tuple[float, str]] = []

    async def do(self, what: str, *, takes_s: float = 0.0) -> str:
        """Something that takes its time before it is done and as long again until its answer is there."""
        await self.clock.sleep(takes_s)
        self.done.append((self.clock.monotonic_s(), what))
        await self.clock.sleep(takes_s)
        return f"answer to {what}"

    async def call(self, process: SimulatedProcess, what: str, *, takes_s: float = 0.0) -> str:
        return await process.around(Call(what, "s"), lambda: self.do(what, takes_s=takes_s))

    @property
    def names(self) -> list[str]:
        return [what for _, what in self.done]


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]:
    """Run on simulated time; nothing may be left over, and asyncio may not complain."""

    def run(main: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        async def whole(world: World) -> None:
            await main(world)
            assert asyncio.all_tasks() == {asyncio.current_task()}, "no task is left"

        clock = ManualClock()
        with caplog.at_level(logging.DEBUG, logger="asyncio"):
            simulate(whole(World(clock)), clock=clock)
        assert [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG] == []

    return run


Run = Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]


def service(world: World, process: SimulatedProcess) -> Coroutine[Any, Any, None]:
    """Like ours: a task a partition, a background task of nobody, and a release that is shielded from cancellation."""

    async def partition(name: str) -> None:
        try:
            background = asyncio.create_task(process.clock.sleep(1e6))
            while True:
                await world.call(process, f"work {name}")
                await process.clock.sleep(1.0)
        finally:
            try:
                await asyncio.shield(world.call(process, f"release {name}"))
            finally:
                background.cancel()
                await world.call(process, f"farewell {name}")

    async def orphan() -> None:
        while True:
            try:
                await process.clock.sleep(0.5)
                await world.call(process, "orphan")
            except Exception:  # noqa: BLE001, S112  # what a service might do: its death is no Exception
                continue

    async def main() -> None:
        keep = asyncio.create_task(orphan())
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b"):
                group.create_task(partition(name))
        await keep

    return main()


def test_killed_from_outside_it_does_nothing_more(run: Run) -> None:
    async def main(world: World) -> None:
        process = SimulatedProcess("sink", world.clock)
        task = process.start(service(world, process))
        await world.clock.sleep(2.75)
        before = list(world.done)
        assert world.names.count("work a") == 3
        assert world.names.count("orphan") == 5
        process.kill()
        await process.ended()
        await world.clock.sleep(100.0)
        assert world.done == before
        assert task.done()
        assert not process.alive

    run(main)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 3])
def test_killed_at_a_call_it_does_nothing_more(run: Run, nth: int, *, after: bool) -> None:
    async def main(world: World) -> None:
        faults = Faults(clock=world.clock)
        process = SimulatedProcess("sink", world.clock, faults=faults)
        faults_of_others = SimulatedProcess("other", world.clock, faults=faults)
        rule = process.crash_at("create", nth=nth, after=after)

        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(service(world, process))
                while True:
                    await world.call(process, "create")
                    await process.clock.sleep(1.0)

        process.start(work())
        await world.call(faults_of_others, "create")
        await process.ended()
        done = list(world.done)
        assert world.names.count("create") == 1 + nth - 1 + after
        assert not {name for name in world.names if name.startswith(("release", "farewell"))}
        assert rule.struck == 1
        await world.clock.sleep(100.0)
        assert world.done == done
        assert [event.what for event in faults.history][-2:] == ["crash after" if after else "crash before", "killed"]

    run(main)


@pytest.mark.parametrize(("killed_s", "done"), [(0.5, []), (1.5, ["put"])])
def test_killed_in_the_middle_of_a_call_what_was_done_stays_and_nobody_learns_of_it(
    run: Run, killed_s: float, done: list[str]
) -> None:
    async def main(world: World) -> None:
        process = SimulatedProcess("sink", world.clock)
        answers: list[str] = []

        async def work() -> None:
            answers.append(await world.call(process, "put", takes_s=1.0))

        process.start(work())
        await world.clock.sleep(killed_s)
        process.kill()
        await process.ended()
        await world.clock.sleep(10.0)
        assert (world.names, answers) == (done, [])

    run(main)


def test_an_outsider_waiting_in_a_dead_process_learns_that_it_is_dead(run: Run) -> None:
    async def main(world: World) -> None:
        process = SimulatedProcess("sink", world.clock)
        calling = asyncio.create_task(world.call(process, "put", takes_s=1.0))
        sleeping = asyncio.create_task(process.clock.sleep(1.0))
        await asyncio.sleep(0)
        process.kill()
        for task in (calling, sleeping):
            with pytest.raises(Crashed, match="sink is dead"):
                await task
        assert world.names == ["put"]
        with pytest.raises(Crashed):
            await world.call(process, "put")
        with pytest.raises(Crashed):
            await process.clock.sleep(0.0)
        with pytest.raises(Crashed):
            process.start(world.do("more"))
        assert world.names == ["put"]

    run(main)


def test_a_task_that_it_makes_while_dying_does_not_begin(run: Run) -> None:
    async def main(world: World) -> None:
        process = SimulatedProcess("sink", world.clock)

        async def work() -> None:
            try:
                await process.clock.sleep(10.0)
            finally:
                await asyncio.create_task(world.do("behind the gate's back"))

        process.start(work())
        await world.clock.sleep(1.0)
        process.kill()
        await process.ended()
        assert world.done == []

    run(main)


def test_a_task_that_can_not_be_ended_is_named(run: Run) -> None:
    async def main(world: World) -> None:
        process = SimulatedProcess("sink", world.clock)
        freed = asyncio.Event()

        async def stubborn() -> None:
            while not freed.is_set():
                try:
                    await freed.wait()
                except asyncio.CancelledError:
                    continue

        process.start(stubborn(), name="stubborn")
        await world.clock.sleep(1.0)
        process.kill()
        with pytest.raises(AssertionError, match=r"outlive the kill of sink: .*sink stubborn"):
            await process.ended()
        freed.set()
        await process.ended()

    run(main)


def test_frozen_it_learns_of_nothing_and_begins_nothing_but_the_world_goes_on(run: Run) -> None:
    async def main(world: World) -> None:
        process = SimulatedProcess("sink", world.clock)
        learnt: list[tuple[float, str]] = []

        async def caller() -> None:
            for what in ("first", "second"):
                learnt.append((process.clock.monotonic_s(), await world.call(process, what, takes_s=1.0)))
                learnt[-1] = (process.clock.monotonic_s(), learnt[-1][1])

        async def sleeper() -> None:
            await process.clock.sleep(3.0)
            learnt.append((process.clock.monotonic_s(), "slept"))
            await process.clock.sleep(3.0)
            learnt.append((process.clock.monotonic_s(), "slept again"))

        process.start(caller())
        process.start(sleeper(), name="sleeper")
        await world.clock.sleep(0.5)
        process.freeze()
        await world.clock.sleep(59.5)
        assert (world.done, learnt) == ([(1.0, "first")], []), "what was asked for is done, its answer waits"
        assert process.frozen
        process.resume()
        await process.ended()
        assert sorted(learnt) == [
            (60.0, "answer to first"),
            (60.0, "slept"),
            (62.0, "answer to second"),
            (63.0, "slept again"),
        ]
        assert world.done == [(1.0, "first"), (61.0, "second")]

    run(main)


def test_an_error_too_is_an_answer_that_waits(run: Run) -> None:
    async def main(world: World) -> None:
        frozen, killed = (SimulatedProcess(name, world.clock) for name in ("frozen", "killed"))

        async def refuse() -> None:
            await world.clock.sleep(1.0)
            raise Fenced("somebody else's")

        calls = [asyncio.create_task(process.around(Call("commit", "s"), refuse)) for process in (frozen, killed)]
        await world.clock.sleep(0.5)
        frozen.freeze()
        killed.kill()
        await world.clock.sleep(9.5)
        assert [call.done() for call in calls] == [False, True]
        frozen.resume()
        with pytest.raises(Fenced):
            await calls[0]
        with pytest.raises(Crashed):
            await calls[1]
        assert world.clock.monotonic_s() == 10.0

    run(main)


def test_killed_while_frozen_it_dies_without_a_word(run: Run) -> None:
    async def main(world: World) -> None:
        process = SimulatedProcess("sink", world.clock)
        process.start(service(world, process))
        await world.clock.sleep(2.75)
        process.freeze()
        done = list(world.done)
        await world.clock.sleep(60.0)
        process.kill()
        process.resume()
        await process.ended()
        assert world.done == done

    run(main)


def test_frozen_again_before_it_could_run_it_still_stands(run: Run) -> None:
    async def main(world: World) -> None:
        process = SimulatedProcess("sink", world.clock)
        process.freeze()
        calling = process.start(world.call(process, "put"))
        await world.clock.sleep(1.0)
        process.resume()
        process.freeze()
        await world.clock.sleep(1.0)
        assert world.done == []
        process.resume()
        assert await calling == "answer to put"
        assert [event.what for event in process.faults.history] == [
            "frozen",
            "started",
            *["resumed", "frozen"],
            "resumed",
            "ended: sink main",
        ]
        await process.ended()

    run(main)


def test_its_wall_clock_is_wrong_and_nothing_else(run: Run) -> None:
    async def main(world: World) -> None:
        process = SimulatedProcess("sink", world.clock, wall_offset_ms=-HOUR_MS)
        await process.clock.sleep(2.5)
        assert process.clock.now_ms() == world.clock.now_ms() - HOUR_MS
        assert process.clock.monotonic_s() == world.clock.monotonic_s() == 2.5

    run(main)


def test_the_end_of_a_living_process_raises_what_ended_it(run: Run) -> None:
    async def main(world: World) -> None:
        well = SimulatedProcess("well", world.clock)
        task = well.start(world.call(well, "put"))
        await well.ended()
        assert task.result() == "answer to put"
        assert well.alive

        async def fails() -> None:
            await ill.clock.sleep(1.0)
            raise ValueError("a bug")

        ill = SimulatedProcess("ill", world.clock)
        ill.start(fails())
        await world.clock.sleep(2.0)
        ill.kill()
        with pytest.raises(ValueError, match="a bug"):
            await ill.ended()
        assert "ended: ill main, ValueError('a bug')" in [event.what for event in ill.faults.history]

    run(main)


def test_a_delay_by_a_fault_is_the_processs_own_sleep(run: Run) -> None:
    async def main(world: World) -> None:
        faults = Faults(clock=world.clock)
        faults.at("create", fault=Fault.delay(5.0), times=None)
        frozen, killed = (SimulatedProcess(name, world.clock, faults=faults) for name in ("frozen", "killed"))
        for process in (frozen, killed):
            process.start(world.call(process, "create"))
        await world.clock.sleep(1.0)
        frozen.freeze()
        killed.kill()
        await world.clock.sleep(9.0)
        assert world.done == []
        frozen.resume()
        await frozen.ended()
        await killed.ended()
        assert world.done == [(10.0, "create")]

    run(main)


def test_processes_are_apart_even_when_one_starts_the_other(run: Run) -> None:
    async def main(world: World) -> None:
        parent, child = (SimulatedProcess(name, world.clock) for name in ("parent", "child"))

        async def work() -> None:
            child.start(service(world, child))
            await world.call(parent, "put", takes_s=100.0)

        parent.start(work())
        await world.clock.sleep(1.0)
        parent.kill()
        await parent.ended()
        await world.clock.sleep(5.0)
        assert world.done[-1][0] > 5.0, "the child goes on"
        child.kill()
        await child.ended()

    run(main)
