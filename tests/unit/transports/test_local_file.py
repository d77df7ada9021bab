"""The file itself: what is refused, what is loud, what a full disk or a held lock does; and that it is bounded."""

# ruff: noqa: ASYNC240  # small files of the test itself

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from cutbank.errors import LogDamaged, MessageTooLarge, StreamUnavailable, UsageError
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.testing import ManualClock
from cutbank.testing.log_under_test import everything
from cutbank.transports.base import Start, StreamConfig
from cutbank.transports.local import LocalSettings, LocalTransport
from cutbank.transports.local.database import CHECKPOINT_BYTES
from cutbank.transports.local.records import KEY_BYTES_MAX, VALUE_BYTES_MAX

HERE = Partition("s", "0")
FAST = LocalSettings(durability="process-crash", busy_ms=50)


def handle(path: Path, settings: LocalSettings = FAST) -> LocalTransport:
    return LocalTransport(path, settings, clock=ManualClock(), metrics=NoMetrics())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
async def transport(path: Path) -> AsyncIterator[LocalTransport]:
    async with handle(path) as opened:
        await opened.ensure(StreamConfig("s"))
        yield opened


async def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(UsageError) as refused:
        async with handle(path):
            pass
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("price,quantity\n1,2\n" * 500)
    assert "not a database" in await refusal(path)
    assert path.read_text().startswith("price")


async def test_another_programs_database_is_refused(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE notes (text TEXT)")
    db.commit()
    db.close()
    assert "another program" in await refusal(path)


async def test_another_version_of_the_schema_is_refused(path: Path) -> None:
    async with handle(path):
        pass
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()
    assert "schema version 2" in await refusal(path)


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await refusal(tmp_path / "file" / "log.db")
    await refusal(tmp_path)


async def test_many_may_make_the_file_at_once(path: Path) -> None:
    handles = [handle(path, LocalSettings(durability="process-crash")) for _ in range(6)]
    await asyncio.gather(*(opened.__aenter__() for opened in handles))
    made = await asyncio.gather(*(opened.ensure(StreamConfig("s")) for opened in handles))
    assert len({info.identity for info in made}) == 1
    await asyncio.gather(*(opened.__aexit__() for opened in handles))


@pytest.mark.parametrize(("field", "value"), [("name", ""), ("name", "a\nb"), ("partitions", 0), ("partitions", 1025)])
async def test_a_stream_that_cannot_be_is_refused(transport: LocalTransport, field: str, value: object) -> None:
    with pytest.raises(UsageError):
        await transport.ensure(StreamConfig(**{"name": "t", field: value}))  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        await transport.ensure(StreamConfig("t", retention_ms=0))
    assert await transport.streams() == ("s",)


async def test_limits_are_exact(transport: LocalTransport) -> None:
    largest = Message("s", bytes(VALUE_BYTES_MAX), bytes(KEY_BYTES_MAX))
    await transport.publish([largest])
    got = await everything(transport, HERE)
    assert (got.values, got.keys) == ([largest.value], [largest.key])
    for message in (Message("s", largest.value + b"x"), Message("s", b"", bytes(KEY_BYTES_MAX + 1))):
        with pytest.raises(MessageTooLarge):
            await transport.publish([message])
    assert await transport.position_at(HERE, Start("latest")) == 1


async def test_a_damaged_row_is_loud_and_its_neighbours_are_not(path: Path, transport: LocalTransport) -> None:
    for number in range(3):
        await transport.publish([Message("s", b"record %d" % number)])
    db = sqlite3.connect(path)
    (body,) = db.execute("SELECT body FROM batches WHERE start_position = 1").fetchone()
    db.execute("UPDATE batches SET body = ? WHERE start_position = 1", (body.replace(b"record 1", b"record 7"),))
    db.commit()
    db.close()
    assert (await transport.read(HERE, Position(0), records_max=1, bytes_max=1000)).values == [b"record 0"]
    assert (await transport.read(HERE, Position(2), records_max=1, bytes_max=1000)).values == [b"record 2"]
    for start in (0, 1):
        with pytest.raises(LogDamaged, match="check sum"):
            await transport.read(HERE, Position(start), records_max=10, bytes_max=1000)


@pytest.mark.parametrize("row", [0, 1, 2])
async def test_a_missing_row_is_loud(path: Path, transport: LocalTransport, row: int) -> None:
    for number in range(3):
        await transport.publish([Message("s", b"record %d" % number)])
    db = sqlite3.connect(path)
    db.execute("DELETE FROM batches WHERE start_position = ?", (row,))
    db.commit()
    db.close()
    with pytest.raises(LogDamaged):
        await transport.read(HERE, Position(row), records_max=10, bytes_max=1000)


async def test_a_removed_file_takes_no_writes(path: Path, transport: LocalTransport) -> None:
    path.rename(path.with_suffix(".moved"))
    with pytest.raises(LogDamaged, match="removed or replaced"):
        await transport.publish([Message("s", b"x")])
    async with handle(path):
        with pytest.raises(LogDamaged, match="removed or replaced"):
            await transport.publish([Message("s", b"x")])


async def test_a_full_disk_is_said_and_nothing_is_done(transport: LocalTransport) -> None:
    await transport.publish([Message("s", b"before")])

    async def pages_max(count: int) -> int:
        return await transport._engine._writer.run(
            lambda writer: int(writer.db.execute(f"PRAGMA max_page_count = {count}").fetchone()[0])
        )

    await pages_max(1)  # SQLite takes the present size where that is more: no page can be added.
    with pytest.raises(StreamUnavailable, match="full"):
        await transport.publish([Message("s", bytes(100_000)) for _ in range(20)])
    assert (await everything(transport, HERE)).values == [b"before"]
    await pages_max(1 << 30)
    await transport.publish([Message("s", b"after")])
    assert (await everything(transport, HERE)).values == [b"before", b"after"]


async def test_a_lock_held_too_long_is_unavailable_and_then_all_goes_on(path: Path, transport: LocalTransport) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StreamUnavailable, match="locked"):
        await transport.publish([Message("s", b"x")])
    assert (await everything(transport, HERE)).values == [], "reading goes on meanwhile"
    other.execute("COMMIT")
    other.close()
    await transport.publish([Message("s", b"y")])
    assert (await everything(transport, HERE)).values == [b"y"]


