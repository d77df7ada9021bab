"""A store that is away: said in the log now and then, as a metric, and to who asks if the sink is ready; many calls."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import pytest
import structlog

from cutbank.errors import AlreadyExists, PartitionStopped, StoreUnavailable
from cutbank.pipeline.sinking.chain import OBJECTS_AT_ONCE_MAX
from cutbank.pipeline.sinking.claims import Layout
from cutbank.pipeline.sinking.outage import SAY_EVERY_S, UNREADY_AFTER_S, StoreWatch
from cutbank.pipeline.sinking.patience import STORE, Interrupted, Patience, together
from cutbank.testing.clock import ManualClock
from cutbank.testing.faults import Fault
from cutbank.testing.taps import Call, TappedStore
from sinking_world import Counted, Faulty, Gate, World, anomaly, ids

T = TypeVar("T")

AWAY = "cutbank_store_away_seconds"


async def test_an_outage_of_minutes_is_a_few_lines_a_metric_and_not_ready_until_it_is_over() -> None:
    clock, metrics, stop = ManualClock(), Counted(), asyncio.Event()
    reports: list[tuple[str, bool]] = []
    watch = StoreWatch(clock=clock, metrics=metrics, ready=lambda name, ok, _why: reports.append((name, ok)))
    away = True

    async def call() -> str:
        if away:
            raise StoreUnavailable("503 Slow Down")
        return "done"

    with structlog.testing.capture_logs() as logs:
        callers = []
        for seed in range(20):
            patience = Patience(clock=clock, rng=random.Random(seed), metrics=metrics, stop=stop, watch=watch)
            callers.append(asyncio.ensure_future(patience.store(call, operation="create claim")))
        await clock.advance(UNREADY_AFTER_S - STORE.delay_s_max)
        assert reports == [], "a hiccup is no outage"
        await clock.advance(600)
        assert 600 <= metrics.gauges[AWAY] + STORE.delay_s_max <= 620
        assert set(reports) == {("store", False)}
        away = False
        await clock.advance(STORE.delay_s_max)
    assert [await each for each in callers] == ["done"] * 20
    assert metrics.counts["cutbank_retries_total create claim"] > 1000
    assert metrics.gauges[AWAY] == 0
    assert reports[-1] == ("store", True)
    assert len(reports) == reports.index(("store", True)) + 1
    said = [each for each in logs if each["log_level"] == "warning"]
    assert 10 <= len(said) <= 600 / SAY_EVERY_S + 2
    assert "503 Slow Down" in said[-1]["why"]
    assert logs[-1]["event"] == "store available again"


async def test_calls_that_fail_now_and_then_for_long_are_no_flood_and_no_outage() -> None:
    clock, metrics = ManualClock(), Counted()
    reports: list[bool] = []
    watch = StoreWatch(clock=clock, metrics=metrics, ready=lambda _name, ok, _why: reports.append(ok))
    with structlog.testing.capture_logs() as logs:
        for _ in range(600):
            watch.failed("create object", StoreUnavailable("503"))
            await clock.advance(0.5)
            watch.answered()
            await clock.advance(0.5)
    assert reports == []
    assert len(logs) <= 2 * (600 / SAY_EVERY_S + 1)


async def test_a_refusal_is_an_answer() -> None:
    clock, metrics = ManualClock(), Counted()
    patience = Patience(clock=clock, rng=random.Random(1), metrics=metrics, stop=asyncio.Event())
    answers = [StoreUnavailable("no answer"), AlreadyExists("it is there")]

    async def call() -> None:
        raise answers.pop(0)

    calling = asyncio.ensure_future(patience.store(call, operation="create claim"))
    await clock.advance(STORE.delay_s_max)
    with pytest.raises(AlreadyExists):
        await calling
    assert metrics.gauges[AWAY] == 0


@pytest.mark.parametrize("count", [0, 1, 3, 50])
async def test_calls_together_give_their_results_in_order_with_no_more_under_way_than_the_bound(count: int) -> None:
    under_way = most = 0

    async def call(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(1 + number % 5):
            await asyncio.sleep(0)
        under_way -= 1
        return number

    assert await together([partial(call, number) for number in range(count)], at_once=4) == list(range(count))
    assert most == min(count, 4)


async def test_of_calls_together_the_loud_one_is_told_and_the_others_are_over() -> None:
    over: list[int] = []

    async def call(number: int) -> None:
        try:
            if number == 1:
                raise Interrupted("stopped")
            if number == 2:
                raise PartitionStopped("another content")
            await asyncio.Event().wait()
        finally:
            over.append(number)

    with pytest.raises(PartitionStopped):
        await together([partial(call, number) for number in range(9)], at_once=3)
    assert sorted(over) == [0, 1, 2]


def many_values(count: int) -> list[bytes]:
    return [anomaly(number, columns={"k": f"v{number}"}) for number in range(count)]


LAYOUT = Layout(prefix="k=!{partitionKeyFromQuery:k}/", partition_keys=("k",))


async def test_many_objects_of_a_claim_are_put_together_up_to_a_bound(world: World) -> None:
    values = many_values(60)
    await world.publish(*values, minute=0)
    gate = Gate("k=v")
    store = TappedStore(world.store, gate)
    waiting = 0

    async def put(call: Call, do: Callable[[], Awaitable[T]]) -> T:
        nonlocal waiting
        waiting += call.name == "create" and "k=v" in call.subject
        return await do()

    async with world.sinking(store=TappedStore(store, put), layout=LAYOUT, stretch_records_max=60) as running:

        async def bound() -> bool:
            return waiting == OBJECTS_AT_ONCE_MAX

        await world.publish(anomaly(99, columns={"k": "v99"}), minute=1)
        await world.until(bound, running)
        await world.clock.advance(5)
        assert waiting == OBJECTS_AT_ONCE_MAX
        gate.open.set()
        await world.until(world.all_committed, running)
    assert len(await world.objects()) == 61
    await world.check_whole()


@pytest.mark.parametrize("nth", [1, 7, 50])
async def test_a_crash_among_many_objects_is_finished_by_the_next_owner(world: World, nth: int) -> None:
    await world.publish(*many_values(50), minute=0)
    await world.publish(anomaly(99, columns={"k": "v99"}), minute=1)
    store = Faulty(world)
    store.faults.at("create", subject_contains="k=v", nth=nth, fault=Fault.CRASH_AFTER)

    async def over() -> bool:
        return running.task.done()

    async with world.sinking(store=store, layout=LAYOUT) as running:
        await world.until(over)
        running.task.exception()
        running.task = running.idle()
    await world.sink_all(layout=Layout())
    assert sorted(ids(await world.lines())) == [*range(50), 99]
    await world.check_whole()
