"""A replay that is killed, frozen, fenced, doubled or lied to: run again, its stream holds each line once, in order."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import cache
from itertools import count, pairwise
from typing import Any, TypeVar, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.clock import Clock
from cutbank.errors import (
    MessageTooLarge,
    OutcomeUnknown,
    PartitionStopped,
    PositionLost,
    StreamUnavailable,
    UsageError,
)
from cutbank.pipeline.replaying import Account, Plan, Request, origins, output, prepare, replay, replay_group, running
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Message, Partition
from cutbank.testing import ManualClock
from cutbank.testing.faults import Fault, Faults
from cutbank.testing.loop import simulate
from cutbank.testing.memory_log import MemoryLog
from cutbank.testing.process import SimulatedProcess
from cutbank.testing.taps import Call, TappedTransport
from cutbank.transports.base import Start, StreamConfig, Transport
from scoring_stage import DETECTORS, SPEC, trades

T = TypeVar("T")
RECORDS = 40
FIRST = 11
"""The first record scored, of each partition; those before it are learnt."""
OTHER = SPEC.model_copy(update={"threshold": 0.8})


class World:
    """A log in memory on simulated time: two partitions of trades, in two portions."""

    def __init__(self, clock: ManualClock, **options: Any) -> None:
        self.clock = clock
        self.log = MemoryLog(clock=clock, **options)
        self.start = Start()

    async def fill(self, transport: Transport) -> None:
        await transport.ensure(StreamConfig("trades", partitions=2))
        for first, end in ((0, FIRST), (FIRST, RECORDS)):
            self.clock.jump_wall(1000)
            self.start = Start("timestamp", self.clock.now_ms())
            for value in trades(end - first, first=first):
                messages = [Message("trades", value, partition_id=one) for one in "01"]
                await transport.publish(messages)

    async def plan(self, transport: Transport, **asked: Any) -> Plan:
        spec, detectors = asked.pop("spec", SPEC), asked.pop("detectors", DETECTORS)
        request = Request(**{"output": "again", "start": self.start, "warm_up": FIRST, **asked})
        return await prepare(transport, None, spec, request, detectors=detectors)

    async def replay(
        self, transport: Transport, *, clock: Clock | None = None, seed: int = 0, threads: int = 1, **asked: Any
    ) -> Account:
        account = Account()
        await replay(
            transport,
            await self.plan(transport, **asked),
            account=account,
            clock=clock or self.clock,
            rng=random.Random(seed),
            threads=threads,
        )
        return account

    def lines(self, stream: str = "again") -> dict[str, list[bytes]]:
        return {one: list(self.log.content(Partition(stream, one)).values) for one in "01"}


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BATCH_RECORDS_MAX", 7)


def on_simulated_time(main: Callable[[World, Transport], Coroutine[Any, Any, T]], **options: Any) -> T:
    async def whole() -> T:
        async with world.log.open() as transport:
            await world.fill(transport)
            return await main(world, transport)

    clock = ManualClock()
    world = World(clock, **options)
    return simulate(whole(), clock=clock)


@cache
def undisturbed(*, spec: PipelineSpec = SPEC, emit: str = "anomalies", gap_max: int = 0) -> dict[str, list[bytes]]:
    """What a run that nothing befalls leaves."""

    async def main(world: World, transport: Transport) -> dict[str, list[bytes]]:
        await world.replay(transport, spec=spec, emit=emit)
        return world.lines()

    return on_simulated_time(main, gap_max=gap_max)


def positions(lines: list[bytes]) -> list[int]:
    return [int(orjson.loads(line)["SOURCE"]["position"]) for line in lines]


def test_undisturbed_has_the_stretch_alone() -> None:
    for one, lines in undisturbed(emit="all").items():
        assert positions(lines) == [*range(FIRST, RECORDS)], one
    assert all(5 < len(lines) < RECORDS - FIRST for lines in undisturbed().values())


@pytest.mark.parametrize("gap_max", [1, 5])
def test_warm_up_counts_records_where_positions_have_gaps(gap_max: int) -> None:
    async def main(world: World, transport: Transport) -> None:
        account = await world.replay(transport, emit="all", warm_up=5)
        assert account.total("learnt") == 2 * 5
        assert account.total("scored") == 2 * (RECORDS - FIRST)

    on_simulated_time(main, gap_max=gap_max)


class _DiesAt:
    """A process dies at its `nth` call of the transport: before it, or after it is done."""

    def __init__(self, process: SimulatedProcess, *, nth: int, after: bool) -> None:
        self._process, self._left, self._after = process, nth, after
        self.died_at: str | None = None

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        self._left -= 1
        if self._left == 0:
            self.died_at = call.name
            if self._after:
                await self._process.around(call, do)
            self._process.kill()
        return await self._process.around(call, do)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "two-steps"])
def test_killed_at_any_call_the_next_run_adds_what_is_missing(*, after: bool, atomic: bool) -> None:
    wanted = undisturbed()

    async def main(world: World, transport: Transport) -> str | None:
        victim = SimulatedProcess("victim", world.clock)
        dies = _DiesAt(victim, nth=nth, after=after)
        handle = world.log.open(clock=victim.clock)

        async def work() -> None:
            async with handle:
                await world.replay(TappedTransport(handle, dies), clock=victim.clock)

        victim.start(work())
        await victim.ended()
        await world.replay(transport)
        assert world.lines() == wanted, f"died at call {nth}, {dies.died_at}"
        return dies.died_at

    died_at: Counter[str] = Counter()
    for nth in count(1):  # noqa: B007  # `main` reads it
        where = on_simulated_time(main, atomic=atomic)
        if where is None:
            break  # it has no more calls to die at
        died_at[where] += 1
    assert died_at["publish_and_commit"] >= 6
    assert died_at["fence"] == 2
    assert died_at["receive"] >= 10
    assert died_at["ensure"] == 1


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_any_number_of_deaths_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)
    gap_max = rng.choice([0, 3])

    async def in_handle(world: World, process: SimulatedProcess) -> None:
        handle = world.log.open(clock=process.clock)
        async with handle:
            await world.replay(process.transport(handle), clock=process.clock, seed=seed)

    async def main(world: World, transport: Transport) -> None:
        for number in range(rng.randrange(1, 5)):
            victim = SimulatedProcess(f"victim {number}", world.clock)
            call = rng.choice(["fence", "publish_and_commit", "commit", "receive"])
            victim.crash_at(call, nth=rng.randrange(1, 9), after=rng.random() < 0.5)
            victim.start(in_handle(world, victim))
            await victim.ended()
        await world.replay(transport)
        assert world.lines() == wanted

    wanted = undisturbed(gap_max=gap_max)
    on_simulated_time(main, gap_max=gap_max)


def test_one_that_slept_while_another_did_its_work_adds_nothing() -> None:
    wanted = undisturbed()

    async def main(world: World, transport: Transport) -> None:
        sleeper = SimulatedProcess("sleeper", world.clock)

        async def freeze_first(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            if call.name == "publish_and_commit" and not thawed:
                sleeper.freeze()
            return await sleeper.around(call, do)

        thawed = False
        handle = world.log.open(clock=sleeper.clock)

        async def work() -> None:
            async with handle:
                await world.replay(TappedTransport(handle, freeze_first), clock=sleeper.clock)

        task = sleeper.start(work())
        while not sleeper.frozen:
            await world.clock.sleep(0.5)
        account = await world.replay(transport)
        assert account.total("published") == sum(map(len, wanted.values()))
        thawed = True
        sleeper.resume()
        await task
        assert world.lines() == wanted

    on_simulated_time(main)


@pytest.mark.parametrize("seed", range(6))
def test_of_two_at_once_each_line_comes_once(seed: int) -> None:
    wanted = undisturbed()

    async def main(world: World, transport: Transport) -> None:
        async def one(number: int) -> Account | None:
            async with world.log.open() as handle:
                await world.clock.sleep(number * seed * 0.3)
                try:
                    return await world.replay(handle, seed=number + seed)
                except StreamUnavailable as error:
                    said.append(str(error))
                    return None

        said: list[str] = []
        ended = await asyncio.gather(one(1), one(2))
        assert all(why.startswith("another replay into 'again' is at work; wait until it ends") for why in said)
        assert any(account is not None for account in ended)
        assert world.lines() == wanted

    on_simulated_time(main)


@pytest.mark.parametrize("late_s", [0.0, 0.1, 0.7, 3.0])
def test_two_different_ones_at_once_do_not_mix(late_s: float) -> None:
    either = [undisturbed(), undisturbed(spec=OTHER)]
    assert either[0] != either[1]

    async def main(world: World, transport: Transport) -> None:
        async def slow(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            if call.name == "receive":
                await world.clock.sleep(0.2)
            return await do()

        async def one(number: int, spec: Any) -> bool:
            async with world.log.open() as handle:
                await world.clock.sleep(number * late_s)
                try:
                    await world.replay(TappedTransport(handle, slow), seed=number, spec=spec)
                except (StreamUnavailable, UsageError):
                    return False
                return True

        ended = await asyncio.gather(one(0, SPEC), one(1, OTHER))
        assert ended.count(True) == 1
        assert world.lines() == either[ended.index(True)]

    on_simulated_time(main)


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "two-steps"])
@pytest.mark.parametrize(
    "fault", [Fault.FAIL, Fault.FAIL_AFTER, Fault.lose_reply(1.0), Fault.lose_request(1.0)], ids=str
)
@pytest.mark.parametrize("call", ["publish_and_commit", "commit"])
def test_a_lost_answer_is_settled_by_what_lies_there(fault: Fault, call: str, *, atomic: bool) -> None:
    wanted = undisturbed()

    async def main(world: World, transport: Transport) -> None:
        faults = Faults(clock=world.clock)
        faults.at(call, fault=fault, nth=2)
        account = await world.replay(TappedTransport(transport, faults))
        assert world.lines() == wanted
        assert account.total("lines") == sum(map(len, wanted.values()))

    on_simulated_time(main, atomic=atomic)


def test_a_log_that_stays_away_ends_the_run_and_the_next_one_goes_on() -> None:
    wanted = undisturbed()

    async def main(world: World, transport: Transport) -> None:
        faults = Faults(clock=world.clock)
        for nth in range(3, 3 + 2 * running.CALL.attempts_max):
            faults.at("publish_and_commit", fault=Fault.FAIL, nth=nth)
        with pytest.raises(StreamUnavailable):
            await world.replay(TappedTransport(transport, faults))
        assert world.lines() != wanted
        await world.replay(transport)
        assert world.lines() == wanted

    on_simulated_time(main)


def test_retention_that_overtakes_it_is_loud() -> None:
    async def main(world: World, transport: Transport) -> None:
        plan = await world.plan(transport)
        world.log.expire("trades")
        with pytest.raises(PositionLost, match="past retention"):
            await replay(transport, plan, account=Account(), clock=world.clock, rng=random.Random(), threads=1)

    on_simulated_time(main)


def test_a_line_that_the_stream_refuses_is_loud() -> None:
    async def main(world: World, transport: Transport) -> None:
        async def small(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            if call.name == "publish_and_commit":
                raise MessageTooLarge("a value of 200 bytes", bytes_max=100)
            return await do()

        with pytest.raises(PartitionStopped, match="raise the stream's limit to 100 bytes or more"):
            await world.replay(TappedTransport(transport, small))

    on_simulated_time(main)


def test_its_group_is_its_own_and_shows_how_far_it_is() -> None:
    async def main(world: World, transport: Transport) -> None:
        await world.replay(transport)
        assert replay_group("p", "again") == "p.replay.again"
        assert world.log.committed("p.replay.again", Partition("trades", "0")) == RECORDS
        assert world.log.committed("p.scorer", Partition("trades", "0")) is None

    on_simulated_time(main)


def test_partitions_that_share_one_of_the_output_find_each_their_own() -> None:
    wanted = undisturbed()

    async def main(world: World, transport: Transport) -> None:
        await transport.ensure(StreamConfig("again", partitions=1))
        faults = Faults(clock=world.clock)
        for nth in range(5, 5 + 2 * running.CALL.attempts_max):
            faults.at("publish_and_commit", fault=Fault.FAIL, nth=nth)
        with pytest.raises(StreamUnavailable):
            await world.replay(TappedTransport(transport, faults))
        await world.replay(transport)
        values = world.log.content(Partition("again", "0")).values
        for one, lines in wanted.items():
            assert [line for line in values if orjson.loads(line)["SOURCE"]["partition"] == one] == lines
        assert len(values) == sum(map(len, wanted.values()))

    on_simulated_time(main)


def test_no_read_holds_more_than_so_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the source to score, of the source to count, and of the output stream."""
    wanted = undisturbed()
    monkeypatch.setattr(origins, "COUNT_RECORDS_MAX", 3)
    monkeypatch.setattr(output, "READ_RECORDS_MAX", 2)
    monkeypatch.setattr(running, "BATCH_RECORDS_MAX", 5)
    most: dict[str, int] = {}

    async def main(world: World, transport: Transport) -> None:
        async def watch(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            result = await do()
            if isinstance(result, Batch):
                name = f"{call.name} {result.partition.stream}"
                most[name] = max(most.get(name, 0), len(result))
            return result

        for _ in range(2):  # the second one reads what the first one wrote
            await world.replay(TappedTransport(transport, watch))
        assert world.lines() == wanted

    on_simulated_time(main)
    assert most == {"receive trades": 5, "stream_read trades": 3, "stream_read again": 2}


def test_no_read_holds_more_than_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = undisturbed()
    size = len(trades(1)[0])
    monkeypatch.setattr(origins, "COUNT_BYTES_MAX", 3 * size)
    monkeypatch.setattr(output, "READ_BYTES_MAX", 3 * size)
    monkeypatch.setattr(running, "BATCH_BYTES_MAX", 3 * size)
    most = 0

    async def main(world: World, transport: Transport) -> None:
        async def watch(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            nonlocal most
            result = await do()
            if isinstance(result, Batch):
                most = max(most, len(result))
            return result

        for _ in range(2):
            await world.replay(TappedTransport(transport, watch))
        assert world.lines() == wanted

    on_simulated_time(main)
    assert 1 <= most <= 4


@pytest.mark.parametrize(("models", "in_turn"), [(1, True), (2, False)])
def test_models_at_work_fit_in_so_many_bytes(monkeypatch: pytest.MonkeyPatch, models: int, in_turn: bool) -> None:  # noqa: FBT001
    reads: list[str] = []
    a_model = replace(DETECTORS, model_bytes=lambda: 100)
    monkeypatch.setattr(running, "MODELS_BYTES_MAX", 100 * models)

    async def main(world: World, transport: Transport) -> None:
        async def watch(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            if call.name == "receive":
                reads.append(call.subject)
            return await do()

        await world.replay(TappedTransport(transport, watch), threads=2, detectors=a_model)

    on_simulated_time(main)
    changes = sum(one != other for one, other in pairwise(reads))
    assert (changes == 1) is in_turn


def test_a_log_that_never_reaches_its_end_is_loud() -> None:
    async def main(world: World, transport: Transport) -> None:
        last: dict[str, Batch] = {}
        empty = 0

        async def no_more(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            nonlocal empty
            if call.name == "receive" and (batch := last.get(call.subject)):
                empty += call.subject == "trades/0"
                return cast("T", replace(batch.before(batch.start), start=batch.end, end=batch.end))
            result = await do()
            if call.name == "receive" and isinstance(result, Batch):
                last[call.subject] = result
            return result

        with pytest.raises(StreamUnavailable, match=rf"the log does not reach {RECORDS}"):
            await world.replay(TappedTransport(transport, no_more))
        assert empty == running.EMPTY_READS_MAX

    on_simulated_time(main)


def test_a_write_whose_outcome_stays_unknown_ends_the_run() -> None:
    async def main(world: World, transport: Transport) -> None:
        fences = 0

        async def lose(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            nonlocal fences
            if call.name == "publish_and_commit" and call.subject == "trades/0":
                raise OutcomeUnknown("no answer")
            fences += call.name == "fence" and call.subject == "trades/0"
            return await do()

        with pytest.raises(StreamUnavailable, match="the outcome of its writes kept being unknown"):
            await world.replay(TappedTransport(transport, lose))
        assert fences == 2 * running.TAKES_MAX

    on_simulated_time(main)


@pytest.mark.parametrize("begun", [False, True])
def test_leases_that_somebody_keeps_end_the_run(begun: bool) -> None:  # noqa: FBT001
    """Before it has begun it waits JOIN_S_MAX for them, and longer afterwards."""

    async def main(world: World, transport: Transport) -> None:
        async def keep() -> None:
            async with world.log.open() as handle, handle.consumer(replay_group("p", "again"), ["trades"]) as consumer:
                await joined.wait()
                async for _ in consumer.events():
                    pass

        async def first(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            if call.name == "publish_and_commit":
                joined.set()
                await world.clock.sleep(5.0)
            return await do()

        joined = asyncio.Event()
        if not begun:
            joined.set()
        other = asyncio.create_task(keep())
        began_s = world.clock.monotonic_s()
        with pytest.raises(StreamUnavailable, match=r"'again' is at work.*raise leases_max: 1 of 2 partitions"):
            await world.replay(TappedTransport(transport, first))
        took_s = world.clock.monotonic_s() - began_s
        least_s, most_s = (running.AWAY_S_MAX, running.AWAY_S_MAX + 60) if begun else (0.5 * running.JOIN_S_MAX, 90)
        assert least_s <= took_s <= most_s
        other.cancel()

    on_simulated_time(main)
