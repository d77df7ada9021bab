"""A lease's work starts, stops, starts again or is parked as its errors say, and its lease is always given back."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self, cast

import pytest

from cutbank.errors import (
    CutbankError,
    Fenced,
    OutcomeUnknown,
    PositionLost,
    StoreRefused,
    StoreUnavailable,
    StreamUnavailable,
)
from cutbank.metrics import NoMetrics
from cutbank.pipeline.partitions import PartitionRunner
from cutbank.records import Partition
from cutbank.testing import ManualClock
from cutbank.transports.base import Assigned, GroupEvent, Lease, Lost, Revoked

Work = Callable[[Lease, asyncio.Event], Awaitable[None]]


class Script:
    """A consumer that yields the assignments that a test writes, and notes what is given back."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[GroupEvent] = asyncio.Queue()
        self.released: list[str] = []
        self.left = False
        self.assign_when_released = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.left = True

    async def events(self) -> AsyncIterator[GroupEvent]:
        while True:
            yield await self.queue.get()

    def assign(self, number: int) -> Lease:
        lease = cast("Lease", ScriptLease(self, number))  # only what the runner itself calls
        self.queue.put_nowait(Assigned(lease))
        return lease


class ScriptLease:
    """A lease of which the runner knows the partition, and which it gives back."""

    def __init__(self, script: Script, number: int) -> None:
        self.partition = Partition("trades", str(number))
        self._script = script

    async def release(self) -> None:
        self._script.released.append(self.partition.id)
        if self._script.assign_when_released:
            self._script.assign_when_released = False
            self._script.assign(int(self.partition.id))


class Scene:
    """A runner at work on a manual clock."""

    def __init__(self, work: Work) -> None:
        self.clock = ManualClock()
        self.parked: list[Partition] = []
        """Where what runs while they are parked has begun and was not ended."""
        self.script = Script()
        self.stop = asyncio.Event()
        self.let_go: list[Partition] = []
        self.runner = PartitionRunner(
            cast("Any", self.script),
            work,
            role="scorer",
            clock=self.clock,
            metrics=NoMetrics(),
            rng=random.Random(1),
            while_parked=self._while_parked,
            on_released=self.let_go.append,
        )
        self.task = asyncio.create_task(self.runner.run(self.stop))

    async def _while_parked(self, lease: Lease) -> None:
        self.parked.append(lease.partition)
        try:
            await asyncio.Event().wait()
        finally:
            self.parked.remove(lease.partition)

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 5)
        assert self.script.left


async def until_stopped(_: Lease, stop: asyncio.Event) -> None:
    await stop.wait()


async def test_stopping_lets_every_partition_finish_and_gives_it_back() -> None:
    finished: list[str] = []

    async def work(lease: Lease, stop: asyncio.Event) -> None:
        await stop.wait()
        await asyncio.sleep(0)
        finished.append(lease.partition.id)

    scene = Scene(work)
    for number in range(3):
        scene.script.assign(number)
    await scene.clock.settle()
    assert scene.script.released == []
    await scene.end()
    assert sorted(finished) == sorted(scene.script.released) == ["0", "1", "2"]


async def test_a_revoked_partition_finishes_alone() -> None:
    scene = Scene(until_stopped)
    lease = scene.script.assign(0)
    scene.script.assign(1)
    scene.script.queue.put_nowait(Revoked(lease))
    await scene.clock.settle()
    assert scene.script.released == ["0"]
    await scene.end()
    assert scene.script.released == ["0", "1"]


async def test_a_revocation_of_an_old_lease_leaves_the_new_one_alone() -> None:
    scene = Scene(until_stopped)
    old = scene.script.assign(0)
    scene.script.queue.put_nowait(Revoked(old))
    scene.script.assign(0)
    scene.script.queue.put_nowait(Revoked(old))
    scene.script.queue.put_nowait(Lost(old))
    await scene.clock.settle()
    assert scene.script.released == ["0"]
    await scene.end()
    assert scene.script.released == ["0", "0"]


async def test_a_lost_partition_is_dropped_at_once() -> None:
    stopped_by: list[str] = []

    async def work(_: Lease, stop: asyncio.Event) -> None:
        try:
            await stop.wait()
            stopped_by.append("stop")
        except asyncio.CancelledError:
            stopped_by.append("cancelled")
            raise

    scene = Scene(work)
    lease = scene.script.assign(0)
    await scene.clock.settle()
    scene.script.queue.put_nowait(Lost(lease))
    await scene.clock.settle()
    assert stopped_by == ["cancelled"]
    assert scene.script.released == ["0"]
    await scene.end()


async def test_given_up_means_released_and_not_started_again() -> None:
    starts = 0

    async def work(_: Lease, __: asyncio.Event) -> None:
        nonlocal starts
        starts += 1
        raise Fenced("somebody else has it")

    scene = Scene(work)
    scene.script.assign(0)
    await scene.clock.advance(100.0)
    assert starts == 1
    assert scene.script.released == ["0"]
    await scene.end()


