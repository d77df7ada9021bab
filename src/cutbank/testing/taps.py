"""Any transport and any store with one function around every call: where faults, recorders and gates are put.

Owns nothing of what it wraps but its closing. A tap adds no call and swallows none: with `around` that only awaits
`do()`, whatever is wrapped passes its contract suite as before. Event-loop only.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, Self, TypeVar

from cutbank.objects.base import ObjectInfo, ObjectStore
from cutbank.records import Batch, Message, Partition, Position
from cutbank.transports.base import (
    Assigned,
    Consumer,
    GroupEvent,
    Lease,
    Lost,
    Output,
    Revoked,
    Start,
    StreamConfig,
    StreamInfo,
    Transport,
)

T = TypeVar("T")


class Call(NamedTuple):
    """One call of a protocol's method."""

    name: str
    """The method: `publish_and_commit`, `create`, …; a lease's `committed` is `lease_committed`, a transport's `read`
    `stream_read`; entering and leaving a consumer are `join` and `leave`, a step of its events `next_event`."""
    subject: str
    """What it is about: a stream, a partition (`trades/0`), a group or an object's key."""

    def __str__(self) -> str:
        return f"{self.name} {self.subject}"


class Around(Protocol):
    """What stands around each call. It awaits `do()` once and returns its result, or decides otherwise."""

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        """What the caller gets in the end."""
        ...


class TappedStore:
    """An object store with `around` around its calls. Of a listing, around the step to its first entry."""

    def __init__(self, store: ObjectStore, around: Around) -> None:
        self._inner = store
        self._around = around

    @property
    def url(self) -> str:
        """The inner store's."""
        return self._inner.url

    @property
    def key_bytes_max(self) -> int:
        """The inner store's."""
        return self._inner.key_bytes_max

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._inner.__aexit__(*failure)

    async def create(self, key: str, body: bytes) -> None:
        """As the protocol says."""
        await self._around(Call("create", key), lambda: self._inner.create(key, body))

    async def read(self, key: str) -> bytes:
        """As the protocol says."""
        return await self._around(Call("read", key), lambda: self._inner.read(key))

    async def exists(self, key: str) -> bool:
        """As the protocol says."""
        return await self._around(Call("exists", key), lambda: self._inner.exists(key))

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """As the protocol says."""
        entries = self._inner.list(prefix, after=after)

        async def first() -> ObjectInfo | None:
            return await anext(entries, None)

        entry = await self._around(Call("list", prefix), first)
        if entry is None:
            return
        yield entry
        async for entry in entries:
            yield entry

    async def delete(self, key: str) -> None:
        """As the protocol says."""
        await self._around(Call("delete", key), lambda: self._inner.delete(key))

    async def probe(self, *, deletes: bool = False) -> None:
        """As the protocol says; one call, whatever the inner store does for it."""
        await self._around(Call("probe", self.url), lambda: self._inner.probe(deletes=deletes))


class TappedLease:
    """A lease with `around` around its calls; `seek` does no I/O and has none."""

    def __init__(self, lease: Lease, around: Around) -> None:
        self._inner = lease
        self._around = around

    @property
    def partition(self) -> Partition:
        """The inner lease's."""
        return self._inner.partition

    async def fence(self) -> Position | None:
        """As the protocol says."""
        return await self._around(self._call("fence"), self._inner.fence)

    async def committed(self) -> Position | None:
        """As the protocol says."""
        return await self._around(self._call("lease_committed"), self._inner.committed)

    def seek(self, position: Position) -> None:
        """As the protocol says."""
        self._inner.seek(position)

    async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        """As the protocol says."""
        received: list[Batch] = []

        async def receive() -> Batch:
            received.append(await self._inner.receive(records_max=records_max, bytes_max=bytes_max, wait_s=wait_s))
            return received[0]

        try:
            return await self._around(self._call("receive"), receive)
        except BaseException:
            # Whoever raises although the batch was there: a call that raises does not move the reading position.
            if received:
                self._inner.seek(received[0].start)
            raise

    async def lag(self) -> int:
        """As the protocol says."""
        return await self._around(self._call("lag"), self._inner.lag)

    async def commit(self, next_position: Position) -> None:
        """As the protocol says."""
        await self._around(self._call("commit"), lambda: self._inner.commit(next_position))

    async def publish_and_commit(self, outputs: Sequence[Output], next_position: Position) -> None:
        """As the protocol says."""
        await self._around(
            self._call("publish_and_commit"), lambda: self._inner.publish_and_commit(outputs, next_position)
        )

    async def release(self) -> None:
        """As the protocol says."""
        await self._around(self._call("release"), self._inner.release)

    def _call(self, name: str) -> Call:
        return Call(name, str(self._inner.partition))


class TappedConsumer:
    """A consumer whose leases are tapped; each inner lease keeps its one tapped one."""

    def __init__(self, consumer: Consumer, around: Around, *, group: str) -> None:
        self._inner = consumer
        self._around = around
        self._group = group
        self._leases: dict[int, TappedLease] = {}

    async def __aenter__(self) -> Self:
        await self._around(Call("join", self._group), self._inner.__aenter__)
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._around(Call("leave", self._group), lambda: self._inner.__aexit__(*failure))

    async def events(self) -> AsyncIterator[GroupEvent]:
        """As the protocol says."""
        leases = self._leases
        events = self._inner.events()

        async def step() -> GroupEvent | None:
            return await anext(events, None)

        while (event := await self._around(Call("next_event", self._group), step)) is not None:
            match event:
                case Assigned(lease):
                    leases[id(lease)] = TappedLease(lease, self._around)
                    yield Assigned(leases[id(lease)])
                case Revoked(lease):
                    yield Revoked(leases[id(lease)])
                case Lost(lease):
                    yield Lost(leases[id(lease)])


class TappedTransport:
    """A transport with `around` around its calls and those of its consumers' leases."""

    def __init__(self, transport: Transport, around: Around) -> None:
        self._inner = transport
        self._around = around

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._inner.__aexit__(*failure)

    async def ensure(self, config: StreamConfig) -> StreamInfo:
        """As the protocol says."""
        return await self._around(Call("ensure", config.name), lambda: self._inner.ensure(config))

    async def describe(self, stream: str) -> StreamInfo:
        """As the protocol says."""
        return await self._around(Call("describe", stream), lambda: self._inner.describe(stream))

    async def streams(self) -> tuple[str, ...]:
        """As the protocol says."""
        return await self._around(Call("streams", ""), self._inner.streams)

    async def publish(self, messages: Sequence[Message]) -> None:
        """As the protocol says."""
        subject = messages[0].stream if messages else ""
        await self._around(Call("publish", subject), lambda: self._inner.publish(messages))

    async def read(self, partition: Partition, start: Position, *, records_max: int, bytes_max: int) -> Batch:
        """As the protocol says."""
        return await self._around(
            Call("stream_read", str(partition)),
            lambda: self._inner.read(partition, start, records_max=records_max, bytes_max=bytes_max),
        )

    async def position_at(self, partition: Partition, start: Start) -> Position:
        """As the protocol says."""
        return await self._around(
            Call("position_at", str(partition)), lambda: self._inner.position_at(partition, start)
        )

    async def committed(self, group: str, partition: Partition) -> Position | None:
        """As the protocol says."""
        return await self._around(
            Call("committed", f"{group} {partition}"), lambda: self._inner.committed(group, partition)
        )

    def consumer(self, group: str, streams: Sequence[str]) -> Consumer:
        """As the protocol says."""
        return TappedConsumer(self._inner.consumer(group, streams), self._around, group=group)
