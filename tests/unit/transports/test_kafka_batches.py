"""Batches as they are built and taken apart again."""

import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from cutbank.errors import LogDamaged
from cutbank.records import Partition
from cutbank.transports.kafka.batches import CODECS, SEQUENCE_MAX, build, cut, next_sequence, take_apart

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


@pytest.mark.parametrize("codec", sorted(CODECS.values()))
def test_records_come_back(codec: int) -> None:
    body = placed(build(RECORDS * 50, codec=codec, producer=(7, 1), sequence=3, now_ms=1234), 100)
    columns = take_apart(PARTITION, body, start=100, aborted=None)
    assert columns is not None
    assert list(zip(columns.keys, columns.values, strict=True)) == RECORDS * 50
    assert columns.positions == list(range(100, 250))
    assert set(columns.arrivals_ms) == {1234}
    assert columns.end == 250


def test_a_fetch_into_the_middle_of_a_batch_begins_there() -> None:
    columns = take_apart(PARTITION, batch(10, [b"a", b"b", b"c"]), start=12, aborted=[])
    assert columns is not None
    assert (columns.positions, columns.values, columns.end) == ([12], [b"c"], 13)


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
    columns = take_apart(PARTITION, body, start=0, aborted=[(7, 6), (7, 0)])
    assert columns is not None
    assert (columns.positions, columns.values, columns.end) == ([2, 4], [b"other", b"b0"], 9)


def test_markers_alone_move_the_end() -> None:
    columns = take_apart(PARTITION, marker(41, commit=True), start=41, aborted=None)
    assert columns is not None
    assert (columns.positions, columns.end) == ([], 42)


def test_half_a_batch_is_none_and_one_behind_a_whole_is_left_for_later() -> None:
    whole = batch(0, [b"a"])
    assert take_apart(PARTITION, whole[:-1], start=0, aborted=None) is None
    columns = take_apart(PARTITION, whole + batch(1, [b"b"])[:-1], start=0, aborted=None)
    assert columns is not None
    assert (columns.values, columns.end) == ([b"a"], 1)


def test_a_flipped_bit_is_loud() -> None:
    body = bytearray(batch(0, [b"abc"]))
    body[-3] ^= 1
    with pytest.raises(LogDamaged, match="check sum"):
        take_apart(PARTITION, bytes(body), start=0, aborted=None)


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
