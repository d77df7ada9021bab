"""Batches of records: built for a produce request, and taken apart from a fetch. Pure; no I/O, no state.

Invariant: what is taken apart is committed: records of aborted transactions are left out, and the end of what was read
lies behind the markers that were read.
Source: https://kafka.apache.org/41/implementation/message-format/ and KIP-98 for aborted transactions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from cutbank.errors import LogDamaged, PositionLost
from cutbank.records import Partition, Position

CODECS = {"none": 0, "gzip": 1, "lz4": 3, "zstd": 4}
"""Numbers of the compressions in a batch's attributes."""

MAGIC = 2

SEQUENCE_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Columns:
    """Records of one partition as a fetch brought them, in order; `end` is where the next fetch begins."""

    positions: list[Position]
    arrivals_ms: list[int]
    keys: list[bytes | None]
    values: list[bytes]
    end: int


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


def take_apart(
    partition: Partition, body: bytes, *, start: int, aborted: Sequence[tuple[int, int]] | None
) -> Columns | None:
    """The records at and after `start`; None if the body holds not even one whole batch.

    `aborted`: (producer id, first offset) of the aborted transactions in it. Raises LogDamaged, PositionLost.
    """
    batches: Any = MemoryRecords(body)
    if not batches.has_next():
        return None
    waiting = sorted(aborted or (), key=lambda transaction: transaction[1], reverse=True)
    dropped: set[int] = set()
    found = Columns([], [], [], [], start)
    end = start
    while batches.has_next():
        batch = batches.next_batch()
        if not isinstance(batch, DefaultRecordBatch):
            raise PositionLost(f"{partition}: position {end} is in a format from before Kafka 0.11, without positions")
        if not batch.validate_crc():
            raise LogDamaged(f"{partition}: the batch at {batch.base_offset} has a wrong check sum")
        while waiting and waiting[-1][1] <= batch.base_offset:
            dropped.add(waiting.pop()[0])
        next_offset = batch.next_offset
        if batch.is_control_batch:
            if ControlRecord.parse(next(iter(batch)).key) == ABORT_MARKER:
                dropped.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in dropped):
            _collect(batch, found, start)
        end = max(end, next_offset)
    return Columns(found.positions, found.arrivals_ms, found.keys, found.values, end)


def _collect(batch: Any, found: Columns, start: int) -> None:
    positions, arrivals, keys, values = found.positions, found.arrivals_ms, found.keys, found.values
    for record in batch:
        if (offset := record.offset) >= start:
            positions.append(offset)
            arrivals.append(record.timestamp)
            keys.append(record.key)
            # A tombstone, which others may publish, is an empty value here.
            values.append(record.value or b"")
