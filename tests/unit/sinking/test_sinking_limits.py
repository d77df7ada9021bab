"""The sink's limits, each gone over: what a claim names, what counts as an identity, reads, waits for log and store."""

import asyncio
import random
from itertools import pairwise
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from cutbank.errors import StoreUnavailable, StreamUnavailable
from cutbank.metrics import NoMetrics
from cutbank.pipeline.sinking import STREAM_LOOK, SinkConfig, run_sink
from cutbank.pipeline.sinking.claims import (
    COLUMNS_MAX,
    MINUTE_MS,
    MINUTE_MS_MAX,
    OBJECTS_MAX,
    PARTITION_KEYS_MAX,
    Claim,
    DataObject,
    FirstRecord,
    Layout,
)
from cutbank.pipeline.sinking.lines import PARTITION_CHARACTERS_MAX, RUN_MAX, LineReader
from cutbank.pipeline.sinking.patience import STORE, Interrupted, Patience
from cutbank.pipeline.sinking.reading import RECEIVE_RECORDS_MAX
from cutbank.pipeline.sinking.resume import EMPTY_READS_MAX
from cutbank.pipeline.sinking.worker import WAIT_S_MAX
from cutbank.records import Batch, Position
from cutbank.testing import ManualClock, taps
from cutbank.testing.faults import Crashed, Fault, Faults
from sinking_world import CHAIN, World, anomaly, crashing


def claim(*, objects: int = 1, minute_ms: int = 0) -> Claim:
    return Claim(
        pipeline=CHAIN.pipeline,
        stream=CHAIN.stream,
        partition=CHAIN.partition,
        start=Position(0),
        end=Position(5),
        minute_ms=minute_ms,
        layout=Layout(),
        objects=tuple(
            DataObject(key=f"a/{number}.json", count=1, line_bytes=1, sha256="ab" * 32) for number in range(objects)
        ),
        first=FirstRecord(position=Position(0), sha256="cd" * 32),
        marks_before=(),
        marks_after=(),
    )


@pytest.mark.parametrize(
    ("most", "over"),
    [
        ({"minute_ms": MINUTE_MS_MAX}, {"minute_ms": MINUTE_MS_MAX + MINUTE_MS}),
        ({"objects": 1}, {"objects": OBJECTS_MAX + 1}),
    ],
)
def test_a_claim_of_the_most_is_one_and_over_it_is_none(most: dict[str, int], over: dict[str, int]) -> None:
    assert claim(**most).objects
    with pytest.raises(ValidationError):
        claim(**over)


def identity(**changes: Any) -> bool:
    """Whether a line with this SOURCE is known by it."""
    line = orjson.loads(anomaly(5))
    line["SOURCE"] |= changes
    return LineReader().line(orjson.dumps(line), position=Position(1), arrival_ms=0).source is not None


def test_a_source_over_its_limits_is_no_identity_but_keeps_its_line() -> None:
    stream = len("trades@00000000/")
    assert identity(partition="x" * (PARTITION_CHARACTERS_MAX - stream))
    assert not identity(partition="x" * (PARTITION_CHARACTERS_MAX - stream + 1))
    for number in ("run", "ordinal"):
        assert identity(**{number: RUN_MAX})
        assert not identity(**{number: RUN_MAX + 1})


