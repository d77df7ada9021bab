"""Bad records sent again: each once, to where it came from, in order, whatever dies on the way."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.clock import Clock, SystemClock
from cutbank.errors import Fenced, OutcomeUnknown, StreamMissing, StreamUnavailable
from cutbank.pipeline import redriving
from cutbank.pipeline.error_records import (
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
    Gone,
    Original,
    Originals,
    error_record,
)
from cutbank.pipeline.redriving import REASONS_BY_DEFAULT, Account, redrive, redrive_group, waiting
from cutbank.pipeline.scoring.config import ScorerConfig
from cutbank.pipeline.scoring.decode import Reason
from cutbank.pipeline.scoring.lines import ERROR_PAYLOAD_BYTES_MAX
from cutbank.records import Message, Partition, Position
from cutbank.testing import ManualClock
from cutbank.testing.detectors import chain_detectors
from cutbank.testing.faults import Fault, Faults
from cutbank.testing.loop import simulate
from cutbank.testing.memory_log import MemoryLog
from cutbank.testing.process import SimulatedProcess
from cutbank.testing.taps import Call, TappedTransport
from cutbank.transports.base import Transport
from errors_stage import SPEC, Bad, contents, make_streams, report
from scoring_stage import QUICK, Stage, trades
from scoring_stage import SPEC as SCORED

T = TypeVar("T")

NULL, MISSING, LARGE = Reason.NULL_FEATURE, Reason.MISSING_FEATURE, Reason.ANOMALY_TOO_LARGE
BAD = [
    Bad(b"a", NULL, "0", b"key"),
    Bad(b"b", MISSING, "2"),
    Bad(b"\xff", Reason.INVALID_UTF8, "1"),
    Bad(b"c", MISSING, "0"),
    Bad(b"", Reason.EMPTY, "0"),
    Bad(b"d", NULL, "0"),
    Bad(b"e", NULL, "2", b""),
]
"""Of three partitions; their errors lie in two."""


class World:
    """A log in memory on simulated time, with three source partitions and two of errors."""

    def __init__(self, clock: ManualClock, **options: Any) -> None:
        self.clock = clock
        self.log = MemoryLog(clock=clock, **options)
        self.gone: list[tuple[str, str]] = []

    async def redrive(
        self,
        transport: Transport,
        *,
        reasons: Collection[str] = REASONS_BY_DEFAULT,
        clock: Clock | None = None,
        seed: int = 0,
    ) -> Account:
        account = Account()
        await redrive(
            transport,
            SPEC,
            reasons=reasons,
            account=account,
            clock=clock or self.clock,
            rng=random.Random(seed),
            on_gone=lambda error, why: self.gone.append((error.place, why)),
        )
        return account


def on_simulated_time(
    main: Callable[[World, Transport], Coroutine[Any, Any, T]], *, bad: Collection[Bad] = tuple(BAD), **options: Any
) -> T:
    async def whole(world: World) -> T:
        async with world.log.open() as transport:
            await make_streams(transport, sources=3, errors=2)
            await report(transport, list(bad))
            return await main(world, transport)

    clock = ManualClock()
    return simulate(whole(World(clock, **options)), clock=clock)


async def sent(
    transport: Transport, *, bad: Collection[Bad] = tuple(BAD)
) -> dict[str, list[tuple[bytes, bytes | None]]]:
    """What each source partition got after the first time."""
    found = await contents(transport, SPEC.source)
    return {one: rows[sum(record.partition == one for record in bad) :] for one, rows in found.items()}


def originals(*reasons: Reason) -> dict[str, list[tuple[bytes, bytes | None]]]:
    """What each source partition is to get."""
    return {
        one: [(b.value, b.key) for b in BAD if b.partition == one and (not reasons or b.reason in reasons)]
        for one in "012"
    }


def test_each_goes_again_to_its_partition_in_order_with_its_key() -> None:
    async def main(world: World, transport: Transport) -> None:
        account = await world.redrive(transport)
        assert await sent(transport) == originals()
        assert account.sent == {"null_feature": 3, "missing_feature": 2, "invalid_utf8": 1, "empty": 1}
        assert not account.gone

    on_simulated_time(main)


def test_a_second_run_sends_nothing() -> None:
    async def main(world: World, transport: Transport) -> None:
        await world.redrive(transport)
        assert not (await world.redrive(transport)).sent
        assert await sent(transport) == originals()

    on_simulated_time(main)


def test_reasons_that_are_not_asked_for_stay_for_later() -> None:
    async def main(world: World, transport: Transport) -> None:
        first = await world.redrive(transport, reasons=[MISSING.value])
        assert await sent(transport) == originals(MISSING)
        assert first.sent == {"missing_feature": 2}
        rest = await world.redrive(transport)
        assert rest.sent == {"null_feature": 3, "invalid_utf8": 1, "empty": 1}
        assert sum((await world.redrive(transport)).sent.values()) == 0

    on_simulated_time(main)


def test_what_the_model_knows_already_is_sent_only_by_name() -> None:
    bad = [Bad(b"a", LARGE), Bad(b"b", NULL)]

    async def main(world: World, transport: Transport) -> None:
        assert (await world.redrive(transport)).sent == {"null_feature": 1}
        assert (await world.redrive(transport, reasons=[LARGE.value])).sent == {LARGE.value: 1}
        assert (await sent(transport, bad=bad))["0"] == [(b"b", None), (b"a", None)]

    on_simulated_time(main, bad=bad)


def test_what_fails_again_waits_for_the_next_run() -> None:
    async def main(world: World, transport: Transport) -> None:
        later = Bad(b"fails again", NULL)
        tapped = TappedTransport(transport, after_first_publish(lambda: report(transport, [later], first=99)))
        assert (await world.redrive(tapped)).sent.total() == len(BAD)
        account = await world.redrive(transport)
        assert account.sent == {"null_feature": 1}

    on_simulated_time(main)


def after_first_publish(act: Callable[[], Awaitable[None]]) -> Any:
    acted = False

    async def around(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        nonlocal acted
        result = await do()
        if call.name == "publish_and_commit" and not acted:
            acted = True
            await act()
        return result

    return around


def test_other_pipelines_and_foreign_lines_are_left_alone() -> None:
    async def main(world: World, transport: Transport) -> None:
        await report(transport, [Bad(b"theirs", NULL)], spec=SPEC.model_copy(update={"name": "q"}))
        foreign = [b"", b"{}", b"null", b'{"SOURCE":{}}', b"\xff", b'{"SOURCE":7,"ERROR_NAME":"empty"}']
        await transport.publish([Message(SPEC.errors, value) for value in foreign])
        assert (await world.redrive(transport)).sent.total() == len(BAD)

    on_simulated_time(main)


def test_what_it_would_do_is_what_it_does() -> None:
    async def main(world: World, transport: Transport) -> None:
        found = [one async for one in waiting(transport, SPEC, reasons=REASONS_BY_DEFAULT)]
        assert [one.error.partition_id for one in found] == ["0"] * 6 + ["1"]
        shown: dict[str, list[tuple[bytes, bytes | None]]] = {one: [] for one in "012"}
        for one in found:
            assert isinstance(one.original, Original)
            shown[one.error.source.id].append((one.original.value, one.original.key))
        assert await sent(transport) == {one: [] for one in "012"}
        await world.redrive(transport)
        assert await sent(transport) == shown
        assert [one async for one in waiting(transport, SPEC, reasons=REASONS_BY_DEFAULT)] == []

    on_simulated_time(main)


LONG = Bad(b"x" * (ERROR_PAYLOAD_BYTES_MAX + 1), NULL)


def test_a_long_record_is_fetched_whole() -> None:
    async def main(world: World, transport: Transport) -> None:
        await world.redrive(transport)
        assert (await sent(transport, bad=[LONG]))["0"] == [(LONG.value, None)]

    on_simulated_time(main, bad=[LONG])


def test_past_retention_the_error_line_serves_and_a_cut_record_is_never_sent() -> None:
    async def main(world: World, transport: Transport) -> None:
        world.log.expire(SPEC.source)
        account = await world.redrive(transport)
        assert await contents(transport, SPEC.source) == {"0": [(b"short", None)], "1": [], "2": []}
        assert (account.sent, account.gone) == ({"null_feature": 1}, {"null_feature": 1})
        ((place, why),) = world.gone
        assert place == "0/0"
        assert why == "it is no longer in trades, and the error line has only the first 65536 of its 65537 bytes"
        again = await world.redrive(transport)
        assert not again.sent
        assert not again.gone

    on_simulated_time(main, bad=[LONG, Bad(b"short", NULL, key=b"lost")])


def test_a_stream_made_again_under_the_name_gets_nothing() -> None:
    async def main(world: World, transport: Transport) -> None:
        world.log.delete(SPEC.source)
        await make_streams(transport, sources=3)
        await transport.publish([Message(SPEC.source, b"another's", partition_id="0")])
        account = await world.redrive(transport)
        assert not account.sent
        assert account.gone.total() == len(BAD)
        assert {why for _, why in world.gone} == {"it is of another stream that had the name trades before"}
        assert (await contents(transport, SPEC.source))["0"] == [(b"another's", None)]

    on_simulated_time(main)


def test_without_the_source_stream_it_stops_and_passes_nothing_by() -> None:
    async def main(world: World, transport: Transport) -> None:
        world.log.delete(SPEC.source)
        with pytest.raises(StreamMissing, match="trades"):
            await world.redrive(transport)
        assert world.log.committed(redrive_group("p", "null_feature"), Partition(SPEC.errors, "0")) is None

    on_simulated_time(main)


def test_a_record_that_the_stream_refuses_for_its_size_is_passed_by_alone() -> None:
    bad = [Bad(b"a"), Bad(b"y" * 100_000), Bad(b"b")]

    async def main(world: World, transport: Transport) -> None:
        broker = world.log._broker
        broker.settings = replace(broker.settings, value_bytes_max=99_999)
        account = await world.redrive(transport)
        assert (await sent(transport, bad=bad))["0"] == [(b"a", None), (b"b", None)]
        assert (account.sent.total(), account.gone.total()) == (2, 1)
        assert [place for place, _ in world.gone] == ["0/1"]

    on_simulated_time(main, bad=bad)


def test_steps_are_bounded_and_nothing_is_lost_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redriving, "SEND_RECORDS_MAX", 3)
    monkeypatch.setattr(redriving, "SEND_BYTES_MAX", 50)
    bad = [Bad(b"%d" % number * (number % 40 + 1)) for number in range(100)]
    steps: list[list[int]] = []

    async def main(world: World, transport: Transport) -> None:
        world.log.on_publish.append(lambda partition, positions, values: steps.append([*map(len, values)]))
        await world.redrive(transport)
        assert [value for value, _ in (await sent(transport, bad=bad))["0"]] == [record.value for record in bad]

    on_simulated_time(main, bad=bad, gap_max=3)
    assert 100 > len(steps) > 33
    assert max(map(len, steps)) == 3
    assert max(map(sum, steps)) <= max(50, *(len(record.value) for record in bad))


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
def test_killed_at_any_call_the_next_run_sends_the_rest_once(*, after: bool) -> None:
    async def main(world: World, transport: Transport) -> str | None:
        victim = SimulatedProcess("victim", world.clock)
        dies = _DiesAt(victim, nth=nth, after=after)
        handle = world.log.open(clock=victim.clock)

        async def work() -> None:
            async with handle:
                await world.redrive(TappedTransport(handle, dies), clock=victim.clock)

        victim.start(work())
        await victim.ended()
        await world.redrive(transport)
        assert await sent(transport) == originals(), f"died at call {nth}, {dies.died_at}"
        return dies.died_at

    died_at: Counter[str] = Counter()
    for nth in count(1):  # noqa: B007  # `main` reads it
        where = on_simulated_time(main, gap_max=2)
        if where is None:
            break  # it has no more calls to die at
        died_at[where] += 1
    assert died_at["publish_and_commit"] == 5  # one a change of reason or partition
    assert died_at["commit"] == 2 * 4  # a reason and partition, at the end
    assert died_at["fence"] == 2 * 4


async def in_handle(world: World, process: SimulatedProcess, handle: Transport) -> None:
    async with handle:
        await world.redrive(process.transport(handle), clock=process.clock)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_any_number_of_deaths_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)

    async def main(world: World, transport: Transport) -> None:
        for number in range(rng.randrange(1, 6)):
            victim = SimulatedProcess(f"victim {number}", world.clock)
            victim.crash_at(
                rng.choice(["fence", "publish_and_commit", "commit"]), nth=rng.randrange(1, 9), after=rng.random() < 0.5
            )
            victim.start(in_handle(world, victim, world.log.open(clock=victim.clock)))
            await victim.ended()
        await world.redrive(transport)
        assert await sent(transport) == originals()

    on_simulated_time(main, gap_max=3)


def test_a_run_that_slept_while_another_did_its_work_sends_nothing_more() -> None:
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
                with pytest.raises(Fenced):
                    await world.redrive(TappedTransport(handle, freeze_first), clock=sleeper.clock)

        task = sleeper.start(work())
        while not sleeper.frozen:
            await world.clock.sleep(0.5)
        assert (await world.redrive(transport)).sent.total() == len(BAD)
        thawed = True
        sleeper.resume()
        await task
        assert await sent(transport) == originals()

    on_simulated_time(main)


def test_two_at_once_send_each_once() -> None:
    async def main(world: World, transport: Transport) -> None:
        async def one(seed: int) -> Account | None:
            async with world.log.open() as handle:
                try:
                    return await world.redrive(handle, seed=seed)
                except (Fenced, StreamUnavailable):
                    return None  # the other is at work

        await asyncio.gather(one(1), one(2))
        await world.redrive(transport)
        assert await sent(transport) == originals()

    on_simulated_time(main)


@pytest.mark.parametrize("fault", [Fault.FAIL_AFTER, Fault.lose_reply(1.0), Fault.lose_request(1.0)], ids=str)
def test_an_unknown_outcome_ends_the_run_and_the_next_one_knows(fault: Fault) -> None:
    async def main(world: World, transport: Transport) -> None:
        faults = Faults(clock=world.clock)
        faults.at("publish_and_commit", fault=fault, nth=2)
        with pytest.raises(OutcomeUnknown):
            await world.redrive(TappedTransport(transport, faults))
        await world.redrive(transport)
        assert await sent(transport) == originals()

    on_simulated_time(main)


def test_a_passing_fault_is_tried_again() -> None:
    async def main(world: World, transport: Transport) -> None:
        faults = Faults(clock=world.clock)
        for nth in (1, 2, 4):
            faults.at("publish_and_commit", fault=Fault.FAIL, nth=nth)
        account = await world.redrive(TappedTransport(transport, faults))
        assert account.sent.total() == len(BAD)
        assert await sent(transport) == originals()

    on_simulated_time(main)


def test_an_original_is_only_what_the_error_line_is_about() -> None:
    async def main(world: World, transport: Transport) -> None:
        (found,) = [one async for one in waiting(transport, SPEC, reasons=REASONS_BY_DEFAULT)]
        error = found.error
        finder = Originals(transport)
        assert await finder.find(error) == Original(b"abc", b"k", retained=True)
        for wrong in (
            replace(error, size_bytes=4),
            replace(error, head=b"abd"),
            replace(error, source_position=Position(9)),
        ):
            original = await finder.find(wrong)
            assert isinstance(original, Gone) == (not wrong.whole)
            assert not (isinstance(original, Original) and original.retained)
        assert isinstance(await finder.find(replace(error, source_partition="7")), Gone)

    on_simulated_time(main, bad=[Bad(b"abc", NULL, "0", b"k")])


@given(st.binary(max_size=80))
@settings(deadline=None)
def test_no_line_breaks_the_reader(line: bytes) -> None:
    assert error_record("0", Position(0), line) is None


@pytest.mark.parametrize(
    "bad",
    [
        [Bad(b"%d" % number) for number in range(2 * READ_RECORDS_MAX + 7)],
        [Bad(b"%02d" % number * (ERROR_PAYLOAD_BYTES_MAX // 2)) for number in range(40)],
    ],
    ids=["by number", "by size"],
)
def test_more_errors_than_a_read_holds_are_all_sent(bad: list[Bad]) -> None:
    async def main(world: World, transport: Transport) -> None:
        size = sum(len(value) for rows in (await contents(transport, SPEC.errors)).values() for value, _ in rows)
        assert len(bad) > READ_RECORDS_MAX or size > READ_BYTES_MAX
        await world.redrive(transport)
        assert [value for value, _ in (await sent(transport, bad=bad))["0"]] == [record.value for record in bad]

    on_simulated_time(main, bad=bad)


def test_every_group_is_joined_before_any_lease_is_waited_for() -> None:
    """Else the hold of a killed run would end one session time-out after another, reason by reason."""
    calls: list[str] = []

    async def noted(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        calls.append(call.name)
        return await do()

    async def main(world: World, transport: Transport) -> None:
        await world.redrive(TappedTransport(transport, noted))

    on_simulated_time(main)
    assert [name for name in calls if name in ("join", "next_event")] == ["join"] * 4 + ["next_event"] * 4 * 2


def test_while_another_run_is_at_work_it_waits_and_then_says_so() -> None:
    async def main(world: World, transport: Transport) -> None:
        group = redrive_group("p", "null_feature")
        async with world.log.open() as other, other.consumer(group, [SPEC.errors]) as consumer:
            events = consumer.events()
            kept = [await anext(events), await anext(events)]
            began_s = world.clock.monotonic_s()
            with pytest.raises(StreamUnavailable, match="another redrive of p is at work on errors"):
                await world.redrive(transport)
            assert (
                redriving.LEASE_WAIT_S_MAX / 2 <= world.clock.monotonic_s() - began_s <= redriving.LEASE_WAIT_S_MAX + 1
            )
            assert len(kept) == 2
        await world.redrive(transport)
        assert await sent(transport) == originals()

    on_simulated_time(main, hand_over_s=1000.0)


def test_a_log_that_stays_busy_ends_the_run_and_the_next_one_goes_on() -> None:
    async def main(world: World, transport: Transport) -> None:
        faults = Faults(clock=world.clock)
        tries = faults.at("publish_and_commit", fault=Fault.FAIL, nth=2, times=None)
        with pytest.raises(StreamUnavailable):
            await world.redrive(TappedTransport(transport, faults))
        assert tries.struck == redriving.SEND.attempts_max
        await world.redrive(transport)
        assert await sent(transport) == originals()

    on_simulated_time(main)


async def test_after_a_fix_of_the_spec_the_real_scorer_scores_what_it_refused(tmp_path: Path) -> None:
    lame = [b'{"price":%d.5,"id":%d}' % (number, number) for number in range(5)]  # without the quantity
    mixed = [value for pair in zip(trades(5), lame, strict=True) for value in pair]
    all_lines = ScorerConfig.model_validate({**QUICK.model_dump(), "emit": "all"})
    async with Stage(tmp_path, config=all_lines).opened() as stage:
        await stage.publish(mixed)
        await stage.score_all()
        assert len(await stage.lines("errors")) == len(lame)
        fixed = SCORED.model_copy(update={"features": ("price",)})
        again = Stage(tmp_path, spec=fixed, config=all_lines, detectors=chain_detectors(dimensions=1))
        async with again.opened():
            account = Account()
            await redrive(
                again.transport,
                fixed,
                reasons=REASONS_BY_DEFAULT,
                account=account,
                clock=SystemClock(),
                rng=random.Random(1),
            )
            assert account.sent == {"missing_feature": len(lame)}
            assert (await again.lines("trades"))[len(mixed) :] == lame
            await again.score_all()
            assert len(await again.lines("errors")) == len(lame)
            scored = [orjson.loads(line) for line in await again.lines("scores")]
    assert sorted(line["id"] for line in scored) == sorted([*range(5), *range(5)])
    assert [line["id"] for line in scored if line["SOURCE"]["run"] == 2] == list(range(5))
