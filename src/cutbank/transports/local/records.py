"""Records in the file: route messages to partitions, append them, read them back.

Appending runs inside the caller's write transaction, reading inside a read transaction; both off the event loop.
Invariant: a partition's positions have no gaps in the file, arrivals never decrease, rows do not overlap.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast
from zlib import crc32

from cutbank.errors import LogDamaged, MessageTooLarge, PositionLost, StreamMissing
from cutbank.records import Batch, Message, Partition, Position, partition_for
from cutbank.transports.base import RECORD_BYTES_MAX, Output
from cutbank.transports.local import streams
from cutbank.transports.local.rows import (
    Row,
    check_sum,
    decode_keys,
    decode_values,
    records_within,
    rows_of,
    value_offsets,
)

VALUE_BYTES_MAX = RECORD_BYTES_MAX + (64 << 10)
"""Largest value that the log takes, bytes. Above RECORD_BYTES_MAX, so that a foreign producer's oversize record gets in
and comes out in the error stream; what the pipeline itself publishes stays below that."""

KEY_BYTES_MAX = 64 << 10
"""Largest key, bytes."""

INTEGER_MAX = 2**63 - 1
"""SQLite's largest integer: no position of a local log lies above it."""

Rows = dict[int, list[Row]]
"""Encoded rows by the row id of their partition."""


class StaleLayout(Exception):
    """A partition's row is gone: the stream was deleted since its layout was read."""


class Router:
    """Which partition a message goes to, by a cached layout. Belongs to the writer's thread.

    A named partition wins; else the key's CRC-32 modulo the number of partitions; without a key, one after another.
    """

    def __init__(self) -> None:
        self._layouts: dict[str, streams.Layout] = {}
        self._turns: dict[str, int] = {}

    def layout(self, db: sqlite3.Connection, stream: str) -> streams.Layout:
        """The stream's layout, from the cache if it is there. Raises StreamMissing."""
        known = self._layouts.get(stream)
        if known is None:
            known = self._layouts[stream] = streams.layout(db, stream)
        return known

    def forget(self) -> None:
        """Read layouts anew."""
        self._layouts.clear()

    def addressed(self, db: sqlite3.Connection, outputs: Sequence[Output], *, source_id: str) -> Iterator[Message]:
        """Outputs as messages to the partitions that they name or the source determines. Raises StreamMissing."""
        targets: dict[str, str] = {}
        for output in outputs:
            if output.partition_id is not None:
                yield Message(output.stream, output.value, output.key, output.partition_id)
                continue
            target = targets.get(output.stream)
            if target is None:
                ids = [str(number) for number in range(len(self.layout(db, output.stream).partition_row_ids))]
                target = targets[output.stream] = partition_for(source_id, ids)
            yield Message(output.stream, output.value, output.key, target)

    def rows(self, db: sqlite3.Connection, messages: Iterable[Message]) -> Rows:
        """Messages in order, encoded by partition. Raises StreamMissing, MessageTooLarge."""
        parts: dict[int, tuple[list[bytes], list[bytes | None]]] = {}
        stream: str | None = None
        row_ids: tuple[int, ...] = ()
        for message in messages:
            value, key = message.value, message.key
            if len(value) > VALUE_BYTES_MAX or (key is not None and len(key) > KEY_BYTES_MAX):
                raise _too_large(message)
            if message.stream != stream:
                stream, row_ids = message.stream, self.layout(db, message.stream).partition_row_ids
            if message.partition_id is not None:
                row_id = _numbered(stream, message.partition_id, row_ids)
            elif key is not None:
                row_id = row_ids[crc32(key) % len(row_ids)]
            else:
                turn = self._turns.get(stream, 0)
                row_id = row_ids[turn % len(row_ids)]
                self._turns[stream] = turn + 1
            values, keys = parts.setdefault(row_id, ([], []))
            values.append(value)
            keys.append(key)
        return {row_id: list(rows_of(values, keys)) for row_id, (values, keys) in parts.items()}


def _numbered(stream: str, partition_id: str, row_ids: Sequence[int]) -> int:
    if partition_id.isascii() and partition_id.isdigit() and int(partition_id) < len(row_ids):
        return row_ids[int(partition_id)]
    raise StreamMissing(f"stream {stream!r} has no partition {partition_id!r}")


