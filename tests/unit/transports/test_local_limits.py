"""The embedded log's queues, tries and counts at their limits."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import StreamUnavailable, UsageError
from cutbank.metrics import NoMetrics
from cutbank.records import Message
from cutbank.transports.base import StreamConfig
from cutbank.transports.local import database, engine, open_local, records
from cutbank.transports.local.engine import _STALE_TRIES, READERS
from cutbank.transports.local.streams import NAME_CHARACTERS_MAX, PARTITIONS_MAX, check_config
from cutbank.transports.local.workers import WAITING_MAX, Worker


def test_the_longest_name_and_the_most_partitions_are_taken_and_one_more_of_either_is_refused() -> None:
    check_config(StreamConfig("s" * NAME_CHARACTERS_MAX, partitions=PARTITIONS_MAX))
    with pytest.raises(UsageError, match="1 to 255 printable characters"):
        check_config(StreamConfig("s" * (NAME_CHARACTERS_MAX + 1)))
    with pytest.raises(UsageError, match="1025 partitions; 1 to 1024 are possible"):
        check_config(StreamConfig("s", partitions=PARTITIONS_MAX + 1))


class Nothing:
    """A worker's resource."""

    def close(self) -> None: ...


async def test_more_calls_than_the_queue_holds_wait_outside_so_an_urgent_one_overtakes_them() -> None:
    worker, gate, began, order = Worker(Nothing, name="test"), threading.Event(), threading.Event(), list[str]()

    def call(name: str) -> Any:
        return lambda _: order.append(name)

    def hold(_: Nothing) -> None:
        began.set()
        gate.wait()

    await worker.start()
    try:
        held = asyncio.create_task(worker.run(hold, urgent=True))
        assert await asyncio.to_thread(began.wait, 30)
        calls = [asyncio.create_task(worker.run(call(f"call {n}"))) for n in range(WAITING_MAX + 5)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert worker._executor._work_queue.qsize() <= WAITING_MAX
        urgent = asyncio.create_task(worker.run(call("urgent"), urgent=True))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(held, urgent, *calls)
    finally:
        gate.set()
        await worker.stop()
    others = [name for name in order if name != "urgent"]
    assert others == [f"call {n}" for n in range(WAITING_MAX + 5)], "each once, in order"
    assert order.index("urgent") <= WAITING_MAX, "those in the queue come first, those outside do not"


async def test_a_stream_made_again_without_end_ends_the_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def stale(*_: object, **__: object) -> None:
        tries.append(1)
        raise records.StaleLayout

    async with open_local(f"local://{tmp_path}/log.db", clock=SystemClock(), metrics=NoMetrics()) as log:
        await log.ensure(StreamConfig("s"))
        monkeypatch.setattr(engine.records, "append", stale)
        with pytest.raises(StreamUnavailable, match="deleted and made again while it is written to"):
            await log.publish([Message("s", b"x")])
    assert len(tries) == _STALE_TRIES


async def test_as_many_threads_read_as_the_name_says(tmp_path: Path) -> None:
    """A third read waits for one of the two before it."""
    async with open_local(f"local://{tmp_path}/log.db", clock=SystemClock(), metrics=NoMetrics()) as log:
        gate, began = threading.Event(), threading.Semaphore(0)

        def hold(_: sqlite3.Connection) -> None:
            began.release()
            gate.wait()

        reads = [asyncio.create_task(log._engine.read(hold)) for _ in range(READERS + 1)]
        try:
            for _ in range(READERS):
                assert await asyncio.to_thread(began.acquire, timeout=30)
            assert not began.acquire(blocking=False)
        finally:
            gate.set()
        await asyncio.gather(*reads)


async def test_a_wal_that_a_reader_made_grow_is_cut_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the reader holds its view the WAL grows; once it is begun anew, it keeps so much and no more."""
    monkeypatch.setattr(database, "WAL_BYTES_KEPT", 256 << 10)
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 128 << 10)
    path, wal = tmp_path / "log.db", tmp_path / "log.db-wal"
    async with open_local(f"local://{path}?durability=process-crash", clock=SystemClock(), metrics=NoMetrics()) as log:
        await log.ensure(StreamConfig("s"))
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM streams").fetchone()
            for _ in range(20):
                await log.publish([Message("s", bytes(100_000))])
            assert wal.stat().st_size > 4 * database.WAL_BYTES_KEPT
            reader.execute("ROLLBACK")
        for _ in range(10):
            await log.publish([Message("s", bytes(100_000))])
        assert wal.stat().st_size <= database.WAL_BYTES_KEPT + 200_000


class Unfinished:
    """A connection on which a checkpoint never gets to the end, since somebody reads an old view."""

    def __init__(self) -> None:
        self.checkpoints = 0

    def execute(self, statement: str) -> "Unfinished":
        self.checkpoints += "wal_checkpoint" in statement
        return self

    def fetchone(self) -> tuple[int, int, int]:
        return 0, 10, 5


def test_a_checkpoint_that_readers_hold_up_is_left_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PAUSE_S", 0.0)
    writer = database.Writer.__new__(database.Writer)
    held: Any = Unfinished()
    writer.db, writer._lock_db, writer._unchecked_bytes = held, held, database.CHECKPOINT_BYTES
    assert writer.checkpoint_due
    writer.checkpoint()
    assert held.checkpoints == database._CHECKPOINT_TRIES
    assert not writer.checkpoint_due
