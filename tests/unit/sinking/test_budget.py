"""One byte limit for all partitions: who is asked for room, who waits, who is let in alone."""

import asyncio
import random
from pathlib import Path

import pytest

from cutbank.errors import StoreRefused, UsageError
from cutbank.pipeline.sinking import SinkConfig, run_sink
from cutbank.pipeline.sinking.budget import READ_BYTES_MAX, READ_BYTES_MIN, Budget
from cutbank.pipeline.sinking.patience import Interrupted, unless
from cutbank.testing.faults import Fault
from cutbank.transports.base import StreamConfig
from sinking_world import PIPELINE, STREAM, Counted, Faulty, World, anomaly, ids

MIB = 1 << 20


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_room_is_given_at_once_below_the_ceiling() -> None:
    budget = Budget(bytes_max=16 * MIB)
    with budget.holder() as one:
        budget.hold(one, budget.ceiling_bytes - 1)
        await asyncio.wait_for(budget.room(), 1)
        assert not one.squeezed.is_set()


async def test_the_largest_is_asked_and_no_more_than_needed() -> None:
    budget = Budget(bytes_max=16 * MIB)
    with budget.holder() as small, budget.holder() as large, budget.holder() as middle:
        budget.hold(small, 2 * MIB)
        budget.hold(middle, 3 * MIB)
        budget.hold(large, 7 * MIB)
        waiting = asyncio.ensure_future(budget.room(4 * MIB))
        await settle()
        assert [holder.squeezed.is_set() for holder in (small, middle, large)] == [False, False, True]
        assert not waiting.done()
        budget.hold(large, 0)
        await asyncio.wait_for(waiting, 1)


async def test_one_that_is_busy_putting_is_waited_for_not_asked() -> None:
    budget = Budget(bytes_max=16 * MIB)
    with budget.holder() as busy, budget.holder() as idle:
        busy.busy = True
        budget.hold(busy, 12 * MIB)
        budget.hold(idle, 3 * MIB)
        waiting = asyncio.ensure_future(budget.room(2 * MIB))
        await settle()
        assert not busy.squeezed.is_set()
        assert not idle.squeezed.is_set(), "what the busy one frees is enough"
        budget.hold(busy, 0)
        await asyncio.wait_for(waiting, 1)


async def test_more_than_the_limit_is_let_in_alone() -> None:
    budget = Budget(bytes_max=16 * MIB)
    with budget.holder():
        await asyncio.wait_for(budget.room(500 * MIB), 1)
        with budget.holder() as other:
            budget.hold(other, 1)
            waiting = asyncio.ensure_future(budget.room(500 * MIB))
            await settle()
            assert other.squeezed.is_set()
            assert not waiting.done()
        await asyncio.wait_for(waiting, 1)


async def test_a_large_wish_is_not_overtaken_by_small_ones() -> None:
    budget = Budget(bytes_max=16 * MIB)
    with budget.holder() as one:
        budget.hold(one, 8 * MIB)
        large = asyncio.ensure_future(budget.room(12 * MIB))
        await settle()
        small = asyncio.ensure_future(budget.room(1))
        await settle()
        assert not small.done()
        budget.hold(one, 0)
        await asyncio.wait_for(asyncio.gather(large, small), 1)


async def test_who_gives_up_waiting_leaves_the_gate_open() -> None:
    budget = Budget(bytes_max=16 * MIB)
    with budget.holder() as one:
        budget.hold(one, 15 * MIB)
        with pytest.raises(Interrupted):
            await unless(budget.room(4 * MIB), one.squeezed)
        budget.hold(one, 0)
        await asyncio.wait_for(budget.room(), 1)


@pytest.mark.parametrize("partitions", [1, 4, 64, 1000])
def test_reads_take_a_bounded_part_of_the_limit(partitions: int) -> None:
    budget = Budget(bytes_max=256 * MIB)
    holders = [budget.holder() for _ in range(partitions)]
    for holder in holders:
        holder.__enter__()
    assert READ_BYTES_MIN <= budget.read_bytes <= READ_BYTES_MAX
    assert budget.ceiling_bytes >= 192 * MIB
    assert budget.ceiling_bytes + 5 * partitions * budget.read_bytes <= 256 * MIB


async def test_a_call_that_was_done_all_the_same_is_not_lost() -> None:
    event = asyncio.Event()

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done"
        return "never"

    waiting = asyncio.ensure_future(unless(stubborn(), event))
    await settle()
    event.set()
    assert await waiting == "done"


