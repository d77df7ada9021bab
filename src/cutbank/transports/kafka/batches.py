"""Batches of records: built for a produce request, and taken apart from a fetch. No I/O.

Invariant: what is taken apart is committed: records of aborted transactions are left out, and the end of what was read
lies behind the markers that were read; a damaged batch is never passed.
Source: https://kafka.apache.org/41/implementation/message-format/ and KIP-98 for aborted transactions.
"""

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from cutbank.errors import LogDamaged, PositionLost
from cutbank.records import Partition, Position

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""Numbers of the compressions in a batch's attributes."""

MAGIC = 2

SEQUENCE_MAX = (1 << 31) - 1

# Where the fields of a batch's header lie, and how they are packed.
_PLACE, _LENGTH_END = struct.Struct(">qi"), 12
_MAGIC_AT = 16
_SPAN, _SPAN_AT = struct.Struct(">hi"), 21
_COUNT, _COUNT_AT = struct.Struct(">i"), 57
_CONTROL = 0x20


class Columns(NamedTuple):
    """Records of one partition, in order."""

    positions: list[Position]
    arrivals_ms: list[int]
    keys: list[bytes | None]
    values: list[bytes]


def next_sequence(sequence: int, count: int) -> int:
    """The sequence number after `count` records; it wraps at 2^31, as the broker expects."""
    return (sequence + count) & SEQUENCE_MAX


def cut(records: Sequence[tuple[bytes | None, bytes]], *, bytes_max: int) -> list[Sequence[tuple[bytes | None, bytes]]]:
    """Runs of (key, value) of at most `bytes_max` bytes each; a larger record is a run of its own."""
    runs, begin, size = [], 0, 0
    for index, (key, value) in enumerate(records):
        more = len(value) + (len(key) if key else 0)
        if index > begin and size + more > bytes_max:
            runs.append(records[begin:index])
            begin, size = index, 0
        size += more
    if begin < len(records):
        runs.append(records[begin:])
    return runs


def build(
    records: Sequence[tuple[bytes | None, bytes]],
    *,
    codec: int,
    producer: tuple[int, int],
    sequence: int,
    now_ms: int,
) -> bytes:
    """One transactional batch of (key, value). `now_ms` is overwritten by a topic with LogAppendTime."""
    producer_id, epoch = producer
    builder: Any = DefaultRecordBatchBuilder(MAGIC, codec, 1, producer_id, epoch, sequence, 1 << 30)
    for index, (key, value) in enumerate(records):
        builder.append(index, now_ms, key, value, [])
    return bytes(builder.build())


class Contents:
    """What a fetch brought, taken apart batch by batch as far as it is wanted: packed, it is a fraction of the size."""

    def __init__(
        self, partition: Partition, body: bytes, *, start: int, aborted: Sequence[tuple[int, int]] | None
    ) -> None:
        """`aborted`: (producer id, first offset) of the aborted transactions in it. Raises PositionLost."""
        self._partition = partition
        self._start = start
        self._batches: Any = MemoryRecords(body)
        self._waiting = sorted(aborted or (), key=lambda transaction: transaction[1], reverse=True)
        self._dropped: set[int] = set()
        self._counts: deque[int] = deque()
        self._damage = ""
        """Which batch is damaged, once one was met: nothing behind it is given any more."""
        self.end = start
        """Where the next fetch begins: behind all whole batches."""
        for base, last, control, count in _headers(partition, body):
            # Of a batch that begins before `start` only the rest is wanted.
            self._counts.append(0 if control else count - min(count, max(0, start - base)))
            self.end = max(self.end, last + 1)
        self.whole = len(self._counts)
        """Batches that were there as a whole."""
        self.records = sum(self._counts)
        """How many are not taken apart yet; those of aborted transactions count until they are met."""

    def more(self, found: Columns) -> bool:
        """Add the next batch's committed records; False if there is none. Raises LogDamaged, from then on each time."""
        if self._damage:
            raise LogDamaged(self._damage)
        if not self._counts:
            return False
        batch = self._batches.next_batch()
        if not batch.validate_crc():
            self._damage = f"{self._partition}: the batch at {batch.base_offset} has a wrong check sum"
            raise LogDamaged(self._damage)
        self.records -= self._counts.popleft()
        while self._waiting and self._waiting[-1][1] <= batch.base_offset:
            self._dropped.add(self._waiting.pop()[0])
        if batch.is_control_batch:
            if ControlRecord.parse(next(iter(batch)).key) == ABORT_MARKER:
                self._dropped.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in self._dropped):
            _collect(batch, found, self._start)
        return True


def _headers(partition: Partition, body: bytes) -> Iterator[tuple[int, int, bool, int]]:
    """Of each whole batch: first and last offset, whether it is a marker, and its records."""
    at = 0
    while at + _LENGTH_END <= len(body):
        base, length = _PLACE.unpack_from(body, at)
        if at + _LENGTH_END + length > len(body):
            return
        if body[at + _MAGIC_AT] != MAGIC:
            raise PositionLost(f"{partition}: position {base} is in a format from before Kafka 0.11, without positions")
        attributes, last_delta = _SPAN.unpack_from(body, at + _SPAN_AT)
        (count,) = _COUNT.unpack_from(body, at + _COUNT_AT)
        yield base, base + last_delta, bool(attributes & _CONTROL), count
        at += _LENGTH_END + length


def _collect(batch: Any, found: Columns, start: int) -> None:
    positions, arrivals, keys, values = found.positions, found.arrivals_ms, found.keys, found.values
    for record in batch:
        if (offset := record.offset) >= start:
            positions.append(offset)
            arrivals.append(record.timestamp)
            keys.append(record.key)
            # A tombstone, which others may publish, is an empty value here.
            values.append(record.value or b"")
