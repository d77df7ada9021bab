"""One memory limit for the batches of a process, whatever the number of partitions."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from cutbank.pipeline.scoring.config import ScorerConfig
from cutbank.pipeline.scoring.room import BYTES_MIN, RECORDS_MIN, Room, Rooms
from scoring_stage import QUICK, Stage, TappedLease, trades


def rooms_of(partitions: int, config: ScorerConfig) -> Room:
    rooms = Rooms(config)
    with ExitStack() as stack:
        for _ in range(partitions):
            stack.enter_context(rooms.partition())
        return rooms.room()


@pytest.mark.parametrize("partitions", [1, 4, 5, 40, 200])
def test_all_partitions_together_stay_within_the_limit(partitions: int) -> None:
    config = ScorerConfig()
    room = rooms_of(partitions, config)
    assert room.records_max <= config.batch_records_max
    assert partitions * 4 * room.bytes_max <= config.batches_bytes_max
    assert partitions * 4 * room.records_max * 1024 <= config.batches_bytes_max


def test_a_few_partitions_have_what_their_own_limits_say() -> None:
    config = ScorerConfig()
    assert rooms_of(4, config) == (config.batch_records_max, config.batch_bytes_max)


def test_the_least_part_keeps_any_number_of_partitions_going() -> None:
    assert rooms_of(5_000, ScorerConfig()) == (RECORDS_MIN, BYTES_MIN)


def test_who_leaves_makes_room() -> None:
    rooms = Rooms(ScorerConfig(batches_bytes_max=1 << 20))
    with rooms.partition():
        alone = rooms.room()
        with rooms.partition():
            assert rooms.room().bytes_max == alone.bytes_max // 2
        assert rooms.room() == alone


async def test_a_worker_reads_no_more_than_its_part(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"batch_records_max": 65_536, "batches_bytes_max": 1 << 20})
    asked: list[int] = []

    class Noted(TappedLease):
        async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> object:  # type: ignore[override]
            asked.append(records_max)
            return await super().receive(records_max=records_max, bytes_max=bytes_max, wait_s=wait_s)

    async with Stage(tmp_path, config=config).opened() as stage:
        await stage.publish(trades(600))
        await stage.score_all(lease_type=Noted)
        assert await stage.lines("anomalies") == (await stage.oracle())["anomalies"]
    assert set(asked) == {256}
