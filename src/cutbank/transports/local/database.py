"""Connections to the file: how they are set, how a write takes the lock, and what SQLite's errors mean to callers.

Invariant: a write is one transaction under the write lock, done whole or not at all; of one process the writes
happen in the order in which they were asked for. Every object here belongs to one thread (see `workers`).

SQLite's lock is unfair: whoever asks while it is free gets it. So a writer pauses after each transaction, and one that
waits asks often. Checkpoints are made by hand, under the write lock: SQLite before 3.51.3 can corrupt the file when
a writer resets the WAL during another connection's checkpoint (sqlite.org/wal.html, "The WAL-Reset Bug").
"""

import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from cutbank.errors import CutbankError, LogDamaged, OutcomeUnknown, StreamUnavailable, UsageError
from cutbank.transports.local.schema import prepare
from cutbank.transports.local.settings import LocalSettings

T = TypeVar("T")

log = structlog.get_logger(__name__)

PAUSE_S = 0.001
"""Pause of one process between two of its write transactions, so that others get the lock, seconds."""

RETRY_S_MAX = 0.0008
"""Longest pause between two tries for the write lock, seconds; shorter than PAUSE_S, so that a pause is not missed."""

CHECKPOINT_BYTES = 8 << 20
"""A process checkpoints each time it has written so much, so the WAL is about this times the writing processes."""

WAL_BYTES_KEPT = 64 << 20
"""A WAL that grew larger, because a reader held it, is cut to this when it is reset, bytes."""

TRANSACTION_OVERHEAD_BYTES = 32 << 10
"""What a small transaction adds to the WAL: a few pages."""

_CHECKPOINT_TRIES = 20
_CACHE_KIB = 8192
_PASSING = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where it gave none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def translate(error: sqlite3.Error, path: Path) -> CutbankError:
    """What a failed call means when nothing was done."""
    if _code(error) in _BUSY:
        return StreamUnavailable(f"{path}: busy ({error})")
    if _code(error) in _PASSING:
        return StreamUnavailable(f"{path}: {error}; check the disk's space, health and permissions")
    return LogDamaged(f"{path}: the log is damaged ({error}); restore the file or start a new one")


def _connect(path: Path, settings: LocalSettings) -> sqlite3.Connection:
    """A connection that never waits by itself: SQLite's own waiting grows to 100 ms, which misses short pauses."""
    db = sqlite3.connect(path, timeout=0.0, isolation_level=None, cached_statements=128)
    try:
        db.execute(f"PRAGMA synchronous = {'FULL' if settings.durability == 'power-loss' else 'NORMAL'}")
        db.execute("PRAGMA fullfsync = ON")  # Means something on macOS only.
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        db.close()
        raise
    return db


def _patiently(call: Callable[[], T], *, busy_ms: int) -> T:
    """Call again while SQLite says that it is busy, `busy_ms` at most; then its own error."""
    deadline_s = time.monotonic() + busy_ms / 1000
    while True:
        try:
            return call()
        except sqlite3.Error as error:
            if _code(error) not in _BUSY or time.monotonic() > deadline_s:
                raise
        time.sleep(random.uniform(RETRY_S_MAX / 4, RETRY_S_MAX))


class Reader:
    """A connection that only reads, one short transaction a call."""

    def __init__(self, path: Path, settings: LocalSettings) -> None:
        self._path = path
        self._busy_ms = settings.busy_ms
        try:
            self.db = _patiently(lambda: _connect(path, settings), busy_ms=settings.busy_ms)
        except sqlite3.Error as error:
            raise translate(error, path) from error
        self.db.execute("PRAGMA query_only = ON")

    def query(self, body: Callable[[sqlite3.Connection], T]) -> T:
        """Run `body` on one consistent view. Raises StreamUnavailable, LogDamaged, what `body` raises."""

        def once() -> T:
            self.db.execute("BEGIN")
            try:
                return body(self.db)
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")

        try:
            return _patiently(once, busy_ms=self._busy_ms)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

    def close(self) -> None:
        """Close the connection."""
        self.db.close()


