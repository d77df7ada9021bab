"""What is cut is on its way into objects while the next records are read: order, bounds, and every way it can end."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Self, TypeVar

import pytest

from cutbank.errors import CutbankError, Fenced, PositionLost, StoreRefused
from cutbank.pipeline.sinking.budget import Budget
from cutbank.pipeline.sinking.flight import FLIGHTS_MAX
from cutbank.pipeline.sinking.reading import IN_THREAD_RECORDS
from cutbank.records import Batch
from cutbank.testing.faults import Crashed, Fault
from cutbank.testing.taps import Call, TappedStore, TappedTransport
from sinking_world import CHAIN, Faulty, Gate, Running, World, anomaly, crashing, ids

T = TypeVar("T")

CLAIM = CHAIN.prefix + "F"
OBJECT = "2026"
SIZE = 5
"""Records of a stretch here."""
MANY = 1500
"""Records of several large batches."""


class Order:
    """Around a store and a transport: the writes in the order in which they begin and end."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if call.name not in ("create", "commit"):
            return await do()
        name = call.name if call.name == "commit" else "claim" if call.subject.startswith(CLAIM) else "object"
        self.calls.append(name)
        await asyncio.sleep(0)
        result = await do()
        self.calls.append(f"{name} done")
        return result


class Receives:
    """Around a transport: the sizes of the batches that were read, and whether one was read right after another."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    @property
    def total(self) -> int:
        return sum(self.sizes)

    @property
    def at_once(self) -> bool:
        return len(self.sizes) >= 2

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        result = await do()
        if call.name == "receive" and isinstance(result, Batch) and len(result):
            self.sizes.append(len(result))
        return result


async def landed(world: World, running: Running) -> None:
    """All is committed, and no longer held: that ends a moment after the commit is seen."""

    async def all_landed() -> bool:
        return await world.all_committed() and running.sink.held_bytes == 0

    await world.until(all_landed, running)


class Failing:
    """Around a store or a transport: from `begin` on, this call ends with this error."""

    def __init__(self, name: str, error: CutbankError, *, part: str = "") -> None:
        self.name, self.error, self.part = name, error, part
        self.begun = False

    def begin(self) -> Self:
        self.begun = True
        return self

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if self.begun and call.name == self.name and self.part in call.subject:
            raise self.error
        return await do()


async def fails_with(running: Running, error: type[CutbankError]) -> None:
    """It ends so; the one who leaves `sinking` need not meet it again."""
    with pytest.raises(error):
        await running.ended()
    running.task = running.idle()


async def fill(world: World, stretches: int) -> list[int]:
    numbers = list(range(stretches * SIZE))
    await world.publish(*map(anomaly, numbers), minute=0)
    return numbers


async def until_read_ahead(world: World, running: Running, gate: Gate) -> None:
    """One waits in the store, one waits for it, and the open stretch is full."""

    async def full() -> bool:
        return gate.reached.is_set() and world.metrics.gauges.get(LAG, 0) == SIZE * 2

    await world.until(full, running)


LAG = "cutbank_lag_records sink anomalies/0"


async def test_claim_then_object_then_commit_and_only_then_the_next_claim(world: World) -> None:
    await fill(world, 6)
    order = Order()
    world.transport = TappedTransport(world.transport, order)
    await world.sink_all(store=TappedStore(world.store, order), stretch_records_max=SIZE)
    one = ["claim", "claim done", "object", "object done", "commit", "commit done"]
    writes = order.calls[order.calls.index("claim") :]
    assert writes == one * 6


async def test_reading_goes_on_while_a_put_hangs_but_no_further_than_two_stretches_and_an_open_one(
    world: World,
) -> None:
    numbers = await fill(world, 10)
    gate = Gate(OBJECT)
    async with world.sinking(store=TappedStore(world.store, gate), stretch_records_max=SIZE) as running:
        await until_read_ahead(world, running, gate)
        for _ in range(5):
            await world.clock.advance(10)
        assert world.metrics.gauges[LAG] == SIZE * FLIGHTS_MAX, "what is in flight is lag still"
        assert len(await world.claims()) == 1, "one claim in flight"
        gate.open.set()
        await world.until(world.all_committed, running)
    assert sorted(ids(await world.lines())) == numbers
    await world.check_whole()


@pytest.mark.parametrize("flush", [False, True])
async def test_a_stop_lets_what_is_in_flight_land_and_flushes_the_rest_if_told(world: World, *, flush: bool) -> None:
    numbers = await fill(world, 4)
    gate = Gate(OBJECT)
    store = TappedStore(world.store, gate)
    async with world.sinking(store=store, stretch_records_max=SIZE, flush_on_stop=flush) as running:
        await until_read_ahead(world, running, gate)
        running.stop.set()
        await world.clock.advance(1)
        assert not running.task.done()
        gate.open.set()
    landed = len(numbers) if flush else SIZE * FLIGHTS_MAX
    assert sorted(ids(await world.lines())) == numbers[:landed]
    assert await world.committed() == landed
    await world.check_whole()


async def test_a_stop_while_the_store_is_away_leaves_one_claim_at_most_and_everything_to_the_next(world: World) -> None:
    numbers = await fill(world, 4)
    store = Faulty(world)
    away = store.faults.at("create", subject_contains=OBJECT, fault=Fault.FAIL, times=None)

    async def refused() -> bool:
        return away.struck > 2

    async with world.sinking(store=store, stretch_records_max=SIZE, flush_on_stop=True) as running:
        await world.until(refused, running)
    assert await world.objects() == {}
    assert len(await world.claims()) == 1
    await world.sink_all()
    assert sorted(ids(await world.lines())) == numbers
    await world.check_whole()


@pytest.mark.parametrize("part", [CLAIM, OBJECT])
async def test_a_claim_of_somebody_else_drops_what_was_read_ahead(world: World, part: str) -> None:
    """One waits before its claim (which another takes) or before its object, with more read ahead behind it."""
    numbers = await fill(world, 6)
    gate = Gate(part)
    async with world.sinking(store=TappedStore(world.store, gate), stretch_records_max=SIZE) as running:
        await until_read_ahead(world, running, gate)
        await world.sink_all(group="another", stretch_records_max=SIZE + 2)
        before = await world.objects()
        gate.open.set()
        await landed(world, running)
    assert await world.objects() == before
    adopted = world.metrics.counts["cutbank_claims_adopted_total"]
    assert adopted >= 1
    assert sorted(ids(await world.lines())) == numbers
    await world.check_whole()


@pytest.mark.parametrize("part", [CLAIM, OBJECT])
async def test_a_claim_of_somebody_else_drops_a_batch_that_was_read_while_another_was_taken(
    world: World, part: str
) -> None:
    """Batches so large that they are taken in a thread, while the next one is read."""
    receives = Receives()
    await world.publish(*map(anomaly, range(MANY)), minute=0)
    world.transport = TappedTransport(world.transport, receives)
    gate = Gate(part)
    large: dict[str, Any] = {"held_bytes_max": 1 << 20}
    async with world.sinking(store=TappedStore(world.store, gate), stretch_records_max=350, **large) as running:
        async with asyncio.timeout(30):
            await gate.reached.wait()

        async def ahead() -> bool:
            return receives.at_once and world.metrics.gauges.get(LAG, 0) >= 350

        await world.until(ahead, running)
        await world.sink_all(group="another", stretch_records_max=333)
        gate.open.set()
        await landed(world, running)
    assert max(receives.sizes) >= IN_THREAD_RECORDS
    assert sorted(ids(await world.lines())) == list(range(MANY))
    await world.check_whole()


async def test_a_flush_keeps_a_batch_that_was_read_while_another_was_taken(world: World) -> None:
    await world.publish(*map(anomaly, range(MANY)), minute=0)
    receives = Receives()
    world.transport = TappedTransport(world.transport, receives)
    async with world.sinking(flush_on_stop=True, held_bytes_max=1 << 20) as running:

        async def all_read() -> bool:
            if (all_of_it := receives.total == MANY) and not running.stop.is_set():
                running.stop.set()
            return all_of_it and running.task.done()

        async with asyncio.timeout(60):
            while not await all_read():
                await world.clock.advance(0.0)
    assert sorted(ids(await world.lines())) == list(range(MANY))
    await world.check_whole()


async def test_somebody_elses_unfinished_claim_is_finished_from_records_read_again(world: World) -> None:
    numbers = await fill(world, 6)
    gate = Gate(CLAIM)
    async with world.sinking(store=TappedStore(world.store, gate), stretch_records_max=SIZE) as running:
        await until_read_ahead(world, running, gate)
        with pytest.raises(Crashed):  # after its claim, before its object
            async with world.sinking(
                store=crashing(world, at=1), group="another", stretch_records_max=SIZE + 2
            ) as other:
                await world.until(world.all_committed, other)
        gate.open.set()
        await world.until(world.all_committed, running)
    sizes = [claim.records for claim in await world.claims()]
    assert sizes[0] == SIZE + 2
    assert sorted(ids(await world.lines())) == numbers
    await world.check_whole()


async def test_what_a_flight_fails_with_ends_the_work_while_records_are_waited_for(world: World) -> None:
    """Nothing more comes to read: the failure is not found only with the next record."""
    await fill(world, 1)
    store = TappedStore(world.store, Failing("create", StoreRefused("s3:PutObject is denied"), part=OBJECT).begin())
    async with world.sinking(store=store, stretch_records_max=SIZE - 1) as running:
        await fails_with(running, StoreRefused)
    assert running.sink.held_bytes == 0


async def test_a_right_that_is_lost_at_a_commit_ends_the_work_with_more_read_ahead(world: World) -> None:
    await fill(world, 4)
    failing = Failing("commit", Fenced("somebody else has it"))
    world.transport = TappedTransport(world.transport, failing)
    gate = Gate(OBJECT)
    async with world.sinking(store=TappedStore(world.store, gate), stretch_records_max=SIZE) as running:
        await until_read_ahead(world, running, gate)
        failing.begin()
        gate.open.set()
        await fails_with(running, Fenced)
    assert len(await world.claims()) == 1
    assert running.sink.held_bytes == 0


async def test_records_past_retention_ahead_do_not_cost_what_is_in_flight_or_open(world: World) -> None:
    numbers = await fill(world, 3)
    failing = Failing("receive", PositionLost("gone"))
    world.transport = TappedTransport(world.transport, failing)
    gate = Gate(OBJECT)
    async with world.sinking(store=TappedStore(world.store, gate), stretch_records_max=SIZE + 2) as running:
        async with asyncio.timeout(30):
            await gate.reached.wait()

        async def all_read() -> bool:
            return running.sink._budget._departed != set() and world.metrics.gauges.get(LAG) == 2 * (SIZE + 2)

        await world.until(all_read, running)
        failing.begin()
        gate.open.set()
        await fails_with(running, PositionLost)
    assert sorted(ids(await world.lines())) == numbers, "the open stretch too"
    await world.check_whole()


async def test_a_squeeze_with_one_in_flight_waits_for_it_and_then_cuts_the_open_stretch(world: World) -> None:
    await world.publish(*(anomaly(number) for number in range(SIZE)), minute=0)
    await world.publish(anomaly(SIZE), minute=1)
    await world.publish(anomaly(SIZE + 1), minute=2)
    await world.publish(anomaly(SIZE + 2), minute=3)
    gate = Gate(OBJECT)
    async with world.sinking(store=TappedStore(world.store, gate)) as running:
        async with asyncio.timeout(30):
            await gate.reached.wait()
        budget: Any = running.sink._budget
        (holder,) = budget._holders

        async def open_and_full() -> bool:
            return bool(len(budget._departed) == FLIGHTS_MAX and holder.held_bytes > 0)

        await world.until(open_and_full, running)
        waiting = asyncio.ensure_future(budget.room(budget.ceiling_bytes))

        async def squeezed() -> bool:
            return bool(holder.squeezed.is_set())

        await world.until(squeezed, running)
        assert not waiting.done()
        gate.open.set()

        async def room() -> bool:
            return bool(waiting.done())

        await world.until(room, running)
        await world.until(world.all_committed, running)
    assert sorted(ids(await world.lines())) == list(range(SIZE + 3))
    assert budget.held_bytes == 0
    await world.check_whole()


async def test_what_departs_counts_until_it_has_arrived_and_its_holder_reads_on() -> None:
    budget = Budget(bytes_max=16 << 20)
    with budget.holder() as holder:
        budget.hold(holder, 5 << 20)
        cargo = budget.departing(holder)
        assert (holder.held_bytes, budget.held_bytes) == (0, 5 << 20)
        budget.hold(holder, 1 << 20)
        waiting = asyncio.ensure_future(budget.room(10 << 20))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not holder.squeezed.is_set(), "what is on its way out is enough"
        budget.hold(cargo, 2 << 20)
        assert budget.held_bytes == 3 << 20
        budget.arrived(cargo)
        await asyncio.wait_for(waiting, 10)
        assert budget.held_bytes == 1 << 20


async def test_what_was_read_ahead_and_brought_no_record_leaves_no_hole(world: World) -> None:
    """As Kafka gives the markers of transactions: positions that go on, and nothing in them."""
    reads: list[Batch] = []

    async def hiding(call: Call, do: Callable[[], Awaitable[Any]], /) -> Any:
        if call.name != "receive":
            return await do()
        if len(reads) in (1, 2):
            await world.publish(*map(anomaly, range(900 + len(reads) * 9, 905 + len(reads) * 9)), minute=0)
        batch = await do()
        reads.append(batch)
        if len(reads) == 2:
            return replace(batch, positions=[], arrivals_ms=[], keys=[], values=[])
        return batch

    await world.publish(*map(anomaly, range(IN_THREAD_RECORDS)), minute=0)
    world.transport = TappedTransport(world.transport, hiding)

    async def read() -> bool:
        return len(reads) > 3  # the one behind the hole was taken

    async with world.sinking() as running:
        await world.until(read, running)
    assert [len(batch) for batch in reads[:3]] == [IN_THREAD_RECORDS, 5, 5]
