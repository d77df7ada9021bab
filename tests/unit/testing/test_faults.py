"""Faults strike the calls that they are meant for, do only what real ones can, and come again with the same seed."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import AlreadyExists, CutbankError, OutcomeUnknown, StoreUnavailable, StreamUnavailable
from cutbank.metrics import NoMetrics
from cutbank.objects.filesystem import FileSystemStore
from cutbank.records import Message, Partition
from cutbank.testing import ManualClock
from cutbank.testing.faults import (
    STORE_CALLS,
    STREAM_CALLS,
    Crashed,
    Event,
    Fault,
    Faults,
    FaultyStore,
    FaultyTransport,
    History,
)
from cutbank.testing.loop import simulate
from cutbank.testing.taps import Around, Call
from cutbank.transports.base import Start, StreamConfig
from cutbank.transports.local import open_local


class Calls:
    """Calls that note when they were done, through `around`."""

    def __init__(self, clock: ManualClock, *, error: CutbankError | None = None) -> None:
        self.clock = clock
        self.error = error
        self.done: list[tuple[float, str]] = []

    async def make(self, around: Around, name: str, subject: str = "s") -> str:
        async def do() -> str:
            self.done.append((self.clock.monotonic_s(), name))
            await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
            return f"result of {name}"

        return await around(Call(name, subject), do)

    async def outcome(self, around: Around, name: str, subject: str = "s") -> str:
        """The type of what it raises, or `ok`."""
        try:
            await self.make(around, name, subject)
        except (CutbankError, Crashed) as error:
            return type(error).__name__
        return "ok"


def run(main: Callable[[ManualClock, Calls], Coroutine[Any, Any, None]]) -> None:
    clock = ManualClock()
    simulate(main(clock, Calls(clock)), clock=clock)


WRITES = {"publish", "commit", "publish_and_commit"}
SILENT = {"release", "leave"}
FAILING = [Fault.FAIL, Fault.FAIL_AFTER, Fault.lose_request(30.0), Fault.lose_reply(30.0)]


def expected_error(name: str, fault: Fault) -> str:
    if name in STORE_CALLS:
        return StoreUnavailable.__name__
    if name in SILENT:
        return "ok"
    if name in WRITES and fault is not Fault.FAIL:
        return OutcomeUnknown.__name__
    return StreamUnavailable.__name__


@pytest.mark.parametrize("fault", FAILING, ids=str)
@pytest.mark.parametrize("name", sorted((STORE_CALLS | STREAM_CALLS) - {"next_event"}))
def test_each_call_fails_with_an_error_that_its_protocol_names(name: str, fault: Fault) -> None:
    async def main(clock: ManualClock, calls: Calls) -> None:
        faults = Faults(clock=clock)
        rule = faults.at(name, fault=fault)
        assert await calls.outcome(faults, name) == expected_error(name, fault)
        assert clock.monotonic_s() == fault.seconds
        assert [at_s for at_s, _ in calls.done] == ([0.0] if fault in (Fault.FAIL_AFTER, FAILING[3]) else [])
        assert await calls.outcome(faults, name) == "ok", "the next call is another one"
        assert rule.struck == 1

    run(main)


def test_delays_pass_on_the_clock_before_or_after_the_call() -> None:
    async def main(clock: ManualClock, calls: Calls) -> None:
        faults = Faults(clock=clock)
        faults.at("create", fault=Fault.delay(2.0))
        faults.at("read", fault=Fault.delay_reply(3.0))
        assert await calls.make(faults, "create") == "result of create"
        assert await calls.make(faults, "read") == "result of read"
        assert calls.done == [(2.0, "create"), (2.0, "read")]
        assert clock.monotonic_s() == 5.0

    run(main)


@pytest.mark.parametrize("fault", [Fault.FAIL_AFTER, Fault.lose_reply(1.0), Fault.delay_reply(1.0)], ids=str)
def test_a_call_that_fails_by_itself_keeps_its_own_error(fault: Fault) -> None:
    async def main(clock: ManualClock, calls: Calls) -> None:
        calls.error = AlreadyExists("taken")
        faults = Faults(clock=clock)
        faults.at("create", fault=fault)
        with pytest.raises(AlreadyExists, match="taken"):
            await calls.make(faults, "create")
        assert clock.monotonic_s() == fault.seconds

    run(main)


def test_a_call_waiting_for_its_lost_reply_can_be_cancelled_at_once() -> None:
    async def main(clock: ManualClock, calls: Calls) -> None:
        faults = Faults(clock=clock)
        faults.at("commit", fault=Fault.lose_reply(1e6))
        task = asyncio.create_task(calls.make(faults, "commit"))
        await clock.sleep(1.0)
        task.cancel()
        await asyncio.wait({task})
        assert (task.cancelled(), clock.monotonic_s()) == (True, 1.0)

    run(main)


def test_a_rule_strikes_its_call_subject_process_and_count_alone() -> None:
    async def main(clock: ManualClock, calls: Calls) -> None:
        faults = Faults(clock=clock)
        sink, other = faults.of("sink"), faults.of("other")
        rule = faults.at("create", subject_contains="_cutbank/", process="sink", nth=2, times=2, fault=Fault.FAIL)
        made = [
            (around, name, subject, await calls.outcome(around, name, subject))
            for _ in range(5)
            for around, name, subject in [
                (other, "create", "_cutbank/p/0"),
                (sink, "create", "2026/a"),
                (sink, "read", "_cutbank/p/0"),
                (sink, "create", "_cutbank/p/0"),
            ]
        ]
        mine = [one for *call, one in made if call == [sink, "create", "_cutbank/p/0"]]
        assert mine == ["ok", "StoreUnavailable", "StoreUnavailable", "ok", "ok"]
        assert sum(one != "ok" for *_, one in made) == rule.struck == 2
        assert rule.seen == 5

    run(main)


def test_a_rule_without_an_end_strikes_until_healed() -> None:
    async def main(clock: ManualClock, calls: Calls) -> None:
        faults = Faults(1, clock=clock, rates={"read": {Fault.FAIL: 1.0}})
        faults.at("create", fault=Fault.FAIL, times=None)
        before = [await calls.outcome(faults, name) for name in ("create", "read", "create", "read", "delete")]
        assert before == [*["StoreUnavailable"] * 4, "ok"]
        faults.heal()
        assert [await calls.outcome(faults, name) for name in ("create", "read")] == ["ok", "ok"]
        faults.rate({"delete": {Fault.FAIL: 1.0}})
        assert await calls.outcome(faults, "delete") == "StoreUnavailable"

    run(main)


def test_of_two_rules_the_first_strikes_and_both_count() -> None:
    async def main(clock: ManualClock, calls: Calls) -> None:
        faults = Faults(clock=clock)
        faults.at("commit", fault=Fault.FAIL, times=2)
        faults.at("commit", fault=Fault.FAIL_AFTER, nth=2, times=2)
        outcomes = [await calls.outcome(faults, "commit") for _ in range(4)]
        assert outcomes == ["StreamUnavailable", "StreamUnavailable", "OutcomeUnknown", "ok"]

    run(main)


CHANCES = {
    "create": {Fault.FAIL: 0.2, Fault.lose_reply(5.0): 0.1},
    "commit": {Fault.FAIL_AFTER: 0.3},
}


def by_chance(seed: int) -> list[Event]:
    clock = ManualClock()
    faults = Faults(seed, clock=clock, rates=CHANCES)

    async def main() -> None:
        calls = Calls(clock)
        one, two = faults.of("one"), faults.of("two")
        for number in range(500):
            await calls.outcome(one, "create", str(number))
            await calls.outcome(two, "commit", str(number))
            await calls.outcome(two, "fence", str(number))

    simulate(main(), clock=clock)
    return list(faults.history)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_gives_the_same_faults_and_about_the_share_asked_for(seed: int) -> None:
    events = by_chance(seed)
    assert events == by_chance(seed)
    assert events != by_chance(seed + 1)
    kinds = Counter((event.process, event.what) for event in events)
    assert kinds.keys() == {("one", "fail"), ("one", "lose reply 5 s"), ("two", "fail after")}
    assert 60 < kinds["one", "fail"] < 140
    assert 20 < kinds["one", "lose reply 5 s"] < 80
    assert 100 < kinds["two", "fail after"] < 200
    assert all(a.at_s <= b.at_s for a, b in pairwise(events))


@pytest.mark.parametrize("after", [False, True])
def test_a_crashed_process_makes_no_further_call(*, after: bool) -> None:
    async def main(clock: ManualClock, calls: Calls) -> None:
        faults = Faults(clock=clock)
        deaths: list[float] = []
        around = faults.of("scorer", crash=lambda: deaths.append(clock.monotonic_s()))
        faults.at("publish", fault=Fault.CRASH_AFTER if after else Fault.CRASH_BEFORE)
        faults.at("receive", fault=Fault.delay_reply(9.0))
        receiving = asyncio.create_task(calls.outcome(around, "receive"))
        await clock.sleep(1.0)
        with pytest.raises(Crashed, match="scorer crashed at publish s"):
            await calls.make(around, "publish")
        assert deaths == [1.0]
        assert await calls.outcome(around, "release") == "Crashed"
        assert await receiving == "Crashed", "an answer that is on its way reaches nobody"
        assert [name for _, name in calls.done] == ["receive", *["publish"] * after]
        assert await calls.outcome(faults.of("scorer"), "publish") == "ok", "its next life is another one"

    run(main)


def test_a_process_that_dies_after_a_call_never_learns_of_its_error() -> None:
    async def main(clock: ManualClock, calls: Calls) -> None:
        calls.error = AlreadyExists("taken")
        faults = Faults(clock=clock)
        faults.at("create", fault=Fault.CRASH_AFTER)
        assert [await calls.outcome(faults, "create") for _ in range(2)] == ["Crashed", "Crashed"]
        assert calls.done == [(0.0, "create")]

    run(main)


def test_nothing_of_a_real_store_is_undone(tmp_path: Path) -> None:
    async def main(clock: ManualClock, _: Calls) -> None:
        faults = Faults(clock=clock)
        faults.at("create", fault=Fault.lose_reply(10.0))
        faults.at("create", fault=Fault.FAIL, nth=3)
        faults.at("list", fault=Fault.FAIL)
        async with FaultyStore(FileSystemStore(tmp_path, clock=clock, metrics=NoMetrics()), faults) as store:
            with pytest.raises(StoreUnavailable, match="create a/1: lose reply 10 s, a fault on purpose"):
                await store.create("a/1", b"one")
            with pytest.raises(AlreadyExists):
                await store.create("a/1", b"other")
            with pytest.raises(StoreUnavailable):
                await store.create("a/2", b"two")
            with pytest.raises(StoreUnavailable):
                await anext(store.list("a/"))
            assert [info.key async for info in store.list("a/")] == ["a/1"]
            assert await store.read("a/1") == b"one"

    run(main)


async def test_nothing_on_the_embedded_log_is_undone(tmp_path: Path) -> None:
    clock = SystemClock()
    faults = Faults(clock=clock)
    faults.at("publish", fault=Fault.FAIL)
    faults.at("publish", fault=Fault.FAIL_AFTER, nth=2)
    log = open_local(f"local://{tmp_path}/log.db?durability=process-crash", clock=clock, metrics=NoMetrics())
    async with FaultyTransport(log, faults) as transport:
        await transport.ensure(StreamConfig("s"))
        with pytest.raises(StreamUnavailable, match="publish s: fail, a fault on purpose"):
            await transport.publish([Message("s", b"one")])
        with pytest.raises(OutcomeUnknown):
            await transport.publish([Message("s", b"two")])
        await transport.publish([Message("s", b"three")])
        part = Partition("s", "0")
        start = await transport.position_at(part, Start("earliest"))
        batch = await transport.read(part, start, records_max=10, bytes_max=1000)
        assert batch.values == [b"two", b"three"]


def test_a_history_is_bounded_and_says_what_it_dropped() -> None:
    history = History(events_max=3)
    for number in range(5):
        history.note(Event(number * 0.5, "sink" * (number % 2), "fail", Call("create", f"k{number}")))
    history.note(Event(2.5, "sink", "killed"))
    assert (len(history), history.dropped) == (3, 3)
    assert str(history).splitlines() == [
        "… 3 earlier events",
        "       1.500 s  sink: fail at create k3",
        "       2.000 s  -: fail at create k4",
        "       2.500 s  sink: killed",
    ]


PLANS: list[tuple[Callable[[Faults], object], str]] = [
    (lambda faults: faults.at("creat", fault=Fault.FAIL), "no call 'creat'; there are: .*create"),
    (lambda faults: faults.rate({"put": {Fault.FAIL: 0.1}}), "no call 'put'"),
    (lambda faults: faults.at("next_event", fault=Fault.FAIL), "next_event raises only what ends membership"),
    (lambda faults: faults.at("create", fault=Fault.FAIL, nth=0), "count from 1"),
    (lambda faults: faults.at("create", fault=Fault.FAIL, times=0), "count from 1"),
    (lambda faults: faults.rate({"create": {Fault.FAIL: 0.6, Fault.FAIL_AFTER: 0.5}}), "1 together at the most"),
    (lambda faults: faults.rate({"create": {Fault.FAIL: -0.1}}), "at least 0"),
    (lambda _: Fault.delay(0.0), "delay with 0.0 s"),
    (lambda _: Fault(Fault.FAIL.kind, 1.0), "fail with 1.0 s"),
]


@pytest.mark.parametrize(("plan", "why"), PLANS, ids=[why for _, why in PLANS])
def test_a_plan_that_would_prove_nothing_is_refused(plan: Callable[[Faults], object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        plan(Faults(clock=ManualClock()))


def test_call_names_are_those_of_the_taps() -> None:
    """Every call that a tap makes has a name that a plan may use, and no plan names another."""
    source = (Path(__file__).parents[3] / "src/cutbank/testing/taps.py").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:Call|_call)\("(\w+)"', source))
    assert named == STORE_CALLS | STREAM_CALLS
