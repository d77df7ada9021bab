"""One process's handle on a log in memory: the transport and its members of groups.

Owns what a process knows of its memberships: its leases, its heartbeats. Everything that has an effect waits on the
handle's own clock first (`sleep(0)` at least), so a process whose clock stands still does nothing, and one whose clock
raises is dead: it does not even leave its groups. Event-loop only.

Invariants: one lease a partition at a time; `Assigned` comes only after the earlier lease ended; partitions are taken
only while somebody reads `events`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Self
from zlib import crc32

from cutbank.clock import Clock
from cutbank.records import Batch, Message, Partition, Position
from cutbank.testing.memory_broker import Broker
from cutbank.testing.memory_groups import Place, View
from cutbank.testing.memory_lease import MemoryLease, first_of
from cutbank.transports.base import Assigned, GroupEvent, Lost, Revoked, Start, StreamConfig, StreamInfo
from cutbank.transports.events import Events
from cutbank.transports.local.streams import missing


class MemoryTransport:
    """Implements `transports.base.Transport`. Made by `MemoryLog.open`; any number on one log."""

    def __init__(self, broker: Broker, *, clock: Clock, client_id: str) -> None:
        self._broker = broker
        self._clock = clock
        self._client_id = client_id
        self._turns: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Nothing to close: members leave by themselves."""

    async def ensure(self, config: StreamConfig) -> StreamInfo:
        """Make the stream unless it exists. Raises UsageError."""
        await self._clock.sleep(0.0)
        return self._broker.ensure(config)

    async def describe(self, stream: str) -> StreamInfo:
        """Raises StreamMissing."""
        await self._clock.sleep(0.0)
        return self._broker.describe(stream)

    async def streams(self) -> tuple[str, ...]:
        """Names of all streams, sorted."""
        await self._clock.sleep(0.0)
        return self._broker.streams()

    async def publish(self, messages: Sequence[Message]) -> None:
        """All messages in one step, to the partition named, else by the key's CRC-32, else to one after another."""
        await self._clock.sleep(0.0)
        self._broker.publish(messages, choose=self._choose)

    def _choose(self, message: Message, partitions: int) -> int:
        if message.key is not None:
            return crc32(message.key) % partitions
        turn = self._turns.get(message.stream, 0)
        self._turns[message.stream] = turn + 1
        return turn % partitions

    async def read(self, partition: Partition, start: Position, *, records_max: int, bytes_max: int) -> Batch:
        """What lies at and after `start`, now."""
        await self._clock.sleep(0.0)
        return self._broker.shelf(partition).read(start, records_max=records_max, bytes_max=bytes_max)

    async def position_at(self, partition: Partition, start: Start) -> Position:
        """Resolve a start to a position, now."""
        await self._clock.sleep(0.0)
        return self._broker.shelf(partition).at(start)

    async def committed(self, group: str, partition: Partition) -> Position | None:
        """A group's committed position, as an onlooker."""
        await self._clock.sleep(0.0)
        cursor = self._broker.group(group).cursors.get(self._broker.shelf(partition).place)
        return None if cursor is None else cursor.committed

    def consumer(self, group: str, streams: Sequence[str]) -> "MemoryConsumer":
        """A new member of `group`."""
        return MemoryConsumer(self._broker, clock=self._clock, group=group, streams=streams, client_id=self._client_id)


