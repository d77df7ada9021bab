"""`cutbank tail`: every record once, in order, from where it was asked; and lines that terminals survive."""

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.cli.tail import BATCH_RECORDS_MAX, Line, lines, parse_start, render
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Position
from cutbank.testing.clock import ManualClock
from cutbank.transports import open_transport
from cutbank.transports.base import Start, StreamConfig, Transport

PATIENCE_S = 20.0


@pytest.fixture
def log_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def log(tmp_path: Path, log_clock: ManualClock) -> AsyncIterator[Transport]:
    async with open_transport(f"local://{tmp_path}/log.db", clock=log_clock, metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig("trades", partitions=3))
        yield transport


async def publish(log: Transport, partition: int, *values: str) -> None:
    await log.publish([Message("trades", value.encode(), partition_id=str(partition)) for value in values])


async def everything(log: Transport, start: Start) -> list[Line]:
    async with asyncio.timeout(PATIENCE_S):
        return [
            line
            async for portion in lines(log, "trades", start=start, follow=False, clock=ManualClock())
            for line in portion
        ]


def texts(found: list[Line]) -> list[str]:
    return [line.value.decode() for line in found]


async def test_partitions_are_merged_by_arrival(log: Transport, log_clock: ManualClock) -> None:
    for partition, value in ((0, "a"), (2, "b"), (1, "c"), (2, "d"), (0, "e")):
        await publish(log, partition, value)
        await log_clock.advance(1.0)
    assert texts(await everything(log, Start("earliest"))) == ["a", "b", "c", "d", "e"]


async def test_more_records_than_a_batch_come_all_and_once(log: Transport) -> None:
    count = BATCH_RECORDS_MAX + 500
    for partition in range(3):
        await publish(log, partition, *(f"{partition}-{index}" for index in range(count)))
    found = texts(await everything(log, Start("earliest")))
    assert len(found) == 3 * count
    for partition in range(3):
        own = [text for text in found if text.startswith(f"{partition}-")]
        assert own == [f"{partition}-{index}" for index in range(count)]


@pytest.mark.parametrize("seed", range(6))
async def test_every_record_comes_once_and_each_partition_in_order(
    log: Transport, log_clock: ManualClock, seed: int
) -> None:
    rng = random.Random(seed)
    sent: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for _ in range(rng.randrange(1, 40)):
        partition = rng.randrange(3)
        values = [f"{partition}-{len(sent[partition]) + index}" for index in range(rng.randrange(1, 300))]
        await publish(log, partition, *values)
        sent[partition] += values
        await log_clock.advance(rng.choice([0.0, 0.0, 0.001, 1.0]))
    found = await everything(log, Start("earliest"))
    for partition, values in sent.items():
        own = [line for line in found if line.partition_id == str(partition)]
        assert texts(own) == values
        assert all(first.position < second.position for first, second in pairwise(own))
    assert len(found) == sum(map(len, sent.values()))
    assert all(first.arrival_ms <= second.arrival_ms for first, second in pairwise(found))


async def test_an_empty_stream_ends_at_once(log: Transport) -> None:
    assert await everything(log, Start("earliest")) == []


async def test_latest_without_follow_is_nothing(log: Transport) -> None:
    await publish(log, 0, "a")
    assert await everything(log, Start("latest")) == []


async def test_from_a_time_on(log: Transport, log_clock: ManualClock) -> None:
    await publish(log, 0, "before")
    await log_clock.advance(5.0)
    start = Start("timestamp", timestamp_ms=log_clock.now_ms())
    await publish(log, 0, "after")
    await publish(log, 1, "after too")
    assert texts(await everything(log, start)) == ["after", "after too"]


async def test_what_comes_while_it_reads_is_not_waited_for(log: Transport) -> None:
    await publish(log, 0, "a", "b")
    found: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        async for portion in lines(log, "trades", start=Start("earliest"), follow=False, clock=ManualClock()):
            found += texts(portion)
            await publish(log, 0, "later")
    assert found == ["a", "b"]


