"""What counting, showing and sending again read and try at most."""

import asyncio
import random
from typing import Any

import pytest

from cutbank.errors import PositionLost, StreamUnavailable
from cutbank.pipeline import audit, error_records, redriving
from cutbank.pipeline.redriving import SEND
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Partition, Position
from cutbank.testing import ManualClock
from cutbank.transports.base import PartitionInfo, StreamInfo

HERE = Partition("s", "0")


class Log:
    """A partition of so many records that gives what it is asked for, and notes that."""

    def __init__(self, records: int) -> None:
        self.records = records
        self.asked: list[tuple[int, int]] = []

    async def read(self, partition: Partition, start: Position, *, records_max: int, bytes_max: int) -> Batch:
        self.asked.append((records_max, bytes_max))
        end = min(self.records, start + records_max)
        positions = [Position(number) for number in range(start, end)]
        return Batch(
            partition=partition,
            start=start,
            end=Position(end),
            positions=positions,
            arrivals_ms=[0] * len(positions),
            keys=[None] * len(positions),
            values=[b""] * len(positions),
        )


async def test_a_count_reads_a_bounded_part_at_a_time() -> None:
    records = audit.READ_RECORDS_MAX + 1
    log: Any = Log(records)
    info = StreamInfo("s", "i", 1000, (PartitionInfo(HERE, Position(0), Position(records)),))
    sizes = [len(batch) async for batch in audit.read_all(log, info)]
    assert sizes == [audit.READ_RECORDS_MAX, 1]
    assert log.asked == [(audit.READ_RECORDS_MAX, audit.READ_BYTES_MAX)] * 2


async def test_error_lines_are_read_a_bounded_part_at_a_time() -> None:
    records = error_records.READ_RECORDS_MAX + 1
    log: Any = Log(records)
    sizes = [len(batch) async for batch in error_records.batches(log, HERE, Position(0), Position(records))]
    assert sizes == [error_records.READ_RECORDS_MAX, 1]
    assert log.asked == [(error_records.READ_RECORDS_MAX, error_records.READ_BYTES_MAX)] * 2


async def test_a_count_that_retention_always_overtakes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = 0

    class Overtaken:
        def __init__(self, *_: object) -> None:
            nonlocal counts
            counts += 1

        async def run(self, _: object) -> None:
            raise PositionLost("past retention")

    monkeypatch.setattr(audit, "_Recount", Overtaken)
    nothing: Any = None
    with pytest.raises(PositionLost):
        await audit.recount(nothing, nothing, PipelineSpec(), labels=None)
    assert counts == audit.RECOUNTS_MAX


async def test_a_step_that_the_log_never_takes_ends_the_run_after_so_many_attempts() -> None:
    clock, attempts = ManualClock(), 0
    nothing: Any = None
    run = redriving._Run({}, account=nothing, clock=clock, rng=random.Random(1), on_gone=nothing)

    async def busy() -> None:
        nonlocal attempts
        attempts += 1
        raise StreamUnavailable("busy")

    sending = asyncio.create_task(run._retried(busy))
    while not sending.done():
        await clock.advance(1.0)
    with pytest.raises(StreamUnavailable):
        await sending
    assert attempts == SEND.attempts_max == 8
