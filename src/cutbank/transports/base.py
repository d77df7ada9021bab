"""The transport protocol: what every log (embedded, Kafka, Kinesis) does for the pipeline.

Two sides. The plain side makes streams, publishes and reads without a group: producers, tools and auditors use it.
The group side hands out **leases**: the right to one partition, from assignment until revocation or loss. All that
an owner does goes through its lease, so a zombie holds only an old lease and is refused.

Delivery in one sentence: outputs and the input position that they follow from are committed in one atomic step
(`publish_and_commit`), checked against the lease's epoch in that same step.

Event-loop only; an implementation keeps blocking work off the loop. Every call may be cancelled; what a cancelled
write did is unknown, so its caller treats cancellation like `OutcomeUnknown`: it drops the lease or fences again.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeAlias

from cutbank.records import Batch, Message, Partition, Position

RECORD_BYTES_MAX = 1 << 20
"""Largest value that any transport is asked to carry, bytes (Kinesis: 1 MiB by default; Kafka: 1 MiB by default)."""

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """What a stream should be when it is made. An existing stream is never changed."""

    name: str
    partitions: int = 1
    retention_ms: int = DAY_MS
    """How long records are kept after arrival, ms (24 h by default, as Kinesis does)."""


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A partition's bounds: `oldest` is the first position retained, the next record gets `end` or one above it."""

    partition: Partition
    oldest: Position
    end: Position


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as it is."""

    name: str
    identity: str
    """Tells a stream from another one made later under its name: a UUID, topic id or creation time."""
    retention_ms: int
    partitions: tuple[PartitionInfo, ...]
    """In the order of their ids (numbers by number)."""

    @property
    def partition_ids(self) -> tuple[str, ...]:
        """The ids, in order."""
        return tuple(info.partition.id for info in self.partitions)


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading begins when no position was ever committed."""

    at: Literal["earliest", "latest", "timestamp"] = "earliest"
    timestamp_ms: int = 0
    """Used with `timestamp`: the first record that arrived at this time or later, ms since the epoch."""


@dataclass(frozen=True, slots=True)
class Output:
    """A record that follows from input: it goes to the partition that the lease's partition determines.

    Unless it names another: only a record that is sent again to where it came from does.
    """

    stream: str
    value: bytes
    key: bytes | None = None
    partition_id: str | None = None


class Lease(Protocol):
    """The right to one partition. Its owner makes one call at a time, beside it at most one `receive` and one `lag`.

    Order of calls: `fence`, then `committed` as often as wanted, `seek`, `receive` …, `commit` or
    `publish_and_commit` …, `release`. After `Fenced` only `release` is allowed, which then does nothing.
    """

    @property
    def partition(self) -> Partition:
        """The partition that this is a lease of."""
        ...

    async def fence(self) -> Position | None:
        """Cut off every earlier owner, then read the committed position (None: never committed).

        After it returns, no write of an earlier lease can succeed any more. May be called again to learn the outcome
        of a write. Raises Fenced if this lease itself is no longer the newest, StreamMissing (the stream is gone),
        StreamUnavailable.
        """
        ...

    async def committed(self) -> Position | None:
        """The committed position, read now. Raises Fenced, StreamUnavailable."""
        ...

    def seek(self, position: Position) -> None:
        """The next `receive` reads from here: the first record at or after `position`. No I/O."""
        ...

    async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        """Up to `records_max` records and about `bytes_max` bytes of values; at least one record if there is one.

        Returns as soon as there is any record; an empty batch after `wait_s` seconds without one. Moves the reading
        position to the batch's end; a call that is cancelled or raises does not move it. Only committed records are
        ever seen. Raises PositionLost (the reading position is past retention), AnotherStream (the stream was made
        again under its name), StreamMissing, Fenced, StreamUnavailable.
        """
        ...

    async def lag(self) -> int:
        """Records between the reading position and the partition's end, now; an estimate where positions have gaps."""
        ...

    async def commit(self, next_position: Position) -> None:
        """Store the first position NOT yet processed.

        Raises Fenced (nothing stored), OutcomeUnknown, StreamUnavailable.
        """
        ...

    async def publish_and_commit(self, outputs: Sequence[Output], next_position: Position) -> None:
        """Publish all outputs, in order, and commit, as one atomic step where the transport can; else outputs first.

        Raises Fenced (nothing done), MessageTooLarge (nothing done), StreamMissing (nothing done), StreamUnavailable
        (nothing done), OutcomeUnknown.
        """
        ...

    async def release(self) -> None:
        """Give the partition back, so that the next owner need not wait. Idempotent; never raises Fenced."""
        ...


@dataclass(frozen=True, slots=True)
class Assigned:
    """This consumer now holds a lease. It is not fenced yet."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Revoked:
    """Give this lease back: finish, snapshot, `release()` within the group's hand-over time; after it, it is lost."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Lost:
    """This lease is gone already; its writes are refused. Drop its output and model."""

    lease: Lease


GroupEvent: TypeAlias = Assigned | Revoked | Lost


Tell: TypeAlias = Callable[[bool, str], None]
"""Told whether a group that this process is a member of answers, and if not, why: readiness."""


def tell_nobody(ok: bool, why: str) -> None:  # noqa: FBT001  # the interface that services use
    """Where nobody asked to be told."""


class Consumer(Protocol):
    """A member of a group: an async context manager that joins on entry and leaves on exit.

    Leaving releases every lease still held. While it is entered, the consumer keeps its membership alive by itself.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *failure: object) -> None: ...

    def events(self) -> AsyncIterator[GroupEvent]:
        """Assignments as they come, without end, for one reader.

        A partition is assigned again only after its earlier lease of this consumer was released or lost.
        Raises what ends membership for good (StreamMissing).
        """
        ...


class Transport(Protocol):
    """A log with named, partitioned streams. Opened by `transports.open_transport`; closed by `async with`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *failure: object) -> None: ...

    async def ensure(self, config: StreamConfig) -> StreamInfo:
        """Make the stream unless it exists; an existing one is described and left as it is."""
        ...

    async def describe(self, stream: str) -> StreamInfo:
        """Raises StreamMissing, StreamUnavailable."""
        ...

    async def streams(self) -> tuple[str, ...]:
        """Names of all streams, sorted."""
        ...

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish in order per partition; returns when all are durable. One atomic step where the transport can.

        Waits while the log is busy (back-pressure). Raises StreamMissing, MessageTooLarge (nothing done),
        StreamUnavailable (nothing done), OutcomeUnknown.
        """
        ...

    async def read(self, partition: Partition, start: Position, *, records_max: int, bytes_max: int) -> Batch:
        """What lies at and after `start`, now, without a group and without waiting; empty at the end.

        Raises PositionLost, StreamMissing, StreamUnavailable.
        """
        ...

    async def position_at(self, partition: Partition, start: Start) -> Position:
        """Resolve a start to a position, now. A timestamp after the last record resolves to the end."""
        ...

    async def committed(self, group: str, partition: Partition) -> Position | None:
        """A group's committed position, as an onlooker: it may be stale by one commit in flight."""
        ...

    def consumer(self, group: str, streams: Sequence[str]) -> Consumer:
        """A new member of `group`, reading all partitions of `streams` together with the group's other members."""
        ...
