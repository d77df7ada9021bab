"""The format of a row: frozen, exact on any cut, bounded."""

import struct
from zlib import crc32

import pytest

from cutbank.transports.local.rows import (
    ROW_BYTES_MAX,
    ROW_RECORDS_MAX,
    check_sum,
    decode_keys,
    decode_values,
    encode,
    records_within,
    rows_of,
    value_offsets,
)

VALUES = [b"ab", b"", b"c"]

FROZEN: dict[str, tuple[list[bytes | None], str]] = {
    "none": ([None, None, None], "00000000 14000000 16000000 16000000 17000000 616263"),
    "all": (
        [b"x", b"", b"yz"],
        "01000000 14000000 16000000 16000000 17000000 616263 27000000 28000000 28000000 2a000000 78797a",
    ),
    "some": (
        [b"x", None, b""],
        "02000000 14000000 16000000 16000000 17000000 616263 2a000000 2b000000 2b000000 2b000000 010001 78",
    ),
}
"""Keys, and the body in hex."""


@pytest.mark.parametrize("form", FROZEN)
def test_yesterdays_rows_are_read_and_written_the_same(form: str) -> None:
    keys, text = FROZEN[form]
    body = bytes.fromhex(text)
    assert encode(VALUES, keys).body == body
    offsets = value_offsets(body, 3)
    assert decode_values(body, offsets, first=0, stop=3) == VALUES
    assert decode_keys(body, offsets, first=0, stop=3) == keys
    assert decode_values(body, offsets, first=1, stop=2) == VALUES[1:2]
    assert decode_keys(body, offsets, first=1, stop=3) == keys[1:3]


def test_the_check_sum_covers_body_and_place() -> None:
    row = encode(VALUES, [None] * 3)
    place = {"partition_id": 1, "start": 10, "end": 13, "arrival_ms": 99}
    good = check_sum(row.body_crc, **place)
    assert good == 0x9A5299EE == crc32(row.body + struct.pack("<4q", 1, 10, 13, 99))
    for name, value in place.items():
        assert check_sum(row.body_crc, **{**place, name: value + 1}) != good
    assert check_sum(encode([b"ab", b"", b"d"], [None] * 3).body_crc, **place) != good


def test_rows_are_bounded() -> None:
    many = list(rows_of([b""] * (2 * ROW_RECORDS_MAX + 1), [None] * (2 * ROW_RECORDS_MAX + 1)))
    assert [row.count for row in many] == [ROW_RECORDS_MAX, ROW_RECORDS_MAX, 1]
    half = bytes(ROW_BYTES_MAX // 2)
    assert [row.count for row in rows_of([half] * 5, [None] * 5)] == [2, 2, 1]
    assert [row.count for row in rows_of([b""] * 5, [half] * 5)] == [2, 2, 1], "keys count too"
    assert [row.count for row in rows_of([half * 3, b"x", half], [None] * 3)] == [1, 2]
    assert list(rows_of([], [])) == []


@pytest.mark.parametrize(
    ("first", "records_max", "bytes_max", "stop"),
    [
        (0, 9, 100, 4),
        (0, 2, 100, 2),
        (0, 9, 30, 3),
        (0, 9, 29, 2),
        (0, 9, 0, 1),
        (2, 9, 10, 3),
        (1, 9, 5, 2),
        (3, 9, 9, 4),
    ],
)
def test_a_cut_keeps_to_the_limits_but_takes_one(first: int, records_max: int, bytes_max: int, stop: int) -> None:
    offsets = (24, 34, 44, 54, 64)
    assert records_within(offsets, first=first, records_max=records_max, bytes_max=bytes_max) == stop
