"""Objects as plain files below a root folder, on any file system with hard links. Owns the folder tree below the root.

Invariant: a file appears under its final name whole and durable, or not at all, whoever is killed when: written to
a temporary file of the same file system, synced, hard-linked to its name (which fails if the name is taken), and the
folders synced. Nothing below the root is reached through a symbolic link, so no key leaves the root.
Any number of processes may share a root. Event-loop only on the outside; all work on files runs in threads and holds
no lock, so a cancelled call leaves a thread that finishes by itself.
"""

import asyncio
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import unquote

from cutbank.clock import Clock
from cutbank.errors import (
    AlreadyExists,
    ObjectMissing,
    PartitionStopped,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UsageError,
)
from cutbank.metrics import Metrics
from cutbank.objects.base import KEY_BYTES_MAX, OBJECT_BYTES_MAX, ObjectInfo, key_check
from cutbank.objects.probe import probe_store
from cutbank.objects.walk import walk

T = TypeVar("T")

TEMPORARY = ".cutbank-tmp"
"""Hidden folder below the root for files that are being written. No key may begin with it; listings leave it out."""

TEMPORARY_AGE_S = 3600.0
"""A temporary file this old, by the file system's own clock, was left by a killed process and is removed.

Safe even if its writer only slept: its link then fails, and it writes anew.
"""

SWEEP_EVERY_S = 3600.0
"""How often a store looks for temporary files left behind, seconds; also before its first put."""

SWEEP_FILES_MAX = 1000
"""Most temporary files looked at in one sweep."""

