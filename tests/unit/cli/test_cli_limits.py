"""What the commands take and try at most."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from cutbank.cli import connect
from cutbank.cli.connect import KAFKA_WAIT_MS, open_log
from cutbank.cli.errors import LIMIT_MAX
from cutbank.cli.streams import PARTITIONS_MAX, RETENTION_HOURS_MAX
from cutbank.cli.tail import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, OVERTAKEN_MAX, _Reader
from cutbank.errors import PositionLost, UsageError
from cutbank.records import Batch, Partition, Position
from cutbank.transports.base import PartitionInfo

from .conftest import Run

PATIENCE_MS = 30_000


@dataclass
class Fleeting:
    """A log whose retention is always ahead of who reads."""

    reads: list[int] = field(default_factory=list)

    async def read(self, _partition: Partition, start: Position, **_limits: int) -> Any:
        self.reads.append(start)
        raise PositionLost("past retention")

    async def position_at(self, *_: Any) -> Position:
        return Position(self.reads[-1] + 100)


async def test_retention_that_always_overtakes_is_an_error_after_so_many_reads() -> None:
    log: Any = Fleeting()
    reader = _Reader(
        info=PartitionInfo(Partition("s", "0"), Position(0), Position(9)), next_position=Position(0), until=None
    )
    with pytest.raises(PositionLost):
        await reader.fill(log)
    assert log.reads == [100 * number for number in range(OVERTAKEN_MAX)]


@pytest.mark.parametrize(
    ("option", "most"), [("--partitions", PARTITIONS_MAX), ("--retention-hours", RETENTION_HOURS_MAX)]
)
def test_a_stream_is_made_with_the_most_and_refused_with_one_more(cutbank: Run, option: str, most: int) -> None:
    assert cutbank("streams", "create", "s", option, str(most))[0] == 0
    code, _, said = cutbank("streams", "create", "t", option, str(most + 1))
    assert code == 2
    assert str(most) in said


async def test_tail_reads_a_bounded_part_at_a_time() -> None:
    asked: list[dict[str, int]] = []

    class Empty:
        async def read(self, partition: Partition, start: Position, **limits: int) -> Batch:
            asked.append(limits)
            return Batch(partition, start, start, [], [], [], [])

    log: Any = Empty()
    here = PartitionInfo(Partition("s", "0"), Position(0), Position(9))
    await _Reader(info=here, next_position=Position(0), until=None).fill(log)
    assert asked == [{"records_max": BATCH_RECORDS_MAX, "bytes_max": BATCH_BYTES_MAX}]


def test_errors_are_listed_up_to_a_limit(cutbank: Run) -> None:
    code, _, said = cutbank("errors", "list", "--limit", str(LIMIT_MAX + 1))
    assert code == 2
    assert str(LIMIT_MAX) in said


async def test_a_tool_waits_for_a_broker_no_longer_than_a_person_would(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KAFKA_WAIT_MS < PATIENCE_MS
    monkeypatch.setattr(connect, "KAFKA_WAIT_MS", 300)
    for url, waited in (("kafka://127.0.0.1:1", "0.3"), ("kafka://127.0.0.1:1?start_wait_ms=100", "0.1")):
        with pytest.raises(UsageError, match=rf"127\.0\.0\.1:1.*waited {waited} s"):
            async with asyncio.timeout(PATIENCE_MS / 1000), open_log(url, may_create=False):
                pass