class MemoryConsumer:
    """Implements `transports.base.Consumer`: one task that shows life, takes partitions and hands them over.

    The broker is the truth: after each look the table of leases is made to agree with it.
    """

    def __init__(self, broker: Broker, *, clock: Clock, group: str, streams: Sequence[str], client_id: str) -> None:
        assert streams, "a consumer reads one stream at least"
        self._broker = broker
        self._clock = clock
        self._group = group
        self._streams = tuple(dict.fromkeys(streams))
        self._client_id = client_id
        self._member_id = ""
        self._leases: dict[Place, MemoryLease] = {}
        self._queue: deque[GroupEvent] = deque()
        self._queued = asyncio.Event()
        self._kicked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading = False
        self._read_until_s: float | None = None
        self._failure: BaseException | None = None
        self._heart: asyncio.Task[None] | None = None
        self._left = False

    async def __aenter__(self) -> Self:
        """Join. Raises StreamMissing."""
        await self._clock.sleep(0.0)
        for stream in self._streams:
            self._broker.describe(stream)
        self._member_id = self._broker.group(self._group).join(self._client_id, self._streams, takes=False)
        self._heart = asyncio.create_task(self._live(), name=f"memory heart {self._member_id} of {self._group}")
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Leave; cut short or on a dead clock it does not, and the others notice by the time-out."""
        self._left = True
        try:
            if self._heart is not None:
                self._heart.cancel()
                await asyncio.wait({self._heart})
            await self._clock.sleep(0.0)
            self._broker.group(self._group).leave(self._member_id)
        finally:
            for lease in self._leases.values():
                lease.end("the consumer has left the group")
            self._leases.clear()
            self._queued.set()

    def events(self) -> AsyncIterator[GroupEvent]:
        """Assignments as they come, for one reader; stopping early leaves the consumer as it is."""
        return Events(self.next_event)

    async def next_event(self) -> GroupEvent | None:
        """The next event; None after the consumer has left. For one reader."""
        assert not self._reading, "one reader of events at a time"
        if not self._takes():
            self._kick()
        self._reading = True
        self._read_until_s = None
        try:
            while not self._queue:
                if self._failure is not None:
                    raise self._failure
                if self._left:
                    return None
                self._queued.clear()
                await self._queued.wait()
            return self._queue.popleft()
        finally:
            self._reading = False
            self._read_until_s = self._clock.monotonic_s()

    def _kick(self) -> None:
        """Look now instead of at the next heartbeat."""
        if not self._kicked.done():
            self._kicked.set_result(None)

    def _give_back(self, lease: MemoryLease) -> None:
        """Release a lease at the broker and forget it."""
        if self._leases.get(lease.place) is lease:
            del self._leases[lease.place]
            self._broker.group(self._group).give_back(lease.member_id, lease.place, lease.epoch)
            self._kick()

    def _takes(self) -> bool:
        """Whether somebody reads events, or has done so a moment ago."""
        if self._reading:
            return True
        since_s = self._read_until_s
        return since_s is not None and self._clock.monotonic_s() - since_s < self._broker.settings.heartbeat_s

    def _emit(self, event: GroupEvent) -> None:
        # Bounded: a lease gives three events at most, and there is one lease a partition.
        self._queue.append(event)
        self._queued.set()

    async def _live(self) -> None:
        """Show life until cancelled; what ends membership is told to the reader of events."""
        try:
            while True:
                await self._clock.sleep(0.0)
                self._kicked = asyncio.get_running_loop().create_future()
                self._look()
                await first_of([self._kicked], clock=self._clock, delay_s=self._broker.settings.heartbeat_s)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # told to the reader, who raises it
            self._failure = error
            for lease in list(self._leases.values()):
                self._lose(lease, f"membership has ended: {error}")
            self._queued.set()

    def _look(self) -> None:
        """One look at the group, which is a heartbeat too; then act on what has changed."""
        group, now_s = self._broker.group(self._group), self._clock.monotonic_s()
        for lease in list(self._leases.values()):
            late = lease.revoked_s is not None and now_s - lease.revoked_s > self._broker.settings.hand_over_s
            if lease.released:
                self._give_back(lease)
            elif late:
                group.give_back(lease.member_id, lease.place, lease.epoch)
        takes = self._takes()
        view = group.look(
            self._member_id, client_id=self._client_id, streams=self._streams, takes=takes, there=self._broker.there
        )
        self._member_id = view.member_id
        self._apply(view)
        if view.missing is not None:
            raise missing(view.missing)

    def _apply(self, view: View) -> None:
        """Make the table of leases agree with the broker."""
        for lease in list(self._leases.values()):
            if lease.member_id != view.member_id or view.owned.get(lease.place) != lease.epoch:
                self._lose(lease, "its partition has passed to somebody else, or was given back too late")
            elif lease.place not in view.meant and lease.revoked_s is None and not lease.over:
                lease.revoked_s = self._clock.monotonic_s()
                self._emit(Revoked(lease))
        for place, epoch in view.owned.items():
            if place not in self._leases:
                self._leases[place] = lease = MemoryLease(
                    self._broker,
                    clock=self._clock,
                    group=self._group,
                    member_id=view.member_id,
                    place=place,
                    epoch=epoch,
                    partition=self._broker.there[place],
                    give_back=self._give_back,
                    fenced=self._kick,
                )
                self._emit(Assigned(lease))

    def _lose(self, lease: MemoryLease, why: str) -> None:
        """The lease is gone; said to the reader unless its worker has released it."""
        if self._leases.get(lease.place) is lease:
            del self._leases[lease.place]
        lease.end(why)
        if not lease.released:
            self._emit(Lost(lease))
