"""The streams and records of a log in memory. Owns positions, arrival times and what is retained.

Plain calls without I/O: each is one atomic step, because nothing else runs on the event loop meanwhile; what is
refused has changed nothing. Invariants: positions strictly increase within a partition and are never used again, also
not after retention; a stream made again under a name has an identity and places of its own.
"""

import asyncio
import random
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cutbank.clock import Clock
from cutbank.errors import MessageTooLarge, PositionLost, StreamMissing
from cutbank.records import Batch, Message, Partition, Position, partition_for
from cutbank.testing.memory_groups import Group, Place
from cutbank.transports.base import Output, PartitionInfo, Start, StreamConfig, StreamInfo
from cutbank.transports.local.streams import check_config, missing

OnPublish: TypeAlias = Callable[[Partition, Sequence[Position], Sequence[bytes]], None]
"""Told of records that have just become durable: partition, positions, values."""

OnCommit: TypeAlias = Callable[[str, Partition, Position], None]
"""Told of a position that has just been committed: group, partition, the first position not yet processed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """How a log in memory behaves; `MemoryLog` says what each means."""

    atomic: bool
    heartbeat_s: float
    session_timeout_s: float
    hand_over_s: float
    gap_max: int
    value_bytes_max: int
    seed: int


_FIRST = Position(0)


@dataclass(slots=True)
class Shelf:
    """The records of one partition, as columns of one length."""

    partition: Partition
    place: Place
    oldest: Position = _FIRST
    end: Position = _FIRST
    positions: list[Position] = field(default_factory=list)
    arrivals_ms: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    waiters: list[asyncio.Future[Any]] = field(default_factory=list)

    def append(self, messages: Sequence[Message], *, arrival_ms: int, gap: int) -> Sequence[Position]:
        """Add records, then leave out `gap` positions; wakes who waits. Returns the new records' positions."""
        positions = [Position(self.end + index) for index in range(len(messages))]
        self.positions += positions
        self.arrivals_ms += [arrival_ms] * len(messages)
        self.keys += [message.key for message in messages]
        self.values += [message.value for message in messages]
        self.end = Position(self.end + len(messages) + gap)
        self.wake()
        return positions

    def wake(self) -> None:
        """Tell who waits for news."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def news(self) -> asyncio.Future[Any]:
        """A future that is done after the next change; cancel it when it is no longer waited for."""
        self.waiters = [waiter for waiter in self.waiters if not waiter.done()]
        self.waiters.append(asyncio.get_running_loop().create_future())
        return self.waiters[-1]

    def read(self, start: Position, *, records_max: int, bytes_max: int) -> Batch:
        """What lies at and after `start`, within the limits. Raises PositionLost."""
        assert records_max >= 1, "a read asks for one record at least"
        if start < self.oldest:
            raise PositionLost(
                f"{self.partition}: position {start} is past retention, the oldest record retained is {self.oldest}; "
                "records between were removed unread"
            )
        first = stop = bisect_left(self.positions, start)
        size_bytes = 0
        while stop < min(first + records_max, len(self.values)):
            size_bytes += len(self.values[stop])
            if size_bytes > bytes_max and stop > first:
                break
            stop += 1
        # Whoever has read all that is there has also passed the positions left out behind it, as Kafka's readers do.
        end = max(start, self.end) if stop == len(self.values) else Position(self.positions[stop - 1] + 1)
        return Batch(
            partition=self.partition,
            start=start,
            end=end,
            positions=self.positions[first:stop],
            arrivals_ms=self.arrivals_ms[first:stop],
            keys=self.keys[first:stop],
            values=self.values[first:stop],
        )

    def at(self, start: Start) -> Position:
        """Resolve a start."""
        if start.at == "earliest":
            return self.oldest
        if start.at == "latest":
            return self.end
        # Not by halving: after a jump of the broker's clock, arrivals may go back.
        found = (p for p, ms in zip(self.positions, self.arrivals_ms, strict=True) if ms >= start.timestamp_ms)
        return next(found, self.end)

    def count_from(self, position: Position) -> int:
        """How many records lie at and after a position."""
        return len(self.positions) - bisect_left(self.positions, position)

    def expire(self, *, before: Position) -> None:
        """Remove the records before a position."""
        cut = bisect_left(self.positions, before)
        for column in (self.positions, self.arrivals_ms, self.keys, self.values):
            del column[:cut]
        self.oldest = max(self.oldest, min(before, self.end))


@dataclass(frozen=True, slots=True)
class _Stream:
    config: StreamConfig
    identity: str
    shelves: tuple[Shelf, ...]


class Broker:
    """All that the handles of one log share."""

    def __init__(self, settings: BrokerSettings, *, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.on_publish: list[OnPublish] = []
        self.on_commit: list[OnCommit] = []
        self.there: dict[Place, Partition] = {}
        """All partitions, in the order of stream and number."""
        self._identities = random.Random(settings.seed)
        self._gaps = random.Random(settings.seed + 1)
        self._streams: dict[str, _Stream] = {}
        self._shelves: dict[Place, Shelf] = {}
        self._groups: dict[str, Group] = {}
        self._places = 0

    def ensure(self, config: StreamConfig) -> StreamInfo:
        """Make the stream unless it exists. Raises UsageError."""
        check_config(config)
        if config.name not in self._streams:
            identity = str(uuid.UUID(int=self._identities.getrandbits(128), version=4))
            first, self._places = self._places, self._places + config.partitions
            shelves = tuple(
                Shelf(Partition(config.name, str(number)), Place(first + number)) for number in range(config.partitions)
            )
            self._streams[config.name] = _Stream(config, identity, shelves)
            self._list_places()
        return self.describe(config.name)

    def describe(self, stream: str) -> StreamInfo:
        """Raises StreamMissing."""
        found = self._stream(stream)
        return StreamInfo(
            name=stream,
            identity=found.identity,
            retention_ms=found.config.retention_ms,
            partitions=tuple(
                PartitionInfo(partition=shelf.partition, oldest=shelf.oldest, end=shelf.end) for shelf in found.shelves
            ),
        )

    def streams(self) -> tuple[str, ...]:
        """Names of all streams, sorted."""
        return tuple(sorted(self._streams))

    def delete(self, stream: str) -> None:
        """Remove a stream, its records and its committed positions. Raises StreamMissing."""
        shelves = self._stream(stream).shelves
        del self._streams[stream]
        self._list_places()
        for shelf in shelves:
            for group in self._groups.values():
                group.cursors.pop(shelf.place, None)
            shelf.wake()

    def expire(self, stream: str, *, keep: int, partition_id: str | None) -> None:
        """Remove all records but the last `keep` of each partition, or of this one. Raises StreamMissing."""
        shelves = self._stream(stream).shelves
        for shelf in shelves if partition_id is None else [self.shelf(Partition(stream, partition_id))]:
            kept = len(shelf.positions) - keep
            shelf.expire(before=shelf.end if keep == 0 else shelf.positions[kept] if kept > 0 else shelf.oldest)

    def shelf(self, partition: Partition) -> Shelf:
        """A partition by name. Raises StreamMissing."""
        shelves = self._stream(partition.stream).shelves
        number = int(partition.id) if partition.id.isascii() and partition.id.isdigit() else len(shelves)
        if number >= len(shelves):
            raise StreamMissing(f"stream {partition.stream!r} has no partition {partition.id!r}")
        return shelves[number]

    def shelf_at(self, place: Place, partition: Partition) -> Shelf:
        """A partition by place, which a stream made again under the name does not have. Raises StreamMissing."""
        if place not in self._shelves:
            raise missing(partition.stream)
        return self._shelves[place]

    def group(self, name: str) -> Group:
        """A group; made when first asked for."""
        if name not in self._groups:
            self._groups[name] = Group(name, self.clock, self.settings.session_timeout_s)
        return self._groups[name]

    def publish(self, messages: Iterable[Message], *, choose: Callable[[Message, int], int]) -> None:
        """Append all messages in one step. Raises StreamMissing, MessageTooLarge (nothing done).

        `choose(message, partitions)` gives the number of the partition for a message that names none.
        """
        self.appended(self.routed(messages, choose=choose))

    def routed(
        self, messages: Iterable[Message], *, choose: Callable[[Message, int], int]
    ) -> dict[Place, list[Message]]:
        """Messages by place, in order. Raises StreamMissing, MessageTooLarge."""
        parts: dict[Place, list[Message]] = {}
        for message in messages:
            if len(message.value) > self.settings.value_bytes_max:
                raise MessageTooLarge(
                    f"a value of {len(message.value)} bytes for stream {message.stream!r}; "
                    f"the log takes {self.settings.value_bytes_max} at most",
                    bytes_max=self.settings.value_bytes_max,
                )
            shelves = self._stream(message.stream).shelves
            if message.partition_id is None:
                shelf = shelves[choose(message, len(shelves))]
            else:
                shelf = self.shelf(Partition(message.stream, message.partition_id))
            parts.setdefault(shelf.place, []).append(message)
        return parts

    def addressed(self, outputs: Sequence[Output], *, source_id: str) -> dict[Place, list[Message]]:
        """Outputs by the places that they name or the source determines. Raises StreamMissing, MessageTooLarge."""

        def target(output: Output) -> str:
            ids = [shelf.partition.id for shelf in self._stream(output.stream).shelves]
            return partition_for(source_id, ids)

        messages = (Message(o.stream, o.value, o.key, o.partition_id or target(o)) for o in outputs)
        return self.routed(messages, choose=lambda _, __: 0)

    def appended(self, parts: dict[Place, list[Message]]) -> None:
        """Give routed messages their positions and arrival time, now; then tell the observers."""
        arrival_ms = self.clock.now_ms()
        done = []
        for place, messages in parts.items():
            gap = self._gaps.randint(0, self.settings.gap_max)
            shelf = self._shelves[place]
            positions = shelf.append(messages, arrival_ms=arrival_ms, gap=gap)
            done.append((shelf.partition, positions, [message.value for message in messages]))
        for partition, positions, values in done:
            for tell in self.on_publish:
                tell(partition, positions, values)

    def tell_committed(self, group: str, partition: Partition, position: Position) -> None:
        """Tell the observers of a commit."""
        for tell in self.on_commit:
            tell(group, partition, position)

    def _stream(self, name: str) -> _Stream:
        found = self._streams.get(name)
        if found is None:
            raise missing(name)
        return found

    def _list_places(self) -> None:
        self._shelves = {shelf.place: shelf for _, found in sorted(self._streams.items()) for shelf in found.shelves}
        self.there = {place: shelf.partition for place, shelf in self._shelves.items()}
