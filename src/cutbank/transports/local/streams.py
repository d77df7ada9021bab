"""Streams and their partitions in the file: make, describe, delete, find a start, drop what is past retention.

Functions over a connection, run inside the caller's transaction, off the event loop.
Invariant: nothing here moves a partition's `next_position`; `oldest` only grows.
"""

import sqlite3
from dataclasses import dataclass
from uuid import uuid4

from cutbank.errors import LogDamaged, StreamMissing, UsageError
from cutbank.records import Partition, Position
from cutbank.transports.base import PartitionInfo, Start, StreamConfig, StreamInfo

PARTITIONS_MAX = 1024
"""Most partitions of a stream."""

NAME_CHARACTERS_MAX = 255
"""Longest stream name."""

EXPIRE_ROWS_MAX = 64
"""Most rows (of about 256 KiB at most) removed in one transaction, so that retention holds the lock shortly."""


@dataclass(frozen=True, slots=True)
class Place:
    """A partition's row."""

    row_id: int
    oldest: int
    next_position: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What a publisher must know of a stream; true for as long as the rows exist."""

    name: str
    partition_row_ids: tuple[int, ...]


def missing(stream: str) -> StreamMissing:
    """The error for a stream that is not there."""
    return StreamMissing(f"stream {stream!r} does not exist; make it with: cutbank streams create {stream}")


def check_config(config: StreamConfig) -> None:
    """Raises UsageError."""
    if not config.name or len(config.name) > NAME_CHARACTERS_MAX or not config.name.isprintable():
        raise UsageError(f"stream name {config.name[:60]!r}: 1 to {NAME_CHARACTERS_MAX} printable characters")
    if not 1 <= config.partitions <= PARTITIONS_MAX:
        raise UsageError(f"stream {config.name}: {config.partitions} partitions; 1 to {PARTITIONS_MAX} are possible")
    if config.retention_ms < 1:
        raise UsageError(f"stream {config.name}: retention_ms is {config.retention_ms}; it must be 1 or more")


def ensure(db: sqlite3.Connection, config: StreamConfig) -> StreamInfo:
    """Make the stream unless it exists; describe it."""
    if db.execute("SELECT 1 FROM streams WHERE name = ?", (config.name,)).fetchone() is None:
        cursor = db.execute(
            "INSERT INTO streams (name, identity, retention_ms) VALUES (?, ?, ?)",
            (config.name, str(uuid4()), config.retention_ms),
        )
        db.executemany(
            "INSERT INTO partitions (stream_id, number) VALUES (?, ?)",
            ((cursor.lastrowid, number) for number in range(config.partitions)),
        )
    return describe(db, config.name)


def describe(db: sqlite3.Connection, stream: str) -> StreamInfo:
    """The stream as it is. Raises StreamMissing."""
    found = db.execute("SELECT id, identity, retention_ms FROM streams WHERE name = ?", (stream,)).fetchone()
    if found is None:
        raise missing(stream)
    stream_id, identity, retention_ms = found
    rows = db.execute(
        "SELECT number, oldest, next_position FROM partitions WHERE stream_id = ? ORDER BY number", (stream_id,)
    )
    return StreamInfo(
        name=stream,
        identity=identity,
        retention_ms=retention_ms,
        partitions=tuple(
            PartitionInfo(partition=Partition(stream, str(number)), oldest=Position(oldest), end=Position(end))
            for number, oldest, end in rows
        ),
    )


def names(db: sqlite3.Connection) -> tuple[str, ...]:
    """All streams, sorted."""
    return tuple(sorted(name for (name,) in db.execute("SELECT name FROM streams")))


def layout(db: sqlite3.Connection, stream: str) -> Layout:
    """The row ids of a stream's partitions, in order. Raises StreamMissing."""
    rows = db.execute(
        "SELECT p.id FROM partitions p JOIN streams s ON s.id = p.stream_id WHERE s.name = ? ORDER BY p.number",
        (stream,),
    ).fetchall()
    if not rows:
        raise missing(stream)
    return Layout(name=stream, partition_row_ids=tuple(row_id for (row_id,) in rows))


