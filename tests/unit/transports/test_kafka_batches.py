"""Batches as they are built and taken apart again."""

import struct
import tracemalloc

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from cutbank.errors import LogDamaged, PositionLost
from cutbank.records import Partition, Position
from cutbank.transports.kafka.batches import CODECS, SEQUENCE_MAX, Columns, Contents, build, cut, next_sequence
from cutbank.transports.kafka.reading import Shelf

PARTITION = Partition("s", "0")
RECORDS = [(b"k", b"one"), (None, b""), (b"", b"\x00\xff" * 500)]
CONTROL = 0x20
TRANSACTIONAL = 0x10


def placed(body: bytes, offset: int) -> bytes:
    """A batch as the broker stores it: the base offset is no part of the check sum."""
    return struct.pack(">q", offset) + body[8:]


def batch(offset: int, values: list[bytes], *, producer: int = 7) -> bytes:
    body = build([(None, value) for value in values], codec=0, producer=(producer, 0), sequence=0, now_ms=1)
    return placed(body, offset)


def marker(offset: int, *, commit: bool, producer: int = 7) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 1, producer, 0, -1, 1 << 20)
    builder.append(0, 1, struct.pack(">HH", 0, int(commit)), b"\0" * 6, [])
    body = bytearray(builder.build())
    # The builder makes no control batches; the attributes' place and the check sum over all from there on (KIP-98).
    body[21:23] = struct.pack(">H", TRANSACTIONAL | CONTROL)
    body[17:21] = struct.pack(">I", crc32c(bytes(body[21:])))
    return placed(bytes(body), offset)


