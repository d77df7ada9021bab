"""The demo's own limits: how often it flushes, how long nothing may move, what it reads and counts."""

import asyncio
from pathlib import Path
from typing import Any

from cutbank.cli.demo.children import LOG_TAIL_BYTES, Child
from cutbank.cli.demo.session import COUNT_BYTES_MAX, FLUSHES_MAX, POLL_S, STALL_S, Session, _is_small
from cutbank.cli.demo.watching import READ_BYTES_MAX, READ_RECORDS_MAX, Watcher
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Partition, Position
from cutbank.testing.clock import ManualClock
from cutbank.transports.base import PartitionInfo, StreamInfo


class Service:
    """A service that runs and does nothing."""

    name = "sink"
    log = Path("sink.log")
    failure: str | None = None

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.stops = 0

    async def stop(self) -> None:
        self.stops += 1

    async def supervise(self) -> None: ...

    def parked(self) -> str | None:
        return None

    def complaint(self) -> str | None:
        return None


class Behind:
    """A watcher that always sees the sink behind."""

    async def sink_lag(self) -> int:
        return 7


def session_of(clock: ManualClock) -> Any:
    """A session without a plan: only its waits are used."""
    made: Any = Session.__new__(Session)
    made._clock, made._parked, made._faults, made._watcher = clock, set(), [], Behind()
    made._note = lambda _: None
    return made


async def test_a_wait_is_given_up_when_nothing_has_moved_for_so_long() -> None:
    clock, service = ManualClock(), Service()
    waits = session_of(clock)

    async def lag() -> int:
        return 5 if clock.monotonic_s() < 30.0 else 4

    waiting = asyncio.create_task(waits._until_none_left(lag, service, what="records are not scored"))
    await clock.advance(30.0 + STALL_S)
    assert not waiting.done(), "it moved at 30 s"
    await clock.advance(2 * POLL_S)
    assert await waiting is False
    assert waits._faults[0].startswith("4 records are not scored: the sink has not moved for 180 s")


async def test_the_sink_is_flushed_so_often_and_then_it_is_a_fault() -> None:
    clock, service = ManualClock(), Service()
    waits = session_of(clock)
    waits._child = lambda _: service
    async with asyncio.TaskGroup() as group:
        flushing = group.create_task(waits._flush(group, service))
        while not flushing.done():
            await clock.advance(1.0)
    assert service.stops == FLUSHES_MAX
    assert waits._faults[0].startswith(f"7 anomalies and errors are in no object after {FLUSHES_MAX} attempts")


def test_only_a_small_file_is_counted_beforehand(tmp_path: Path) -> None:
    path = tmp_path / "input.csv"
    for size, small in ((COUNT_BYTES_MAX, True), (COUNT_BYTES_MAX + 1, False)):
        with path.open("wb") as file:
            file.truncate(size)
        assert _is_small(str(path)) is small
    assert not _is_small(str(tmp_path / "none"))


def test_of_a_log_the_end_is_looked_at(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    child = Child("x", "x", environ={}, log=log, clock=ManualClock(), note=lambda _: None)
    log.write_bytes(b"first\n" + b"x" * LOG_TAIL_BYTES + b"\nlast\n")
    assert child._lines()[-1] == "last"
    assert sum(map(len, child._lines())) <= LOG_TAIL_BYTES
    assert "first" not in child._lines()


async def test_one_look_asks_for_a_bounded_number_of_bytes() -> None:
    asked: list[dict[str, int]] = []
    here = PartitionInfo(Partition("anomalies", "0"), Position(0), Position(9))

    class Log:
        async def read(self, partition: Partition, start: Position, **limits: int) -> Batch:
            asked.append(limits)
            return Batch(partition, start, start, [], [], [], [])

    nothing: Any = None
    log: Any = Log()
    watcher = Watcher(log, nothing, PipelineSpec(), clock=ManualClock())
    await watcher._read_anomalies(StreamInfo("anomalies", "i", 1000, (here,)))
    assert asked == [{"records_max": READ_RECORDS_MAX, "bytes_max": READ_BYTES_MAX}]
