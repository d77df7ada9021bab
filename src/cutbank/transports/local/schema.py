"""The file's tables and the mark that says it is ours. Owns the schema's version; runs on its connection's thread.

Invariant: a partition's `next_position` and a cursor's `epoch` never go back, whatever retention or deletion removes.
"""

import os
import sqlite3
from pathlib import Path

from cutbank.errors import UsageError

APPLICATION_ID = 0x43424C47
"""`CBLG`, in the file's header."""

SCHEMA_VERSION = 1
"""In the header's user_version. Another version is refused."""

PAGE_BYTES = 8192
"""Page size: between 4 and 32 KiB no difference in throughput was measured beyond noise."""

_TABLES = (
    """CREATE TABLE streams (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        identity TEXT NOT NULL,
        retention_ms INTEGER NOT NULL
    )""",
    # stream_id NULL: its stream was deleted, what is left of it is being removed.
    """CREATE TABLE partitions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        stream_id INTEGER,
        number INTEGER NOT NULL,
        oldest INTEGER NOT NULL DEFAULT 0,
        next_position INTEGER NOT NULL DEFAULT 0,
        last_arrival_ms INTEGER NOT NULL DEFAULT 0,
        UNIQUE (stream_id, number)
    )""",
    # One row a batch of records: rows.py has the body's format.
    """CREATE TABLE batches (
        id INTEGER PRIMARY KEY,
        partition_id INTEGER NOT NULL,
        start_position INTEGER NOT NULL,
        end_position INTEGER NOT NULL,
        arrival_ms INTEGER NOT NULL,
        check_sum INTEGER NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE UNIQUE INDEX batches_by_end ON batches (partition_id, end_position)",
    # generation: goes up whenever members or owners change.
    """CREATE TABLE groups (
        name TEXT PRIMARY KEY,
        generation INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE members (
        joined INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        group_name TEXT NOT NULL,
        beats INTEGER NOT NULL DEFAULT 0,
        session_timeout_ms INTEGER NOT NULL,
        takes INTEGER NOT NULL,
        streams TEXT NOT NULL
    )""",
    """CREATE TABLE cursors (
        group_name TEXT NOT NULL,
        partition_id INTEGER NOT NULL,
        owner TEXT,
        epoch INTEGER NOT NULL DEFAULT 0,
        committed INTEGER,
        PRIMARY KEY (group_name, partition_id)
    ) WITHOUT ROWID""",
)


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Check that the file is a log of ours, or make it one if it is new. Raises UsageError, sqlite3.Error (busy)."""
    db.execute("BEGIN")  # One view: another process may be making it.
    try:
        ours = _is_ours(db, path)
    finally:
        db.execute("ROLLBACK")
    if ours:
        return
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise UsageError(f"{path}: this file system has no shared memory for SQLite's WAL; choose a local disk")
    db.execute("BEGIN IMMEDIATE")
    try:
        if not _is_ours(db, path):  # Another process may have been quicker.
            for statement in _TABLES:
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    _sync_folder(path.parent)


def _is_ours(db: sqlite3.Connection, path: Path) -> bool:
    """True: ours, of our version. False: empty. Raises UsageError for everything else."""
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and application_id == 0:
        return False
    if application_id != APPLICATION_ID:
        raise UsageError(f"{path}: a SQLite file of another program, not a Cutbank log; name another file")
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: a Cutbank log of schema version {version}, this program has {SCHEMA_VERSION}; "
            "use the program that made it, or name another file"
        )
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new file's name durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