def crc32c(data: bytes) -> int:
    """Bit by bit, after RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def take_apart(body: bytes, *, start: int, aborted: list[tuple[int, int]] | None = None) -> tuple[Columns, int]:
    """All of it, and where the next fetch begins."""
    contents, found = Contents(PARTITION, body, start=start, aborted=aborted), Columns([], [], [], [])
    while contents.more(found):
        pass
    assert contents.records == 0
    return found, contents.end


@pytest.mark.parametrize("codec", sorted(CODECS.values()))
def test_records_come_back(codec: int) -> None:
    body = placed(build(RECORDS * 50, codec=codec, producer=(7, 1), sequence=3, now_ms=1234), 100)
    columns, end = take_apart(body, start=100)
    assert list(zip(columns.keys, columns.values, strict=True)) == RECORDS * 50
    assert columns.positions == list(range(100, 250))
    assert set(columns.arrivals_ms) == {1234}
    assert end == 250


def test_a_fetch_into_the_middle_of_a_batch_begins_there() -> None:
    columns, end = take_apart(batch(10, [b"a", b"b", b"c"]), start=12, aborted=[])
    assert (columns.positions, columns.values, end) == ([12], [b"c"], 13)


def test_aborted_transactions_are_left_out_and_markers_passed() -> None:
    body = b"".join(
        [
            batch(0, [b"a0", b"a1"]),
            batch(2, [b"other"], producer=8),
            marker(3, commit=False),
            batch(4, [b"b0"]),
            marker(5, commit=True),
            batch(6, [b"c0"]),
            marker(7, commit=False),
            marker(8, commit=True, producer=8),
        ]
    )
    columns, end = take_apart(body, start=0, aborted=[(7, 6), (7, 0)])
    assert (columns.positions, columns.values, end) == ([2, 4], [b"other", b"b0"], 9)


def test_markers_alone_move_the_end() -> None:
    columns, end = take_apart(marker(41, commit=True), start=41)
    assert (columns.positions, end) == ([], 42)


def test_half_a_batch_is_none_and_one_behind_a_whole_is_left_for_later() -> None:
    whole = batch(0, [b"a"])
    assert Contents(PARTITION, whole[:-1], start=0, aborted=None).whole == 0
    for cut_off in (1, len(whole) - 5):
        columns, end = take_apart(whole + batch(1, [b"b"])[:-cut_off], start=0)
        assert (columns.values, end) == ([b"a"], 1)


def test_a_format_without_positions_is_refused() -> None:
    old = bytearray(batch(0, [b"a"]))
    old[16] = 1
    with pytest.raises(PositionLost, match="position 0 is in a format from before Kafka"):
        Contents(PARTITION, bytes(old), start=0, aborted=None)


def shelf(body: bytes, *, start: int, aborted: list[tuple[int, int]] | None = None) -> Shelf:
    return Shelf(PARTITION, Contents(PARTITION, body, start=start, aborted=aborted), start=Position(start))


def test_what_was_fetched_stays_packed_until_it_is_wanted() -> None:
    """A fetch that unpacks to a hundred times its size takes memory for the batches asked for only."""
    value = b"x" * 10_000
    body = b"".join(
        placed(build([(None, value)] * 50, codec=CODECS["lz4"], producer=(7, 0), sequence=0, now_ms=1), first)
        for first in range(0, 5_000, 50)
    )
    assert len(body) < 1 << 20
    tracemalloc.start()
    try:
        fetched, taken = shelf(body, start=0), 0
        assert fetched.records == 5_000
        while fetched.any():
            taken += len(fetched.take(records_max=60, bytes_max=1 << 20))
            assert fetched.records == 5_000 - taken
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken == 5_000
    assert most < 5 << 20, "of 50 MB"


def test_a_shelf_passes_what_is_no_record_and_ends_behind_it() -> None:
    body = b"".join(
        [
            batch(0, [b"a0", b"a1"], producer=8),
            batch(2, [b"dropped"]),
            marker(3, commit=False),
            batch(4, [b"b0"], producer=8),
            batch(5, [b"dropped too"]),
            marker(6, commit=False),
        ]
    )
    fetched = shelf(body, start=1, aborted=[(7, 2), (7, 5)])
    first = fetched.take(records_max=1, bytes_max=100)
    assert (first.values, first.start, first.end) == ([b"a1"], 1, 2)
    assert fetched.any()
    second = fetched.take(records_max=5, bytes_max=100)
    assert (second.values, second.start, second.end) == ([b"b0"], 2, 7)
    assert not fetched.any()
    nothing = fetched.take(records_max=5, bytes_max=100)
    assert (nothing.values, nothing.start, nothing.end) == ([], 7, 7)


def test_a_shelf_gives_one_record_at_least_and_no_more_bytes_than_asked_for() -> None:
    fetched = shelf(batch(0, [b"large", b"a", b"b"]) + batch(3, [b"c", b"d"]), start=0)
    sizes = []
    while fetched.any():
        sizes.append(list(fetched.take(records_max=9, bytes_max=3).values))
    assert sizes == [[b"large"], [b"a", b"b", b"c"], [b"d"]]


def test_a_flipped_bit_is_loud() -> None:
    body = bytearray(batch(0, [b"abc"]))
    body[-3] ^= 1
    with pytest.raises(LogDamaged, match="check sum"):
        take_apart(bytes(body), start=0)


@given(
    sizes=st.lists(st.tuples(st.none() | st.integers(0, 30), st.integers(0, 60)), max_size=30),
    bytes_max=st.integers(1, 80),
)
def test_runs_are_whole_in_order_and_within_the_limit(sizes: list[tuple[int | None, int]], bytes_max: int) -> None:
    records = [(None if key is None else bytes(key), bytes(value)) for key, value in sizes]
    runs = cut(records, bytes_max=bytes_max)
    assert [record for run in runs for record in run] == records
    for run in runs:
        assert run
        assert len(run) == 1 or sum(len(key or b"") + len(value) for key, value in run) <= bytes_max


@pytest.mark.parametrize(("now", "count", "then"), [(0, 5, 5), (SEQUENCE_MAX, 1, 0), (SEQUENCE_MAX - 2, 5, 2)])
def test_sequences_wrap_as_the_broker_expects(now: int, count: int, then: int) -> None:
    assert next_sequence(now, count) == then