def place(db: sqlite3.Connection, partition: Partition) -> Place:
    """A partition by name. Raises StreamMissing."""
    number = int(partition.id) if partition.id.isascii() and partition.id.isdigit() else -1
    found = db.execute(
        "SELECT p.id, p.oldest, p.next_position FROM partitions p JOIN streams s ON s.id = p.stream_id"
        " WHERE s.name = ? AND p.number = ?",
        (partition.stream, min(number, PARTITIONS_MAX)),
    ).fetchone()
    if found is None:
        layout(db, partition.stream)  # Raises if it is the stream that is missing.
        raise StreamMissing(f"stream {partition.stream!r} has no partition {partition.id!r}")
    return Place(*found)


def place_by_row(db: sqlite3.Connection, row_id: int, partition: Partition) -> Place:
    """A partition by its row, which a stream made again under the same name does not have. Raises StreamMissing."""
    found = db.execute(
        "SELECT id, oldest, next_position FROM partitions WHERE id = ? AND stream_id IS NOT NULL", (row_id,)
    ).fetchone()
    if found is None:
        raise missing(partition.stream)
    return Place(*found)


def position_at(db: sqlite3.Connection, partition: Partition, start: Start) -> Position:
    """Resolve a start. Raises StreamMissing."""
    where = place(db, partition)
    if start.at == "earliest":
        return Position(where.oldest)
    if start.at == "latest":
        return Position(where.next_position)
    # Arrivals never decrease within a partition, so the row is found by halving.
    low, high = where.oldest, where.next_position
    while low < high:
        middle = (low + high) // 2
        row = db.execute(
            "SELECT start_position, end_position, arrival_ms FROM batches"
            " WHERE partition_id = ? AND end_position > ? ORDER BY end_position LIMIT 1",
            (where.row_id, middle),
        ).fetchone()
        if row is None:
            raise LogDamaged(f"{partition}: records from {middle} on are missing from the log")
        first, end, arrival_ms = row
        if arrival_ms < start.timestamp_ms:
            low = end
        else:
            high = max(first, low)
    return Position(low)


def delete(db: sqlite3.Connection, stream: str) -> None:
    """Take the stream's name away; its rows go with `expire_some`. Raises StreamMissing."""
    rows = layout(db, stream).partition_row_ids
    db.executemany("DELETE FROM cursors WHERE partition_id = ?", ((row_id,) for row_id in rows))
    db.executemany("UPDATE partitions SET stream_id = NULL WHERE id = ?", ((row_id,) for row_id in rows))
    db.execute("DELETE FROM streams WHERE name = ?", (stream,))
    db.execute("UPDATE groups SET generation = generation + 1")


def expired_partition(db: sqlite3.Connection, *, now_ms: int) -> int | None:
    """Row id of a partition that has something to remove: past retention, or of a deleted stream; None without one."""
    rows = db.execute(
        "SELECT p.id, s.retention_ms FROM partitions p LEFT JOIN streams s ON s.id = p.stream_id ORDER BY p.id"
    ).fetchall()
    for row_id, retention_ms in rows:
        first = db.execute(
            "SELECT arrival_ms FROM batches WHERE partition_id = ? ORDER BY end_position LIMIT 1", (row_id,)
        ).fetchone()
        if retention_ms is None or (first is not None and first[0] <= now_ms - retention_ms):
            return int(row_id)
    return None


def expire_some(db: sqlite3.Connection, *, row_id: int, now_ms: int) -> int:
    """Remove up to EXPIRE_ROWS_MAX expired rows of a partition, oldest first; returns how many records that was."""
    found = db.execute(
        "SELECT s.retention_ms FROM partitions p LEFT JOIN streams s ON s.id = p.stream_id WHERE p.id = ?", (row_id,)
    ).fetchone()
    if found is None:
        return 0
    (retention_ms,) = found
    rows = db.execute(
        "SELECT id, start_position, end_position, arrival_ms FROM batches WHERE partition_id = ?"
        " ORDER BY end_position LIMIT ?",
        (row_id, EXPIRE_ROWS_MAX),
    ).fetchall()
    if retention_ms is not None:
        rows = [row for row in rows if row[3] <= now_ms - retention_ms]
    elif not rows:
        db.execute("DELETE FROM partitions WHERE id = ?", (row_id,))
    if not rows:
        return 0
    db.executemany("DELETE FROM batches WHERE id = ?", ((row[0],) for row in rows))
    db.execute("UPDATE partitions SET oldest = ? WHERE id = ?", (rows[-1][2], row_id))
    return sum(end - start for _, start, end, _ in rows)