async def test_follow_waits_for_what_comes(log: Transport) -> None:
    await publish(log, 0, "old")
    clock = ManualClock()
    found: asyncio.Queue[str] = asyncio.Queue(100)

    async def follow() -> None:
        portions = lines(log, "trades", start=Start("latest"), follow=True, clock=clock)
        async for portion in portions:
            for text in texts(portion):
                found.put_nowait(text)

    task = asyncio.create_task(follow())
    try:
        async with asyncio.timeout(PATIENCE_S):
            for value, partition in (("new", 1), ("newer", 2)):
                await parked(clock)
                await publish(log, partition, value)
                while found.empty():
                    await clock.advance(1.0)
                assert found.get_nowait() == value
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert found.empty()


async def test_a_reader_overtaken_by_retention_goes_on_at_the_oldest_record(
    log: Transport, log_clock: ManualClock
) -> None:
    await log.ensure(StreamConfig("short", partitions=1, retention_ms=1000))
    await log.publish([Message("short", b"old")] * (BATCH_RECORDS_MAX + 1))
    portions = lines(log, "short", start=Start("earliest"), follow=True, clock=ManualClock())
    async with asyncio.timeout(PATIENCE_S):
        assert len(await anext(portions)) == BATCH_RECORDS_MAX
        while (await log.describe("short")).partitions[0].oldest <= BATCH_RECORDS_MAX:
            await log_clock.advance(60.0)
        await log.publish([Message("short", b"new")])
        assert texts(await anext(portions)) == ["new"]


async def parked(clock: ManualClock) -> None:
    """Until the reader has found nothing and sleeps; it works in threads, so turns of the loop do not tell."""
    while not clock.sleepers:  # noqa: ASYNC110  # the clock tells nobody
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("earliest", Start("earliest")),
        ("latest", Start("latest")),
        ("0", Start("timestamp", timestamp_ms=0)),
        ("1790000000123", Start("timestamp", timestamp_ms=1790000000123)),
        ("2026-09-21T14:13:20Z", Start("timestamp", timestamp_ms=1790000000000)),
        ("2026-09-21T14:13:20.5", Start("timestamp", timestamp_ms=1790000000500)),
        ("2026-09-21T16:13:20+02:00", Start("timestamp", timestamp_ms=1790000000000)),
        ("2026-09-21", Start("timestamp", timestamp_ms=1789948800000)),
        ("1960-01-01", Start("timestamp", timestamp_ms=0)),
    ],
)
def test_starts(text: str, start: Start) -> None:
    assert parse_start(text) == start


@pytest.mark.parametrize("text", ["", "yesterday", "-5", "1e3", "2026-13-01", "²"])
def test_no_starts(text: str) -> None:
    with pytest.raises(UsageError, match="--from"):
        parse_start(text)


def line(value: bytes, key: bytes | None = None) -> Line:
    return Line(partition_id="0", position=Position(42), arrival_ms=1_790_000_000_007, key=key, value=value)


def test_a_value_goes_out_as_it_is() -> None:
    assert render(line(b"\xff\x00"), stream="t", verbose=False, terminal=False) == b"\xff\x00\n"


def test_verbose_says_where_and_when() -> None:
    shown = render(line(b"{}", key=b"AB\tC\n"), stream="trades", verbose=True, terminal=False)
    assert shown == b"trades/0\t42\t2026-09-21T14:13:20.007Z\tAB\\x09C\\x0a\t{}\n"
    assert b"\t-\t{}" in render(line(b"{}"), stream="trades", verbose=True, terminal=False)


@settings(deadline=None)
@given(value=st.binary(max_size=200))
def test_no_record_can_steer_a_terminal(value: bytes) -> None:
    shown = render(line(value), stream="t", verbose=False, terminal=True)
    assert shown.endswith(b"\n")
    assert not any((ord(c) < 32 and c != "\t") or 127 <= ord(c) < 160 for c in shown[:-1].decode())


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=50))
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    assert render(line(text.encode()), stream="t", verbose=False, terminal=True).decode() == text + "\n"