class Writer:
    """The connection of a process that writes, and a second one that holds the lock during checkpoints."""

    def __init__(self, path: Path, settings: LocalSettings) -> None:
        self._path = path
        self._settings = settings
        self._free_at_s = 0.0
        self._unchecked_bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = _patiently(self._open, busy_ms=settings.busy_ms)
            try:
                self._lock_db = _patiently(lambda: _connect(path, settings), busy_ms=settings.busy_ms)
            except BaseException:
                self.db.close()
                raise
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; name a file that can be written") from None
        except sqlite3.Error as error:
            if _code(error) in _BUSY:
                raise translate(error, path) from error
            raise UsageError(
                f"{path}: {error}; name a Cutbank log, or a new file in a folder that can be written"
            ) from None
        found = path.stat()
        self._file = (found.st_dev, found.st_ino)

    def _open(self) -> sqlite3.Connection:
        """Connect, and make the file a log if it is new; several processes may do so at once."""
        db = _connect(self._path, self._settings)
        try:
            prepare(db, self._path)
        except BaseException:
            db.close()
            raise
        return db

    def transact(self, body: Callable[[sqlite3.Connection], T], *, size_bytes: int = 0) -> T:
        """Run `body` in one transaction and commit it.

        Raises StreamUnavailable (nothing done: busy for `busy_ms`, disk full or failing), OutcomeUnknown (the
        commit itself failed), LogDamaged, and whatever `body` raises (nothing done).
        """
        self._check_file()
        self._begin()
        try:
            result = body(self.db)
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                raise translate(error, self._path) from error
            raise
        try:
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if _code(error) not in _PASSING - {sqlite3.SQLITE_FULL}:
                raise translate(error, self._path) from error
            # A failed sync may leave the commit in the WAL, where a later recovery would find it.
            raise OutcomeUnknown(f"{self._path}: the commit failed ({error}); it may or may not be there") from error
        finally:
            self._free_at_s = time.monotonic() + PAUSE_S
        self._unchecked_bytes += size_bytes + TRANSACTION_OVERHEAD_BYTES
        return result

    def _check_file(self) -> None:
        """A file removed or replaced while it is open would take writes that nobody ever sees."""
        try:
            found = self._path.stat()
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._file:
            raise LogDamaged(
                f"{self._path}: the log was removed or replaced while in use; stop every service, then start again"
            )

    def _begin(self) -> None:
        """Take the write lock; wait for it `busy_ms` at most."""
        time.sleep(max(0.0, self._free_at_s - time.monotonic()))
        try:
            _patiently(lambda: self.db.execute("BEGIN IMMEDIATE"), busy_ms=self._settings.busy_ms)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

    def _roll_back(self) -> None:
        """Leave the transaction; a connection that can't is replaced, so that the next call finds a clean one."""
        try:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
        except sqlite3.Error:
            self.db.close()
            self.db = _connect(self._path, self._settings)

    @property
    def checkpoint_due(self) -> bool:
        """Whether this process has written enough since its last checkpoint."""
        return self._unchecked_bytes >= CHECKPOINT_BYTES

    def checkpoint(self) -> None:
        """Move the WAL into the file, so that the next writer begins it anew. Skipped while the file is busy.

        The second connection holds the write lock, so nobody can reset the WAL meanwhile. Readers that still need an
        older view keep the WAL from being finished; they take milliseconds, so it is tried a few times.
        """
        try:
            self._lock_db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            return  # Somebody writes: tried again after the next transaction.
        try:
            for _ in range(_CHECKPOINT_TRIES):
                _, in_wal, moved = self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if in_wal == moved:
                    break
                time.sleep(PAUSE_S)
            self._unchecked_bytes = 0
        except sqlite3.Error as error:
            log.warning("checkpoint failed, tried again later", path=str(self._path), why=str(error))
            self._unchecked_bytes //= 2
        finally:
            self._lock_db.execute("ROLLBACK")

    def close(self) -> None:
        """Close both connections; the last process to close also empties the WAL."""
        self._lock_db.close()
        self.db.close()
