"""How a batch of records lies in one row of the file: its body and its check sum. Owns the format; no I/O.

Body, little-endian: u32 form of the keys; u32 x (n + 1) offsets into the body, so that value i is
body[offset[i]:offset[i + 1]]; the values. Where there are keys, at offset[n]: u32 x (n + 1) offsets, again into the
body; for the form SOME n bytes, 1 where a key is there; the keys.

The check sum is CRC-32 over the body, then over (partition, start, end, arrival), so that a damaged row, or one in
another's place, is loud. Pure functions.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from zlib import crc32

ROW_BYTES_MAX = 256 << 10
"""A row takes no further record once its values and keys have this many bytes: a row is this and one record at most."""

ROW_RECORDS_MAX = 4096
"""Most records in a row."""

_NO_KEYS, _ALL_KEYS, _SOME_KEYS = 0, 1, 2
_U32 = 4
_PLACE = struct.Struct("<qqqq")


@dataclass(frozen=True, slots=True)
class Row:
    """Records encoded, not placed yet."""

    count: int
    body: bytes
    body_crc: int


def encode(values: Sequence[bytes], keys: Sequence[bytes | None]) -> Row:
    """One row of n >= 1 records; `keys` has the length of `values`."""
    count = len(values)
    present = [key for key in keys if key is not None]
    form = _NO_KEYS if not present else _ALL_KEYS if len(present) == count else _SOME_KEYS
    first = _U32 + _U32 * (count + 1)
    parts = [struct.pack(f"<{count + 2}I", form, *accumulate(map(len, values), initial=first)), *values]
    if form != _NO_KEYS:
        values_end = first + sum(map(len, values))
        key_first = values_end + _U32 * (count + 1) + (count if form == _SOME_KEYS else 0)
        lengths = (0 if key is None else len(key) for key in keys)
        parts.append(struct.pack(f"<{count + 1}I", *accumulate(lengths, initial=key_first)))
        if form == _SOME_KEYS:
            parts.append(bytes(key is not None for key in keys))
        parts.extend(present)
    body = b"".join(parts)
    return Row(count=count, body=body, body_crc=crc32(body))


def rows_of(values: Sequence[bytes], keys: Sequence[bytes | None]) -> Iterator[Row]:
    """Records of one partition in as few rows as the limits allow, in order."""
    first = size = 0
    for index, (value, key) in enumerate(zip(values, keys, strict=True)):
        if index > first and (size >= ROW_BYTES_MAX or index - first >= ROW_RECORDS_MAX):
            yield encode(values[first:index], keys[first:index])
            first, size = index, 0
        size += len(value) if key is None else len(value) + len(key)
    if first < len(values):
        yield encode(values[first:], keys[first:])


def check_sum(body_crc: int, *, partition_id: int, start: int, end: int, arrival_ms: int) -> int:
    """The check sum of a placed row."""
    return crc32(_PLACE.pack(partition_id, start, end, arrival_ms), body_crc)


def value_offsets(body: bytes, count: int) -> tuple[int, ...]:
    """The count + 1 offsets of the values."""
    return struct.unpack_from(f"<{count + 1}I", body, _U32)


def records_within(offsets: Sequence[int], *, first: int, records_max: int, bytes_max: int) -> int:
    """Where to stop: records first..stop-1 are within `records_max` and `bytes_max` of values, but one at least."""
    stop = bisect_right(offsets, offsets[first] + bytes_max, lo=first) - 1
    return min(max(stop, first + 1), first + records_max, len(offsets) - 1)


def decode_values(body: bytes, offsets: Sequence[int], *, first: int, stop: int) -> list[bytes]:
    """Values of records first..stop-1 of the row."""
    return [body[start:end] for start, end in pairwise(offsets[first : stop + 1])]


def decode_keys(body: bytes, offsets: Sequence[int], *, first: int, stop: int) -> list[bytes | None]:
    """Keys of records first..stop-1 of the row."""
    (form,) = struct.unpack_from("<I", body)
    if form == _NO_KEYS:
        return [None] * (stop - first)
    table, count = offsets[-1], len(offsets) - 1
    bounds = pairwise(struct.unpack_from(f"<{stop - first + 1}I", body, table + _U32 * first))
    if form == _ALL_KEYS:
        return [body[start:end] for start, end in bounds]
    marks = table + _U32 * (count + 1)
    present = body[marks + first : marks + stop]
    return [body[start:end] if there else None for (start, end), there in zip(bounds, present, strict=True)]