async def test_an_interrupted_call_is_over_before_its_caller_goes_on() -> None:
    event, over = asyncio.Event(), []

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            over.append(1)

    waiting = asyncio.ensure_future(unless(tidy(), event))
    await settle()
    event.set()
    with pytest.raises(Interrupted):
        await waiting
    assert over == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"stretch_bytes_max": 0},
        {"stretch_bytes_max": (128 << 20) + 1},
        {"stretch_records_max": 0},
        {"held_bytes_max": 1000},
        {"grace_ms": -1},
    ],
)
def test_limits_have_limits(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SinkConfig(pipeline="p", stream="s", **wrong)  # type: ignore[arg-type]


async def run_until_sunk(world: World, records: int, *, held_bytes_max: int, store: Faulty | None = None) -> int:
    """`run_sink` on all partitions until all are in objects; the records of the largest claim."""
    stop, metrics = asyncio.Event(), Counted()
    reports: dict[str, bool] = {}
    config = SinkConfig(pipeline=PIPELINE, stream=STREAM, held_bytes_max=held_bytes_max)
    task = asyncio.ensure_future(
        run_sink(
            world.transport,
            store or world.store,
            config,
            clock=world.clock,
            metrics=metrics,
            stop=stop,
            rng=random.Random(1),
            ready=lambda name, ok, _why: reports.__setitem__(name, ok),
        )
    )

    async def done() -> bool:
        if task.done():
            task.result()
        return sum(claim.records for claim in await world.claims()) == records

    await world.until(done)
    assert metrics.gauges["cutbank_partitions_held sink"] == world.partitions
    assert reports == {"store": True, "transport": True}
    stop.set()
    async with asyncio.timeout(30):
        while not task.done():
            await world.clock.advance(0.1)
    task.result()
    return max(claim.records for claim in await world.claims())


async def test_many_partitions_share_a_small_limit(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.partitions = 5
    async with world:
        padding = b" " * 300
        for partition in range(5):
            for first in range(0, 2000, 500):
                values = [anomaly(n) + padding for n in range(first, first + 500)]
                await world.publish(*values, partition=str(partition), minute=0)
        largest = await run_until_sunk(world, 10_000, held_bytes_max=1 << 20)
        assert largest < 2000, "the limit cut stretches early, or the test shows nothing"
        assert sorted(ids(await world.lines())) == sorted(list(range(2000)) * 5)
        await world.check_whole()


async def test_a_store_that_is_away_at_the_start_is_waited_for_and_one_that_is_wrong_is_not(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    stop = asyncio.Event()
    store = Faulty(world)
    away = store.faults.at("probe", fault=Fault.FAIL, times=None)
    config = SinkConfig(pipeline=PIPELINE, stream=STREAM)

    def sink() -> "asyncio.Future[None]":
        call = run_sink(
            world.transport, store, config, clock=world.clock, metrics=Counted(), stop=stop, rng=random.Random(1)
        )
        return asyncio.ensure_future(call)

    async def probed_often() -> bool:
        return away.struck > 3

    task = sink()
    await world.until(probed_often)
    assert not task.done()
    stop.set()
    await asyncio.wait_for(task, 10)

    async def refuse() -> None:
        raise StoreRefused("no permission")

    store.probe = refuse  # type: ignore[method-assign]
    stop.clear()
    with pytest.raises(StoreRefused, match="no permission"):
        await sink()


async def test_a_missing_stream_is_waited_for_so_long(world: World) -> None:
    config = SinkConfig(pipeline=PIPELINE, stream="later", stream_wait_s=10.0)
    stop = asyncio.Event()

    def sink() -> "asyncio.Future[None]":
        call = run_sink(
            world.transport, world.store, config, clock=world.clock, metrics=Counted(), stop=stop, rng=random.Random(1)
        )
        return asyncio.ensure_future(call)

    async def over() -> bool:
        return task.done()

    task = sink()
    await world.until(over)
    with pytest.raises(UsageError, match="'later' did not appear within 10 s"):
        task.result()
    assert world.clock.monotonic_s() >= 10.0

    async def member() -> bool:
        return await world.store.exists("_cutbank/p/later/0/birth")

    task = sink()
    await world.clock.advance(1)
    await world.transport.ensure(StreamConfig("later"))
    await world.until(member)
    stop.set()
    await world.until(over)
    task.result()
