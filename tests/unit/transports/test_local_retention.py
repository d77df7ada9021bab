"""Retention: by the log's arrival times, in bounded steps, by itself, and never a position back."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cutbank.errors import PositionLost
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.testing import ManualClock
from cutbank.testing.log_under_test import everything
from cutbank.transports.base import Start, StreamConfig
from cutbank.transports.local import LocalSettings, LocalTransport
from cutbank.transports.local.streams import EXPIRE_ROWS_MAX

HERE = Partition("s", "0")
MINUTE_MS = 60_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def transport(tmp_path: Path, clock: ManualClock) -> AsyncIterator[LocalTransport]:
    settings = LocalSettings(durability="process-crash")
    async with LocalTransport(tmp_path / "log.db", settings, clock=clock, metrics=NoMetrics()) as opened:
        await opened.ensure(StreamConfig("s", retention_ms=MINUTE_MS))
        yield opened


async def test_a_record_lives_as_long_as_its_stream_says(transport: LocalTransport, clock: ManualClock) -> None:
    await transport.ensure(StreamConfig("long", retention_ms=10 * MINUTE_MS))
    for stream in ("s", "long"):
        await transport.publish([Message(stream, b"a"), Message(stream, b"b")])
    clock.jump_wall(1000)
    await transport.publish([Message("s", b"c")])
    clock.jump_wall(MINUTE_MS - 1001)
    assert await transport.expire() == 0
    clock.jump_wall(1)
    assert await transport.expire() == 2
    assert (await everything(transport, HERE)).values == [b"c"]
    with pytest.raises(PositionLost, match=r"position 1 .* 2"):
        await transport.read(HERE, Position(1), records_max=1, bytes_max=1)
    clock.jump_wall(1000)
    assert await transport.expire() == 1
    info = (await transport.describe("s")).partitions[0]
    assert (info.oldest, info.end) == (3, 3)
    await transport.publish([Message("s", b"d")])
    assert list((await everything(transport, HERE)).positions) == [3]
    assert len(await everything(transport, Partition("long", "0"))) == 2


async def test_much_is_removed_in_steps(
    transport: LocalTransport, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 2 * EXPIRE_ROWS_MAX + 5
    for number in range(rows):
        await transport.publish([Message("s", b"%d" % number)] * 3)
    clock.jump_wall(2 * MINUTE_MS)
    steps: list[int] = []
    write = transport._engine.write

    async def noted(call: Callable[[sqlite3.Connection], int]) -> int:
        steps.append(await write(call))
        return steps[-1]

    monkeypatch.setattr(transport._engine, "write", noted)
    assert await transport.expire() == 3 * rows
    assert steps == [3 * EXPIRE_ROWS_MAX, 3 * EXPIRE_ROWS_MAX, 3 * 5]
    assert await transport.expire() == 0


async def test_it_happens_by_itself_while_somebody_writes(transport: LocalTransport, clock: ManualClock) -> None:
    await transport.publish([Message("s", b"old")])
    clock.jump_wall(2 * MINUTE_MS)
    async with asyncio.timeout(30):
        while (await transport.describe("s")).partitions[0].oldest == 0:
            await clock.advance(transport._settings.retention_check_ms / 1000)


async def test_a_clock_that_goes_back_moves_no_arrival_back(transport: LocalTransport, clock: ManualClock) -> None:
    await transport.publish([Message("s", b"a")])
    clock.jump_wall(-3_600_000)
    await transport.publish([Message("s", b"b")])
    clock.jump_wall(3_600_001)
    await transport.publish([Message("s", b"c")])
    first, second, third = (await everything(transport, HERE)).arrivals_ms
    assert first == second == third - 1


async def test_a_deleted_stream_leaves_nothing_behind(transport: LocalTransport) -> None:
    await transport.publish([Message("s", bytes(1000))] * 10)
    await transport.delete("s")
    await transport.expire()

    def counts(db: object) -> list[int]:
        tables = ("streams", "partitions", "batches", "cursors")
        return [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]  # type: ignore[attr-defined]  # noqa: S608  # our own names

    assert await transport._engine.read(counts) == [0, 0, 0, 0]
    await transport.ensure(StreamConfig("s"))
    assert await transport.position_at(HERE, Start("latest")) == 0
