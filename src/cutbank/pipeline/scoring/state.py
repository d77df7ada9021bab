"""The state store as the scorer sees it: births and snapshots of one pipeline's source stream, read and created.

Owns the rule that births are never deleted and that a snapshot goes only when two newer usable ones are durable.
Everything is create-only; what is already there counts, unless it is a snapshot that can't be read back.
Event-loop only. Raises the store's errors as they are: StoreUnavailable is the caller's to retry.
"""

from dataclasses import dataclass

import structlog

from cutbank.errors import AlreadyExists, Fenced, ObjectMissing, SnapshotUnusable, StoreUnavailable
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.scoring.snapshots import (
    SNAPSHOT_BYTES_MAX,
    Birth,
    Run,
    Snapshot,
    StreamBirth,
    birth_bytes,
    birth_from_bytes,
    birth_key,
    parse_key,
    partition_prefix,
    snapshot_from_bytes,
    snapshot_key,
    stream_birth_bytes,
    stream_birth_from_bytes,
    stream_birth_key,
)
from cutbank.records import Partition, Position

SNAPSHOTS_KEPT = 2
"""Usable generations that are always kept."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """A snapshot in a listing."""

    run: int
    next: Position
    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the store holds of one partition."""

    runs: tuple[int, ...]
    """Numbers of all runs that left anything, increasing."""
    snapshots: tuple[SnapshotEntry, ...]
    """Of all runs; the newest run first, in a run the newest first."""

    @property
    def newest_run(self) -> int:
        """The highest run number; 0 without any."""
        return self.runs[-1] if self.runs else 0

    def of_run(self, run: int) -> tuple[SnapshotEntry, ...]:
        """The snapshots of one run, newest first."""
        return tuple(entry for entry in self.snapshots if entry.run == run)


class StateRoom:
    """Births and snapshots of one pipeline and source stream."""

    def __init__(self, store: ObjectStore, *, pipeline: str, stream: str) -> None:
        self._store = store
        self.pipeline = pipeline
        self.stream = stream

    @property
    def url(self) -> str:
        """Where the store is, for messages."""
        return self._store.url

    async def stream_birth(self) -> StreamBirth | None:
        """The stream's birth; None if there is none. Raises SnapshotUnusable."""
        key = stream_birth_key(self.pipeline, self.stream)
        try:
            return stream_birth_from_bytes(await self._store.read(key), key=key)
        except ObjectMissing:
            return None

    async def create_stream_birth(self, birth: StreamBirth) -> None:
        """Raises AlreadyExists: then that one counts."""
        await self._store.create(stream_birth_key(self.pipeline, self.stream), stream_birth_bytes(birth))

    async def discard_stream_birth(self) -> None:
        """Remove a stream's birth that can't be read; only where the user asked for a new run."""
        await self._store.delete(stream_birth_key(self.pipeline, self.stream))

    async def inventory(self, partition: Partition) -> Inventory:
        """List what is there."""
        prefix = partition_prefix(self.pipeline, partition)
        runs: set[int] = set()
        snapshots: list[SnapshotEntry] = []
        async for entry in self._store.list(prefix):
            if (named := parse_key(prefix, entry.key)) is None:
                continue
            run, next_position = named
            runs.add(run)
            if next_position is not None:
                snapshots.append(SnapshotEntry(run, next_position, entry.key, entry.size_bytes))
        snapshots.sort(key=lambda entry: (entry.run, entry.next), reverse=True)
        return Inventory(runs=tuple(sorted(runs)), snapshots=tuple(snapshots))

    async def birth(self, partition: Partition, run: int) -> Birth | None:
        """A run's birth; None if there is none. Raises SnapshotUnusable."""
        key = birth_key(self.pipeline, partition, run)
        try:
            birth = birth_from_bytes(await self._store.read(key), key=key)
        except ObjectMissing:
            return None
        if (birth.run.pipeline, birth.run.partition, birth.run.number) != (self.pipeline, partition, run):
            raise SnapshotUnusable(f"{key}: holds the birth of another run ({birth.run})")
        return birth

    async def create_birth(self, birth: Birth) -> None:
        """Raises AlreadyExists: then that one counts."""
        key = birth_key(self.pipeline, birth.run.partition, birth.run.number)
        await self._store.create(key, birth_bytes(birth))

    async def snapshot(self, partition: Partition, entry: SnapshotEntry) -> Snapshot:
        """Read one. Raises SnapshotUnusable, ObjectMissing."""
        if entry.size_bytes > SNAPSHOT_BYTES_MAX:
            raise SnapshotUnusable(f"{entry.key}: {entry.size_bytes} bytes, the most is {SNAPSHOT_BYTES_MAX}")
        snapshot = snapshot_from_bytes(await self._store.read(entry.key), key=entry.key)
        run = snapshot.run
        found = (run.pipeline, run.partition, run.number, snapshot.next)
        if found != (self.pipeline, partition, entry.run, entry.next):
            raise SnapshotUnusable(f"{entry.key}: holds another snapshot ({run}, next {snapshot.next})")
        return snapshot

    async def create_snapshot(self, partition: Partition, run: int, next_position: Position, body: bytes) -> str:
        """Put a snapshot; returns its key. One that is there counts if it is the same, and is replaced if it isn't.

        Snapshots are a function of the log: another content under the same key is corrupt, or remembers records
        that the log no longer has. Raises StoreUnavailable also when somebody else replaces it at the same time: the
        next attempt compares again.
        """
        key = snapshot_key(self.pipeline, partition, run, next_position)
        try:
            await self._store.create(key, body)
        except AlreadyExists:
            try:
                if await self._store.read(key) == body:
                    return key
            except ObjectMissing:
                pass
            log.warning("snapshot replaced: what was there is corrupt or of another history", key=key)
            await self._store.delete(key)
            try:
                await self._store.create(key, body)
            except AlreadyExists as error:
                raise StoreUnavailable(f"{key}: somebody else replaced it at the same time") from error
        return key

    async def prune(self, partition: Partition, run: int, *, unusable: frozenset[str] = frozenset()) -> None:
        """Delete snapshots of older runs, and of this run all but the newest `SNAPSHOTS_KEPT` usable ones.

        Only called when one of `run` has just become durable. `unusable`: keys that are known to be unreadable.
        """
        inventory = await self.inventory(partition)
        kept = [entry.key for entry in inventory.of_run(run) if entry.key not in unusable][:SNAPSHOTS_KEPT]
        for entry in inventory.snapshots:
            if entry.run < run or (entry.run == run and entry.key not in kept):
                await self._store.delete(entry.key)

    async def discard(self, entry: SnapshotEntry) -> None:
        """Delete one snapshot that remembers records which the log no longer has."""
        await self._store.delete(entry.key)


async def check_newest_run(state: StateRoom, run: Run) -> None:
    """Raise Fenced if a newer run than ours was born: somebody else owns the partition."""
    newest = (await state.inventory(run.partition)).newest_run
    if newest > run.number:
        raise Fenced(f"{run.partition}: run {newest} was born, ours is run {run.number}")