DURABLE_FOLDERS_MAX = 4096
"""Most folders remembered as synced, so that a put syncs only the folder it links into."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_UNFIT = {
    errno.ELOOP: "is a symbolic link, which the store does not follow",
    errno.ENOTDIR: "needs a folder where a file or link is",
    errno.EISDIR: "is a folder already",
    errno.EEXIST: "needs a folder where a file is",
    errno.ENAMETOOLONG: "is longer than this file system takes",
    errno.EOPNOTSUPP: "is on a file system without hard links; use another one",
}


def path_from_url(url: str) -> Path:
    """The folder that `file:///absolute` or `file://relative/to/here` names, percent-decoded. Raises UsageError."""
    text = url.removeprefix("file://")
    path = unquote(text)
    if not path or "\0" in path or "?" in text or "#" in text:
        raise UsageError(f"object store {url!r}: write file:///absolute/folder or file://relative/folder")
    return Path(path)


class FileSystemStore:
    """An `ObjectStore` in a folder. Made on the first put; a missing folder reads as an empty store."""

    def __init__(self, root: Path, *, clock: Clock, metrics: Metrics) -> None:
        self._root = root.absolute()
        self._clock = clock
        self._metrics = metrics
        self._durable: set[tuple[str, ...]] = set()
        self._swept_s: float | None = None

    @property
    def url(self) -> str:
        """The root as a URL, absolute."""
        return f"file://{self._root}"

    @property
    def key_bytes_max(self) -> int:
        """The root does not count."""
        return KEY_BYTES_MAX

    async def __aenter__(self) -> Self:
        """Nothing to open: each call opens what it needs."""
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Nothing to close."""

    async def create(self, key: str, body: bytes) -> None:
        """As the protocol says. A full disk is StoreUnavailable: it may be retried until there is room."""
        began_s = self._clock.monotonic_s()
        if self._swept_s is None or began_s - self._swept_s >= SWEEP_EVERY_S:
            self._swept_s = began_s
            await asyncio.to_thread(self._sweep)
        await asyncio.to_thread(self._create, _segments(key), body)
        self._metrics.observe("cutbank_object_put_seconds", self._clock.monotonic_s() - began_s)

    async def read(self, key: str) -> bytes:
        """The whole body."""
        return await asyncio.to_thread(self._read, _segments(key))

    async def exists(self, key: str) -> bool:
        """Whether it is there, and stays there after a power loss."""
        return await asyncio.to_thread(self._exists, _segments(key))

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """As the protocol says. Reads one folder at a time; files that no key can name are left out."""
        folder, _, _ = prefix.rpartition("/")
        if folder:
            _segments(folder)
        pages = walk(str(self._root), prefix=prefix, after=after, hidden=TEMPORARY)
        while page := await self._in_thread(lambda: next(pages, None), "list", prefix):
            for key, size_bytes in page:
                yield ObjectInfo(key=key, size_bytes=size_bytes)

    async def delete(self, key: str) -> None:
        """Remove a file; its folders stay."""
        await asyncio.to_thread(self._delete, _segments(key))

    async def probe(self, *, deletes: bool = False) -> None:
        """As the protocol says; makes the root."""
        await probe_store(self, deletes=deletes)

    async def _in_thread(self, call: Callable[[], T], action: str, key: str) -> T:
        def guarded() -> T:
            with self._translated(action, key):
                return call()

        return await asyncio.to_thread(guarded)

    # What follows runs in threads.

    def _create(self, segments: tuple[str, ...], body: bytes) -> None:
        key = "/".join(segments)
        with self._translated("create", key), self._folder((TEMPORARY,), make=True) as temporary:
            name = secrets.token_hex(16)
            try:
                _write(name, body, folder=temporary)
                with self._folder(segments[:-1], make=True) as folder:
                    self._link(name, segments[-1], temporary=temporary, folder=folder, key=key)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=temporary)

    def _link(self, name: str, final: str, *, temporary: int, folder: int, key: str) -> None:
        try:
            os.link(name, final, src_dir_fd=temporary, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            # Deleted since: it was there all the same.
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(final, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), final) from None
            # Whoever is told that it is there builds on it: it has to outlive a power loss from now on.
            _sync(folder)
            raise AlreadyExists(f"{self.url}: {key} is there already") from None
        _sync(folder)

    def _read(self, segments: tuple[str, ...]) -> bytes:
        key = "/".join(segments)
        with self._translated("read", key), self._missing(key), self._folder(segments[:-1], make=False) as folder:
            # Without O_NONBLOCK, a pipe that somebody left here would hold the thread for ever.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(segments[-1], flags, dir_fd=folder)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise ObjectMissing(f"{self.url}: {key} is no plain file")
                if found.st_size > OBJECT_BYTES_MAX:
                    raise PartitionStopped(
                        f"{self.url}: {key} has {found.st_size} bytes, more than OBJECT_BYTES_MAX "
                        f"({OBJECT_BYTES_MAX}): Cutbank writes none so large; restore it, or move it out of the way"
                    )
                with open(descriptor, "rb", closefd=False) as file:
                    return file.read()
            finally:
                os.close(descriptor)

    def _exists(self, segments: tuple[str, ...]) -> bool:
        key = "/".join(segments)
        with self._translated("look up", key):
            try:
                with self._missing(key), self._folder(segments[:-1], make=False, sync=True) as folder:
                    found = os.stat(segments[-1], dir_fd=folder, follow_symlinks=False)
                    _sync(folder)
                    return stat.S_ISREG(found.st_mode)
            except ObjectMissing:
                return False

    def _delete(self, segments: tuple[str, ...]) -> None:
        key = "/".join(segments)
        missing = suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError)
        with self._translated("delete", key), missing, self._folder(segments[:-1], make=False) as folder:
            os.unlink(segments[-1], dir_fd=folder)
            _sync(folder)

    @contextmanager
    def _folder(self, segments: tuple[str, ...], *, make: bool, sync: bool = False) -> Iterator[int]:
        """A descriptor of the folder, reached from the root part by part; `make` and `sync` see to it that it lasts."""
        if make and not self._root.is_dir():
            self._make_root()
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for depth, segment in enumerate(segments, start=1):
                path = segments[:depth]
                lasting = path in self._durable
                try:
                    child = self._step(descriptor, segment, make=make and not lasting, sync=sync and not lasting)
                except FileNotFoundError:
                    if not (make and lasting):
                        raise
                    # Somebody has removed it since.
                    child = self._step(descriptor, segment, make=True, sync=True)
                os.close(descriptor)
                descriptor = child
                if (make or sync) and not lasting:
                    self._remember(path)
            yield descriptor
        finally:
            os.close(descriptor)

    def _step(self, parent: int, segment: str, *, make: bool, sync: bool) -> int:
        """One folder down."""
        if make:
            with suppress(FileExistsError):
                os.mkdir(segment, dir_fd=parent)
        if make or sync:
            _sync(parent)
        return os.open(segment, _FOLDER, dir_fd=parent)

    def _remember(self, path: tuple[str, ...]) -> None:
        if len(self._durable) >= DURABLE_FOLDERS_MAX:
            self._durable.clear()
        self._durable.add(path)

    def _make_root(self) -> None:
        """The root and its parents, each synced into its own parent."""
        missing = [folder for folder in (self._root, *self._root.parents) if not folder.is_dir()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            descriptor = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _sync(descriptor)
            finally:
                os.close(descriptor)
        self._durable.clear()

    def _sweep(self) -> None:
        """Remove temporary files of killed processes: a bounded number, only old ones, by the file system's clock."""
        with self._translated("sweep", TEMPORARY), self._folder((TEMPORARY,), make=True) as folder:
            marker = secrets.token_hex(16)
            _write(marker, b"", folder=folder)
            now_s = os.stat(marker, dir_fd=folder).st_mtime
            os.unlink(marker, dir_fd=folder)
            with os.scandir(folder) as entries:
                for _, entry in zip(range(SWEEP_FILES_MAX), entries, strict=False):
                    with suppress(FileNotFoundError):
                        if now_s - entry.stat(follow_symlinks=False).st_mtime >= TEMPORARY_AGE_S:
                            os.unlink(entry.name, dir_fd=folder)

    @contextmanager
    def _missing(self, key: str) -> Iterator[None]:
        """What says that no object has this key."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(f"{self.url}: no object {key}") from None

    @contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        """The operating system's errors as ours: what may be retried, and what needs somebody to act."""
        try:
            yield
        except OSError as error:
            raise self._error(action, key, error) from error

    def _error(self, action: str, key: str, error: OSError) -> StoreError | StoreRefused:
        where = f"{self._root / key}"
        if error.errno in _REFUSED:
            needed = "read and search" if action in ("read", "list", "look up") else "write and search"
            return StoreRefused(
                f"object store: no permission to {action} {where} ({error.strerror}): give this user {needed} "
                f"permission on the folders from {self._root} down"
            )
        if error.errno in _UNFIT:
            return StoreRefused(f"object store: cannot {action} {where}: it {_UNFIT[error.errno]}")
        return StoreUnavailable(f"object store: cannot {action} {where} now: {error.strerror or error}")


def _segments(key: str) -> tuple[str, ...]:
    """A key's parts. Raises ValueError for a key that no object can have."""
    segments = tuple(key_check(key).split("/"))
    if segments[0] == TEMPORARY:
        raise ValueError(f"object key {key!r}: {TEMPORARY} is the store's own folder")
    return segments


def _write(name: str, body: bytes, *, folder: int) -> None:
    """A new file, whole and synced."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o666, dir_fd=folder)
    try:
        rest = memoryview(body)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: int) -> None:
    """Make a folder's entries durable, where the file system can be asked to (some network ones do it unasked)."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):
            raise