async def test_the_wal_stays_bounded_while_somebody_reads(path: Path, transport: LocalTransport) -> None:
    stop = asyncio.Event()

    async def read_on() -> int:
        reads = 0
        async with handle(path) as reader:
            while not stop.is_set():
                end = await reader.position_at(HERE, Start("latest"))
                await reader.read(HERE, Position(max(0, end - 2000)), records_max=2000, bytes_max=1 << 20)
                reads += 1
        return reads

    reading = asyncio.create_task(read_on())
    largest = 0
    for _ in range(45):
        await transport.publish([Message("s", bytes(1000)) for _ in range(1000)])
        largest = max(largest, path.with_name("log.db-wal").stat().st_size)
    stop.set()
    assert await reading > 0
    assert path.stat().st_size > 25 << 20, "most has been moved into the file"
    assert largest < 3 * CHECKPOINT_BYTES


async def test_a_cancelled_publish_leaves_the_connection_usable(transport: LocalTransport) -> None:
    for turns in range(12):
        writing = asyncio.ensure_future(transport.publish([Message("s", b"%d" % turns)] * 50))
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await transport.publish([Message("s", b"last")])
    got = list((await everything(transport, HERE)).values)
    assert got[-1] == b"last"
    counts = {value: got.count(value) for value in set(got) - {b"last"}}
    assert set(counts.values()) <= {50}, "each call is there whole or not at all"


async def test_closing_waits_for_running_work_and_leaves_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    async with handle(path) as transport:
        await transport.ensure(StreamConfig("s"))
        writing = asyncio.gather(*(transport.publish([Message("s", b"x")] * 2000) for _ in range(4)))
        await asyncio.sleep(0)
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match=r"closed|shutdown"):
        await transport.publish([Message("s", b"late")])
    async with handle(path) as again:
        assert len(await everything(again, HERE)) % 2000 == 0
    assert not path.with_name("log.db-wal").exists(), "the last one out empties the WAL"


async def test_a_refused_file_leaves_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    path.write_bytes(b"x" * 4096)
    await refusal(path)
    assert set(threading.enumerate()) <= before