def _too_large(message: Message) -> MessageTooLarge:
    if len(message.value) > VALUE_BYTES_MAX:
        what, size, bytes_max = "value", len(message.value), VALUE_BYTES_MAX
    else:
        what, size, bytes_max = "key", len(message.key or b""), KEY_BYTES_MAX
    return MessageTooLarge(
        f"a {what} of {size} bytes for stream {message.stream!r}; the log takes {bytes_max} at most",
        bytes_max=bytes_max,
    )


def size_of(rows: Rows) -> int:
    """Bytes that appending will write, about."""
    return sum(len(row.body) for group in rows.values() for row in group)


def append(db: sqlite3.Connection, rows: Rows, *, now_ms: Callable[[], int]) -> None:
    """Give the rows their positions and arrival time. Raises StaleLayout."""
    for partition_id, group in rows.items():
        found = db.execute(
            "SELECT next_position, last_arrival_ms FROM partitions WHERE id = ? AND stream_id IS NOT NULL",
            (partition_id,),
        ).fetchone()
        if found is None:
            raise StaleLayout
        start, last_arrival_ms = found
        arrival_ms = max(now_ms(), last_arrival_ms)
        for row in group:
            end = start + row.count
            total = check_sum(row.body_crc, partition_id=partition_id, start=start, end=end, arrival_ms=arrival_ms)
            db.execute(
                "INSERT INTO batches (partition_id, start_position, end_position, arrival_ms, check_sum, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (partition_id, start, end, arrival_ms, total, row.body),
            )
            start = end
        db.execute(
            "UPDATE partitions SET next_position = ?, last_arrival_ms = ? WHERE id = ?",
            (start, arrival_ms, partition_id),
        )


def read(
    db: sqlite3.Connection,
    partition: Partition,
    place: streams.Place,
    start: int,
    *,
    records_max: int,
    bytes_max: int,
) -> Batch:
    """What lies at and after `start`, within the limits; at least one record if there is one.

    Raises PositionLost, LogDamaged.
    """
    assert records_max >= 1, "a read asks for one record at least"
    if start < place.oldest:
        raise PositionLost(
            f"{partition}: position {start} is past retention, the oldest record retained is {place.oldest}; "
            "records between were removed unread"
        )
    end = start
    values: list[bytes] = []
    keys: list[bytes | None] = []
    arrivals_ms: list[int] = []
    cursor = db.execute(
        "SELECT start_position, end_position, arrival_ms, check_sum, body FROM batches"
        " WHERE partition_id = ? AND end_position > ? ORDER BY end_position",
        (place.row_id, min(start, INTEGER_MAX)),
    )
    for row_start, row_end, arrival_ms, total, body in cursor:
        if row_start > end or (values and row_start < end):
            raise LogDamaged(f"{partition}: after record {end - 1} the log goes on with {row_start}")
        if (
            check_sum(crc32(body), partition_id=place.row_id, start=row_start, end=row_end, arrival_ms=arrival_ms)
            != total
        ):
            raise LogDamaged(f"{partition}: the row of records {row_start} to {row_end - 1} has a wrong check sum")
        offsets = value_offsets(body, row_end - row_start)
        first = end - row_start
        stop = records_within(offsets, first=first, records_max=records_max - len(values), bytes_max=max(bytes_max, 0))
        if values and offsets[stop] - offsets[first] > bytes_max:
            break  # The next record alone is over what is left.
        values += decode_values(body, offsets, first=first, stop=stop)
        keys += decode_keys(body, offsets, first=first, stop=stop)
        arrivals_ms += [arrival_ms] * (stop - first)
        bytes_max -= offsets[stop] - offsets[first]
        end = row_start + stop
        if end < row_end or len(values) >= records_max or bytes_max <= 0:
            break
    if not values and start < place.next_position:
        raise LogDamaged(f"{partition}: records {start} to {place.next_position - 1} are missing from the log")
    return Batch(
        partition=partition,
        start=Position(start),
        end=Position(end),
        positions=cast("Sequence[Position]", range(start, end)),
        arrivals_ms=arrivals_ms,
        keys=keys,
        values=values,
    )