async def test_given_up_again_and_again_is_released_after_a_growing_pause() -> None:
    starts_s: list[float] = []

    async def work(_: Lease, stop: asyncio.Event) -> None:
        starts_s.append(scene.clock.monotonic_s())
        if len(starts_s) > 30:
            await stop.wait()
            return
        scene.script.assign_when_released = True
        raise Fenced("somebody else wants it too")

    scene = Scene(work)
    scene.script.assign(0)
    await scene.clock.settle()
    assert scene.script.released == []
    await scene.clock.advance(1_000.0)
    pauses_s = [after - before for before, after in itertools.pairwise(starts_s)]
    assert len(starts_s) == 31
    assert max(pauses_s) <= 10.0
    assert sum(pauses_s[:4]) < 1.6 < max(pauses_s)
    await scene.end()


async def test_given_up_long_after_the_last_time_pauses_shortly_again() -> None:
    pauses_s: list[float] = []

    async def work(_: Lease, __: asyncio.Event) -> None:
        if len(pauses_s) >= 10:
            await scene.clock.sleep(20.0)
        scene.script.assign_when_released = len(pauses_s) < 30
        pauses_s.append(scene.clock.monotonic_s())
        raise Fenced("somebody else wants it too")

    scene = Scene(work)
    scene.script.assign(0)
    await scene.clock.advance(2_000.0)
    assert len(pauses_s) == 31
    assert all(20.0 <= after - before <= 20.1 for before, after in itertools.pairwise(pauses_s[11:]))
    await scene.end()


async def test_the_pause_of_what_was_given_up_ends_when_it_is_to_stop() -> None:
    async def work(_: Lease, __: asyncio.Event) -> None:
        raise Fenced("somebody else has it")

    scene = Scene(work)
    lease = scene.script.assign(0)
    await scene.clock.settle()
    assert (scene.clock.sleepers, scene.script.released) == (1, [])
    scene.script.queue.put_nowait(Revoked(lease))
    await scene.clock.settle()  # no time passes
    assert scene.script.released == ["0"]
    await scene.end()


@pytest.mark.parametrize("error", [Fenced("given up"), PositionLost("parked"), StreamUnavailable("down"), None])
async def test_letting_go_of_a_partition_is_told_once_however_its_work_ended(error: CutbankError | None) -> None:
    async def work(_: Lease, stop: asyncio.Event) -> None:
        if error is not None:
            raise error
        await stop.wait()

    scene = Scene(work)
    scene.script.assign(0)
    await scene.clock.settle()
    assert scene.let_go == []
    await scene.end()
    assert scene.let_go == [Partition("trades", "0")]


@pytest.mark.parametrize("error", [StreamUnavailable("x"), StoreUnavailable("x"), OutcomeUnknown("x")])
async def test_a_passing_fault_starts_the_work_again_after_a_growing_pause(error: CutbankError) -> None:
    starts_s: list[float] = []

    async def work(_: Lease, stop: asyncio.Event) -> None:
        starts_s.append(scene.clock.monotonic_s())
        if len(starts_s) < 30:
            raise error
        await stop.wait()

    scene = Scene(work)
    scene.script.assign(0)
    await scene.clock.settle()
    assert starts_s == [0.0]
    await scene.clock.advance(1_000.0)
    pauses_s = [after - before for before, after in itertools.pairwise(starts_s)]
    assert len(starts_s) == 30
    assert max(pauses_s) <= 10.0
    assert sum(pauses_s[:4]) < 1.6 < max(pauses_s)
    assert scene.script.released == []
    await scene.end()


async def test_a_pause_ends_when_the_partition_is_to_stop() -> None:
    async def work(_: Lease, __: asyncio.Event) -> None:
        raise StreamUnavailable("down")

    scene = Scene(work)
    scene.script.assign(0)
    await scene.clock.settle()
    assert scene.clock.sleepers == 1
    await scene.end()  # no time passes
    assert scene.script.released == ["0"]


async def test_a_loud_stop_parks_its_partition_and_no_other() -> None:
    starts: list[str] = []

    async def work(lease: Lease, stop: asyncio.Event) -> None:
        starts.append(lease.partition.id)
        if lease.partition.id == "0":
            raise PositionLost("position 7 is past retention")
        await stop.wait()

    scene = Scene(work)
    scene.script.assign(0)
    scene.script.assign(1)
    await scene.clock.advance(100.0)
    assert starts == ["0", "1"]
    assert scene.runner.stopped == {Partition("trades", "0")}
    assert scene.parked == [Partition("trades", "0")]
    assert scene.script.released == []
    await scene.end()
    assert scene.runner.stopped == frozenset()
    assert scene.parked == []


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), StoreRefused("no permission")])
async def test_what_nobody_can_wait_out_ends_the_process_with_every_lease_given_back(error: Exception) -> None:
    async def work(lease: Lease, stop: asyncio.Event) -> None:
        if lease.partition.id == "1":
            raise error
        await stop.wait()

    scene = Scene(work)
    scene.script.assign(0)
    scene.script.assign(1)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(scene.task, 5)
    assert caught.value.exceptions == (error,)
    assert sorted(scene.script.released) == ["0", "1"]
    assert scene.script.left
