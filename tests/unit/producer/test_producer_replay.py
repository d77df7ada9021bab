"""Replay: which records go out together, with which key, to which partition."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cutbank.pipeline.inputs import Input, InputRecord
from cutbank.records import Message
from cutbank_producer import replay as replaying
from cutbank_producer.portions import Portion
from cutbank_producer.replay import KEY_BYTES_MAX, Replay


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[Input]]:
    inputs: list[Input] = []
    yield inputs
    for source in inputs:
        source.close()


def replay(
    opened: list[Input],
    tmp_path: Path,
    data: str,
    *,
    key_column: str | None = None,
    paced: bool = False,
    speed: float = 1.0,
    skip: int = 0,
) -> Replay:
    path = tmp_path / "t.csv"
    path.write_text(data)
    source = Input(str(path), key_column=key_column, timestamp_column="t" if paced else None)
    opened.append(source)
    return Replay(source, stream="s", partition_ids=("0", "1"), paced=paced, speed=speed, skip=skip)


async def portions(source: Replay, records_max: int = 100) -> list[Portion]:
    found = []
    while portion := await source.next(records_max):
        assert portion.records == len(portion.messages) == len(portion.lines) <= records_max
        found.append(portion)
    return found


async def test_records_without_a_key_go_to_the_partitions_in_turn(opened: list[Input], tmp_path: Path) -> None:
    (portion,) = await portions(replay(opened, tmp_path, "a\n1\n2\n3\n"))
    assert portion.messages == [
        Message("s", b'{"a":1}', partition_id="0"),
        Message("s", b'{"a":2}', partition_id="1"),
        Message("s", b'{"a":3}', partition_id="0"),
    ]
    assert (portion.lines, portion.offset_s, portion.labels) == ([2, 3, 4], None, 0)


async def test_a_column_is_the_key_where_it_has_a_value(opened: list[Input], tmp_path: Path) -> None:
    (portion,) = await portions(replay(opened, tmp_path, f"a,k\n1,x\n2,\n3,{'y' * 999}\n", key_column="k"))
    assert [(m.key, m.partition_id) for m in portion.messages] == [
        (b"x", None),
        (None, "0"),
        (b"y" * KEY_BYTES_MAX, None),
    ]


async def test_portions_hold_as_many_records_as_asked(opened: list[Input], tmp_path: Path) -> None:
    rows = "".join(f"{number}\n" for number in range(7))
    found = await portions(replay(opened, tmp_path, "a\n" + rows), records_max=3)
    assert [portion.records for portion in found] == [3, 3, 1]


@pytest.mark.parametrize(("skip", "left"), [(0, 5), (3, 2), (5, 0), (9, 0)])
async def test_resuming_passes_over_what_the_stream_has(
    opened: list[Input], tmp_path: Path, skip: int, left: int
) -> None:
    source = replay(opened, tmp_path, "a\n0\n1\n2\n3\n4\n", skip=skip)
    values = [message.value for portion in await portions(source) for message in portion.messages]
    assert values == [b'{"a":%d}' % number for number in range(5 - left, 5)]
    assert source.skipped == 5 - left


async def test_only_records_due_together_go_together_when_the_last_is_due(opened: list[Input], tmp_path: Path) -> None:
    source = replay(opened, tmp_path, "t,a\n100,1\n100.005,2\n100.5,3\n102,4\n", paced=True)
    assert [(p.records, p.offset_s) for p in await portions(source)] == [(2, 100.005), (1, 100.5), (1, 102.0)]


async def test_speed_divides_the_times_and_so_gathers_more(opened: list[Input], tmp_path: Path) -> None:
    source = replay(opened, tmp_path, "t,a\n100,1\n100.005,2\n100.5,3\n102,4\n", paced=True, speed=100.0)
    assert [(p.records, p.offset_s) for p in await portions(source)] == [(4, 1.02)]


async def test_times_that_go_back_or_are_missing_keep_the_files_order(opened: list[Input], tmp_path: Path) -> None:
    source = replay(opened, tmp_path, "t,a\n,0\n100,1\n50,2\n,3\n200,4\n?,5\n", paced=True)
    assert [(p.records, p.offset_s) for p in await portions(source)] == [(4, 100.0), (2, 200.0)]


async def test_records_wait_for_their_place_when_a_block_held_more(opened: list[Input], tmp_path: Path) -> None:
    source = replay(opened, tmp_path, "t,a\n1,1\n2,2\n3,3\n", paced=True)
    assert [p.offset_s for p in await portions(source, records_max=2)] == [1.0, 2.0, 3.0]


async def test_a_portion_ends_at_its_limit_of_bytes_and_one_record_may_pass_it(
    opened: list[Input], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "PORTION_BYTES_MAX", 100)
    rows = ["x" * size for size in (10, 10, 300, 10, 60, 60, 60)]
    found = await portions(replay(opened, tmp_path, "a\n" + "\n".join(rows) + "\n"))
    assert [portion.records for portion in found] == [3, 3, 1]


async def test_what_the_stream_has_is_passed_over_a_bounded_number_at_a_time(
    opened: list[Input], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "SKIP_RECORDS", 3)
    source = replay(opened, tmp_path, "a\n" + "".join(f"{n}\n" for n in range(10)), skip=8)
    asked: list[int] = []
    records = source._input.records

    def noting(*, records_max: int, bytes_max: int) -> list[InputRecord]:
        asked.append(records_max)
        return records(records_max=records_max, bytes_max=bytes_max)

    monkeypatch.setattr(source._input, "records", noting)
    (portion,) = await portions(source)
    assert (source.skipped, portion.records, asked[:3]) == (8, 2, [3, 3, 2])