class Asked:
    """Around a transport: what each read asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, float]] = []

    def lease(self, lease: Any) -> Any:
        asked = self.calls

        class Noting(taps.TappedLease):
            async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
                asked.append((records_max, bytes_max, wait_s))
                return await lease.receive(records_max=records_max, bytes_max=bytes_max, wait_s=wait_s)

        async def pass_on(_: Any, do: Any) -> Any:
            return await do()

        return Noting(lease, pass_on)


async def test_a_read_asks_for_a_bounded_number_of_records_and_waits_so_long(world: World) -> None:
    """Short records, more than one read takes: the next read takes up where the one before ended."""
    values = [anomaly(number) for number in range(RECEIVE_RECORDS_MAX // 4)]
    for _ in range(5):
        await world.publish(*values, minute=0)
    asked, lease = Asked(), world.lease

    class Noted:
        def __init__(self, **given: Any) -> None:
            self.inner = lease(**given)

        async def __aenter__(self) -> Any:
            return asked.lease(await self.inner.__aenter__())

        async def __aexit__(self, *failure: object) -> Any:
            return await self.inner.__aexit__(*failure)

    world.lease = Noted  # type: ignore[method-assign,assignment]
    await world.sink_all()
    assert len(asked.calls) >= 2
    assert {records_max for records_max, _, _ in asked.calls} == {RECEIVE_RECORDS_MAX}
    assert max(wait_s for _, _, wait_s in asked.calls) <= WAIT_S_MAX
    assert len(await world.lines()) == len(values), "the others are repeats"


async def test_a_claim_whose_end_the_log_does_not_reach_is_a_passing_fault_after_so_many_reads(world: World) -> None:
    await world.publish(anomaly(1), anomaly(2), minute=0)
    store = crashing(world, at=2)  # the birth, the claim, then the object
    async with world.sinking(store=store) as running:

        async def over() -> bool:
            return running.task.done()

        await world.until(over, step_s=30.0)
        with pytest.raises(Crashed):
            running.task.result()
        running.task = running.idle()
    (unfinished,) = await world.claims()
    reads: list[Batch] = []

    async def empty(call: taps.Call, do: Any) -> Any:
        found = await do()
        if call.name == "receive":
            reads.append(found)
            return reads[0].before(unfinished.start)
        return found

    world.transport = taps.TappedTransport(world.transport, empty)
    async with world.sinking() as running:
        await world.until(over)
        with pytest.raises(StreamUnavailable, match="the log does not reach 2 yet"):
            running.task.result()
        running.task = running.idle()
    assert len(reads) == EMPTY_READS_MAX + 1


async def test_a_log_away_at_the_start_ends_the_process_after_so_many_looks(world: World) -> None:
    faults = Faults(clock=world.clock)
    away = faults.at("describe", fault=Fault.FAIL, times=None)
    call = run_sink(
        taps.TappedTransport(world.transport, faults),
        world.store,
        SinkConfig(pipeline=CHAIN.pipeline, stream=CHAIN.stream),
        clock=world.clock,
        metrics=world.metrics,
        stop=asyncio.Event(),
        rng=random.Random(1),
    )
    running = asyncio.ensure_future(call)

    async def over() -> bool:
        return running.done()

    await world.until(over)
    with pytest.raises(StreamUnavailable):
        running.result()
    assert away.struck == STREAM_LOOK.attempts_max == 8


async def test_store_calls_are_made_again_without_end_and_only_a_stop_ends_them() -> None:
    """No number of attempts gives up what is held; the pauses have a bound."""
    clock, stop = ManualClock(), asyncio.Event()
    calls_s: list[float] = []

    async def away() -> None:
        calls_s.append(clock.monotonic_s())
        raise StoreUnavailable("no answer")

    patience = Patience(clock=clock, rng=random.Random(1), metrics=NoMetrics(), stop=stop)
    asking = asyncio.ensure_future(patience.store(away, operation="create claim"))
    await clock.advance(200 * STORE.delay_s_max)
    assert len(calls_s) > 200
    assert 1.0 < max(after - before for before, after in pairwise(calls_s)) <= STORE.delay_s_max
    assert not asking.done()
    stop.set()
    with pytest.raises(Interrupted):
        await asking


@pytest.mark.parametrize(
    ("most", "over"),
    [
        ({"format": "csv", "columns": COLUMNS_MAX}, {"format": "csv", "columns": COLUMNS_MAX + 1}),
        ({"partition_keys": PARTITION_KEYS_MAX}, {"partition_keys": PARTITION_KEYS_MAX + 1}),
        ({"partition_values_max": OBJECTS_MAX - 1}, {"partition_values_max": OBJECTS_MAX}),
    ],
)
def test_a_layout_of_the_most_is_one_and_over_it_is_none(most: dict[str, Any], over: dict[str, Any]) -> None:
    assert layout(**most).version == 2
    with pytest.raises(ValidationError):
        layout(**over)


def layout(**fields: Any) -> Layout:
    for name in {"columns", "partition_keys"} & fields.keys():
        fields[name] = tuple(f"f{number}" for number in range(fields[name]))
    return Layout(**fields)
