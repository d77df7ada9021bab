"""The sink on the real log and the real store: births, minutes, limits, crashes, hand-overs."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import orjson
import pytest

from cutbank.errors import Fenced
from cutbank.pipeline.sinking import inspect
from cutbank.records import Partition
from cutbank.testing.faults import Crashed, Fault
from cutbank.testing.taps import Call, TappedStore
from cutbank.transports.base import Start
from sinking_world import (
    CHAIN,
    FIRST_MINUTE_MS,
    MINUTE_MS,
    STREAM,
    Faulty,
    Gate,
    Running,
    Slow,
    World,
    anomaly,
    crashing,
    ids,
)

T = TypeVar("T")


async def is_born(world: World) -> bool:
    return await world.store.exists(CHAIN.birth_key)


async def has_claims(world: World, number: int) -> bool:
    return len(await world.claims()) >= number


async def test_one_object_a_minute(world: World) -> None:
    await world.publish(anomaly(1), anomaly(2), minute=0)
    await world.publish(anomaly(3), minute=0)
    await world.publish(anomaly(4), minute=1)
    await world.sink_all()
    assert [ids(lines) for lines in (await world.objects()).values()] == [[1, 2, 3], [4]]
    assert [claim.minute_ms for claim in await world.claims()] == [FIRST_MINUTE_MS, FIRST_MINUTE_MS + MINUTE_MS]
    await world.check_whole()


async def test_an_object_appears_when_minute_and_grace_are_over(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    creates_s: list[float] = []

    async def timed(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if call.name == "create":
            creates_s.append(world.clock.monotonic_s())
        return await do()

    async def held() -> bool:
        return running.sink.held_bytes > 0

    async def claiming() -> bool:
        return len(creates_s) > 1

    async with world.sinking(store=TappedStore(world.store, timed), grace_ms=5_000) as running:
        await world.until(held, running, step_s=0)
        await world.clock.advance(64.5)
        # Small steps, since time goes on here while threads work.
        await world.until(claiming, running, step_s=0.002)
        await world.until(world.all_committed, running, step_s=0)
    assert 65.0 <= creates_s[1] < 67.0, "broker time passed the minute and 5 s"
    assert ids(await world.lines()) == [1]


async def test_a_quiet_partition_writes_nothing_but_its_birth(world: World) -> None:
    async with world.sinking() as running:
        await world.until(world.all_committed, running)
        await world.clock.advance(300)
    birth = await inspect.birth(world.store, CHAIN)
    assert birth.start == 0
    assert birth.identity == (await world.transport.describe(STREAM)).identity
    assert [info.key async for info in world.store.list("")] == [CHAIN.birth_key]


@pytest.mark.parametrize(("at", "expected"), [("earliest", [1, 2, 3]), ("latest", [3]), ("timestamp", [2, 3])])
async def test_a_chain_begins_where_it_is_told(world: World, at: str, expected: list[int]) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.publish(anomaly(2), minute=1)
    start = Start(at=at, timestamp_ms=FIRST_MINUTE_MS + MINUTE_MS)  # type: ignore[arg-type]
    async with world.sinking(start=start) as running:
        await world.until(lambda: is_born(world), running)
        await world.publish(anomaly(3))
        await world.until(world.all_committed, running)
    assert ids(await world.lines()) == expected
    await world.check_whole()


async def test_a_start_is_resolved_once(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    async with world.sinking(start=Start(at="latest")) as running:
        await world.until(lambda: is_born(world), running)
    await world.publish(anomaly(2))
    # Another setting, and even lost offsets, change nothing.
    async with world.sinking(start=Start(at="earliest"), group="another") as running:
        await world.until(lambda: has_claims(world, 1), running)
    assert ids(await world.lines()) == [2]


async def test_a_stretch_ends_at_its_limit_of_records(world: World) -> None:
    await world.publish(*(anomaly(n) for n in range(10)), minute=0)
    await world.sink_all(stretch_records_max=4)
    assert [len(lines) for lines in (await world.objects()).values()] == [4, 4, 2]
    assert ids(await world.lines()) == list(range(10))
    await world.check_whole()


async def test_a_stretch_ends_at_its_limit_of_bytes_but_takes_any_first_record(world: World) -> None:
    big = orjson.dumps({**orjson.loads(anomaly(3)), "text": "x" * 5000})
    values = [anomaly(1), anomaly(2), big, anomaly(4), anomaly(5)]
    await world.publish(*values, minute=0)
    await world.sink_all(stretch_bytes_max=2 * len(values[0]) + 2)
    objects = await world.objects()
    assert [ids(lines) for lines in objects.values()] == [[1, 2], [3], [4, 5]]
    await world.check_whole()


async def test_flushing_on_stop_makes_an_object_of_what_is_held(world: World) -> None:
    await world.publish(anomaly(1), minute=0)

    async def held(running: Running) -> bool:
        return running.sink.held_bytes > 0

    async with world.sinking(flush_on_stop=False) as running:
        await world.until(lambda: held(running), running, step_s=0)
    assert await world.objects() == {}
    async with world.sinking(flush_on_stop=True) as running:
        await world.until(lambda: held(running), running, step_s=0)
    assert ids(await world.lines()) == [1]
    assert await world.all_committed()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(7))
async def test_a_crash_at_any_put_is_finished_by_the_next_owner(world: World, at: int, *, after: bool) -> None:
    """Creates in order: birth, then claim and object of each of three stretches."""
    for minute in range(3):
        await world.publish(*(anomaly(10 * minute + n) for n in range(3)), minute=minute)
    store = crashing(world, at=at, after=after)
    with pytest.raises(Crashed):
        async with world.sinking(store=store) as running:
            await world.until(world.all_committed, running)
    expected = [CHAIN.birth_key] + ["_cutbank", "2026"] * 3
    assert [key.startswith(expected[at]) for key in store.struck] == [True]
    # Whoever comes next has other settings, which begin with the next claim.
    await world.sink_all(stretch_records_max=2, grace_ms=100)
    assert sorted(ids(await world.lines())) == [n + 10 * minute for minute in range(3) for n in range(3)]
    await world.check_whole()


@pytest.mark.parametrize("seed", range(3))
async def test_lost_replies_repeat_nothing(world: World, seed: int) -> None:
    for minute in range(4):
        await world.publish(anomaly(minute), minute=minute)
    store = Faulty(world, seed=seed)
    store.faults.rate({"create": {Fault.FAIL_AFTER: 0.5}})
    await world.sink_all(store=store)
    assert store.struck
    assert ids(await world.lines()) == [0, 1, 2, 3]
    assert world.metrics.counts["cutbank_claims_adopted_total"] == 0
    await world.check_whole()


async def test_an_unavailable_store_holds_the_position_and_nothing_grows(world: World) -> None:
    store = Faulty(world)
    values = [anomaly(n) for n in range(20_000)]
    seen = 0

    async def refused() -> bool:
        return len(store.struck) > seen + 20

    async with world.sinking(store=store, held_bytes_max=1 << 20) as running:
        await world.until(lambda: is_born(world), running)
        store.faults.at("create", fault=Fault.FAIL, times=None)
        for first in range(0, len(values), 1000):
            await world.publish(*values[first : first + 1000])
        await world.until(refused, running)
        held_bytes = running.sink.held_bytes
        seen = len(store.struck)
        await world.until(refused, running)
        assert running.sink.held_bytes == held_bytes <= 1 << 20
        assert await world.committed() == 0
        store.faults.heal()
        await world.until(world.all_committed, running)
    assert world.metrics.counts["cutbank_retries_total create claim"] >= 20
    assert sorted(ids(await world.lines())) == list(range(20_000))
    await world.check_whole()


async def test_a_stop_does_not_wait_for_an_unavailable_store(world: World) -> None:
    store = Faulty(world)
    await world.publish(anomaly(1), minute=0)

    async def refused() -> bool:
        return bool(store.struck)

    async with world.sinking(store=store, flush_on_stop=True) as running:
        await world.until(lambda: is_born(world), running)
        store.faults.at("create", fault=Fault.FAIL, times=None)
        await world.until(refused, running)
    assert running.task.done()
    assert await world.objects() == {}
    await world.sink_all()
    assert ids(await world.lines()) == [1]


@pytest.mark.parametrize("part", ["_cutbank/p/anomalies/0/F", "2026"])
async def test_a_zombie_that_wakes_shrinks_and_repeats_nothing(world: World, part: str) -> None:
    """It sleeps before its claim, or between claim and object, while another takes the partition and goes on."""
    await world.publish(anomaly(1), anomaly(2), minute=0)
    gate = Gate(part)

    async def reached() -> bool:
        return gate.reached.is_set()

    async with world.sinking(store=TappedStore(world.store, gate)) as zombie:
        await world.until(reached, zombie)
        # Its lease ends as if it had been taken for dead, but its task sleeps on.
        zombie_task, zombie.task = zombie.task, zombie.idle()
    await world.publish(anomaly(3), minute=5)
    await world.sink_all()
    before = await world.objects()
    gate.open.set()
    with pytest.raises(Fenced):
        await zombie_task
    assert await world.objects() == before
    assert sorted(ids(await world.lines())) == [1, 2, 3]
    await world.check_whole()


@pytest.mark.parametrize("seed", range(4))
async def test_sinks_that_fight_for_one_partition_for_ever_produce_each_anomaly_once(world: World, seed: int) -> None:
    """Worse than any zombie: two groups, so neither is ever fenced; both work on one chain, with other limits."""
    stores = [TappedStore(world.store, Slow(world.clock, seed=10 * seed + n)) for n in range(2)]
    async with (
        world.sinking(group="one", store=stores[0], stretch_records_max=7) as one,
        world.sinking(group="two", store=stores[1], stretch_records_max=5) as two,
    ):
        for first in range(0, 120, 4):
            await world.publish(*(anomaly(n) for n in range(first, first + 4)), minute=first // 50)

        async def done() -> bool:
            assert not two.task.done()
            return await world.transport.committed("one", Partition(STREAM, "0")) == 120

        await world.until(done, one, step_s=0.2)
    sizes = {claim.records for claim in await world.claims()}
    assert sizes >= {5, 7}, "only one of them ever won: the test shows nothing"
    assert sorted(ids(await world.lines())) == list(range(120))
    assert world.metrics.counts["cutbank_claims_adopted_total"] > 5
    assert world.metrics.counts["cutbank_objects_created_total"] == len(await world.claims())
    await world.check_whole()


async def test_lost_and_reset_offsets_repeat_and_lose_nothing(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.publish(anomaly(2), minute=1)
    await world.sink_all()
    before = await world.objects()
    async with world.lease() as lease:
        await lease.fence()
        await lease.commit(0)
    await world.sink_all()
    assert await world.objects() == before
    await world.publish(anomaly(3), minute=2)
    async with world.lease() as lease:
        await lease.fence()
        await lease.commit(3)  # ahead: as if it had been sunk
    async with world.sinking() as running:
        await world.until(lambda: has_claims(world, 3), running)
    assert ids(await world.lines()) == [1, 2, 3]
    await world.check_whole()


async def test_the_figures_are_told(world: World) -> None:
    await world.publish(anomaly(1), anomaly(1), b"not ours", minute=0)
    await world.sink_all()
    counts = world.metrics.counts
    assert counts["cutbank_claims_created_total"] == counts["cutbank_objects_created_total"] == 1
    assert counts["cutbank_object_bytes_total"] == sum(len(line) + 1 for line in await world.lines())
    assert counts["cutbank_repeats_dropped_total"] == counts["cutbank_record_errors_total foreign"] == 1
    assert world.metrics.gauges["cutbank_lag_records sink anomalies/0"] == 0


async def test_repeats_and_older_runs_are_dropped_across_claims_and_restarts(world: World) -> None:
    await world.publish(anomaly(5), anomaly(6), anomaly(5), anomaly(6), minute=0)
    await world.sink_all()
    await world.publish(anomaly(5), anomaly(7, run=2), anomaly(9), anomaly(7, run=2), minute=1)
    await world.publish(anomaly(1, source="1"), anomaly(8, run=2), minute=1)
    await world.sink_all()
    assert [ids(lines) for lines in (await world.objects()).values()] == [[5, 6], [7, 1, 8]]
    await world.check_whole()


async def test_only_repeats_write_nothing_but_the_position(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await world.publish(anomaly(1), anomaly(1), minute=1)
    await world.sink_all()
    assert len(await world.claims()) == 1
    assert await world.committed() == 3


async def test_what_is_not_ours_is_kept_and_stops_nothing(world: World) -> None:
    foreign = [b"not json", b'{"a": 1}', b'{\n  "b": 2\n}', b"", b"\xff\x00\n", b"[1]", b'{"SOURCE":{"run":true}}']
    await world.publish(anomaly(1), *foreign, anomaly(2), minute=0)
    await world.sink_all()
    lines = [orjson.loads(line) for line in await world.lines()]
    assert len(lines) == len(foreign) + 2
    assert [line["DATA_ROW"] for line in lines if "DATA_ROW" in line] == [
        value.hex() for value in (b"not json", b"", b"\xff\x00\n", b"[1]")
    ]
    assert {"a": 1} in lines
    assert {"b": 2} in lines
    await world.check_whole()


async def test_a_birth_that_two_make_at_once_is_one(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    gate = Gate("birth")

    async def reached() -> bool:
        return gate.reached.is_set()

    async with world.sinking(store=TappedStore(world.store, gate), start=Start(at="latest"), group="one") as one:
        await world.until(reached, one)
        async with world.sinking(group="two") as two:
            await world.until(lambda: has_claims(world, 1), two)
        gate.open.set()
        await world.publish(anomaly(2), minute=2)
        await world.until(lambda: has_claims(world, 2), one)
    assert (await inspect.birth(world.store, CHAIN)).start == 0
    assert ids(await world.lines()) == [1, 2]
    await world.check_whole()
