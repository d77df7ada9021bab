"""A member of a group: one task that joins rounds, shows life, and turns what it is given into leases.

Owns the table of this member's leases. `membership` talks to the coordinator, `assignment` decides who gets what.

Invariants: one lease a partition at a time; `Assigned` comes only after the earlier lease ended and after the group has
confirmed, since then, that the partition is meant for this member; a round takes nothing away: a partition that is to
move is revoked, handed over, and only then given to the next. Event-loop only.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Self

import structlog

from cutbank.errors import Fenced, StreamUnavailable
from cutbank.metrics import Metrics
from cutbank.records import Partition
from cutbank.transports.base import Assigned, GroupEvent, Lost, Revoked, Tell, tell_nobody
from cutbank.transports.events import Events
from cutbank.transports.kafka import admin, brokers
from cutbank.transports.kafka.assignment import Claim, Place
from cutbank.transports.kafka.cluster import Cluster, quietly
from cutbank.transports.kafka.lease import KafkaLease
from cutbank.transports.kafka.membership import Gone, Membership, Pulse
from cutbank.transports.kafka.routing import Router
from cutbank.transports.kafka.watch import Watch

log = structlog.get_logger(__name__)

WAITING_NAMED_MAX = 10
"""Of the partitions that wait, so many are named in the log."""


class KafkaConsumer:
    """Implements `transports.base.Consumer`."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        router: Router,
        group: str,
        streams: Sequence[str],
        metrics: Metrics,
        tell: Tell = tell_nobody,
    ) -> None:
        assert streams, "a consumer reads one stream at least"
        self._cluster = cluster
        self._router = router
        self._name = group
        self._group = cluster.settings.prefix + group
        self._streams = tuple(dict.fromkeys(streams))
        self._metrics = metrics
        self._membership = Membership(cluster, self._group, self._streams)
        self._leases: dict[Place, KafkaLease] = {}
        self._assigned: frozenset[Place] = frozenset()
        self._counts: dict[str, int] = {}
        self._counted_s = 0.0
        self._counting: asyncio.Task[dict[str, int]] | None = None
        self._rounds = 0
        self._rejoin = False
        self._queue: deque[GroupEvent] = deque()
        self._queued = asyncio.Event()
        self._kicked = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._reading = False
        self._failure: BaseException | None = None
        self._heart: asyncio.Task[None] | None = None
        self._watch = Watch(cluster, self._silent, group=self._group, metrics=metrics, tell=tell)
        self._watching: asyncio.Task[None] | None = None
        self._left = False
        self._waiting = 0

    @property
    def member_id(self) -> str:
        """This member's name at the coordinator; empty while it is none."""
        return self._membership.member_id

    @property
    def held(self) -> int:
        """How many leases this member has."""
        return len(self._leases)

    async def __aenter__(self) -> Self:
        """Check the streams; then join in a task. Raises StreamMissing, StreamUnavailable, UsageError."""
        patience = self._cluster.patience(self._cluster.settings.start_wait_ms)
        while True:
            try:
                await self._check()
                break
            except StreamUnavailable as error:
                self._metrics.add("cutbank_retries_total", operation="start")
                log.warning("waiting for Kafka", group=self._group, why=str(error))
                await patience.pause(error)
        self._heart = asyncio.create_task(self._live(), name=f"kafka heart {self._group}")
        self._watching = asyncio.create_task(self._watch.run(), name=f"kafka watch {self._group}")
        self._watching.add_done_callback(self._watched)
        return self

    async def _check(self) -> None:
        """What must be so before it joins. Raises StreamMissing, StreamUnavailable, UsageError."""
        self._counts = await self._membership.counts()
        self._counted_s = self._cluster.clock.monotonic_s()
        for stream in self._streams:
            await admin.check(self._cluster, stream)
        await self._check_brokers()

    async def _check_brokers(self) -> None:
        """Raises UsageError: a fence can't be relied on there."""
        report = await brokers.check(
            self._cluster, group=self._name, stream=self._streams[0], rounds=brokers.START_ROUNDS
        )
        log.info("brokers", group=self._group, versions=report.names, fences_tried=report.rounds)
        if report.warning:
            log.warning("brokers that may be too old", group=self._group, why=report.warning)

    async def __aexit__(self, *failure: object) -> None:
        self._left = True
        for task in (self._watching, self._heart, self._counting):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        for lease in list(self._leases.values()):
            self._drop(lease, "the consumer has left the group")
        self._queued.set()
        # Leaves first: the heirs fence, so they need not wait for what is still under way here.
        await quietly(self._membership.leave())
        if self._closing:
            await asyncio.wait(self._closing)
        self._membership.close()

    def events(self) -> AsyncIterator[GroupEvent]:
        """Assignments as they come, for one reader."""
        return Events(self.next_event)

    async def next_event(self) -> GroupEvent | None:
        """The next event; None after the consumer has left. For one reader."""
        assert not self._reading, "one reader of events at a time"
        self._reading = True
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

    async def confirm(self, *, always: bool) -> None:
        """Whether the group still counts this member in; asks it if that is not certain, or `always`."""
        if self._membership.fresh and not always:
            return
        try:
            await self._membership.beat()
        except Gone as error:
            raise Fenced(str(error)) from None

    def _emit(self, event: GroupEvent) -> None:
        # Bounded: a lease gives three events at most, and there is one lease a partition.
        self._queue.append(event)
        self._queued.set()

    async def _live(self) -> None:
        """Take part until cancelled; what ends membership is told to the reader of events."""
        try:
            while True:
                await self._cluster.clock.sleep(0.0)
                try:
                    await self._take_part()
                except Gone as error:
                    log.warning("no member any more, joins again", group=self._group, why=str(error))
                    self._assigned = frozenset()
                    for lease in list(self._leases.values()):
                        self._lose(lease, str(error))
                except StreamUnavailable as error:
                    self._metrics.add("cutbank_retries_total", operation="heartbeat")
                    log.warning("the group can't be reached", group=self._group, why=str(error))
                    await self._pause()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # told to the reader, who raises it
            self._failure = error
            for lease in list(self._leases.values()):
                self._lose(lease, f"membership has ended: {error}")
            self._queued.set()

    async def _take_part(self) -> None:
        """One round: join, then show life until there is reason to join again."""
        self._rejoin = False
        self._rounds += 1
        claim = self._claim()
        self._assigned = await self._membership.join(claim)
        self._agree()
        # What was to move and ended meanwhile is nobody's until the next round.
        self._rejoin |= bool(claim.held - self._assigned - self._leases.keys())
        # The coordinator gives a static member that comes back its old part without a round, so nobody would hear that
        # it holds nothing of it yet: one more join says so.
        self._rejoin |= self._rounds == 1 and self._cluster.settings.group_instance_id is not None
        while not self._rejoin:
            await self._pause()
            await self._cluster.clock.sleep(0.0)
            pulse = await self._membership.beat()
            self._take_late()
            if pulse is Pulse.ROUND:
                return
            self._check_counts()
            self._agree()

    def _silent(self) -> tuple[float, str]:
        """Since when what has got no answer, for the watch."""
        silent = [(self._membership.answered_s, "no answer of the coordinator")]
        for lease in self._leases.values():
            if (failing := lease.failing) is not None:
                since_s, what = failing
                silent.append((since_s, f"{lease.partition} can't be {what}"))
        return min(silent)

    def _watched(self, task: asyncio.Task[None]) -> None:
        """A watch that fails is a bug: the reader of events hears of it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._queued.set()

    def _claim(self) -> Claim:
        held = frozenset(self._leases)
        return Claim(
            topics=tuple(self._cluster.topic_name(stream) for stream in self._streams),
            held=held,
            leaving=frozenset(place for place in held if self._leases[place].revoked_s is not None),
            rounds=self._rounds,
        )

    async def _pause(self) -> None:
        """Until the next heartbeat is due, or there is news."""
        timer = asyncio.ensure_future(self._cluster.clock.sleep(self._cluster.settings.heartbeat_ms / 1000))
        kicked = asyncio.ensure_future(self._kicked.wait())
        try:
            await asyncio.wait({timer, kicked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            kicked.cancel()
            self._kicked.clear()

    def _check_counts(self) -> None:
        """Look for added partitions now and then; they are shared out in a new round.

        In a task beside the heart, which beats on whatever the brokers do that are asked. Raises StreamMissing.
        """
        if (counting := self._counting) is None:
            if self._cluster.clock.monotonic_s() - self._counted_s >= self._cluster.settings.metadata_ms / 1000:
                self._counting = counting = asyncio.create_task(
                    self._membership.counts(), name=f"kafka counts {self._group}"
                )
                counting.add_done_callback(self._has_counted)
            return
        if not counting.done():
            return
        self._counting = None
        try:
            counts = counting.result()
        except StreamUnavailable as error:
            self._metrics.add("cutbank_retries_total", operation="counts")
            log.warning("partitions can't be counted", group=self._group, why=str(error))
            return
        self._counted_s = self._cluster.clock.monotonic_s()
        if counts != self._counts:
            log.warning("partitions were added", group=self._group, before=self._counts, now=counts)
            self._counts = counts
            self._rejoin = True

    def _has_counted(self, counting: asyncio.Task[dict[str, int]]) -> None:
        if not counting.cancelled():
            counting.exception()  # looked at: nobody else does, after this member has left
            self._kicked.set()

    def _take_late(self) -> None:
        """Take away what was to be given back and was not in time."""
        now_s = self._cluster.clock.monotonic_s()
        for lease in list(self._leases.values()):
            since_s = lease.revoked_s
            if since_s is not None and (now_s - since_s) * 1000 > self._cluster.settings.hand_over_ms:
                self._lose(lease, "given back too late")
                self._rejoin = True

    def _agree(self) -> None:
        """Make the table of leases agree with what the group has just confirmed."""
        for place, lease in self._leases.items():
            if place not in self._assigned and lease.revoked_s is None:
                lease.revoked_s = self._cluster.clock.monotonic_s()
                if not lease.over:
                    self._emit(Revoked(lease))
        for place in self._room_for(sorted(self._assigned - self._leases.keys())):
            topic, number = place
            lease = KafkaLease(
                self._cluster,
                self,
                router=self._router,
                group=self._group,
                place=place,
                partition=Partition(topic.removeprefix(self._cluster.settings.prefix), str(number)),
                give_back=self._give_back,
                fenced=self._kicked.set,
            )
            self._leases[place] = lease
            self._emit(Assigned(lease))

    def _room_for(self, places: Sequence[Place]) -> Sequence[Place]:
        """Those of the places that may become leases; the others wait for one to end, or for another process."""
        limit = self._cluster.settings.leases_max
        taken = places[: max(0, limit - len(self._leases))]
        waiting = len(places) - len(taken)
        if waiting != self._waiting:
            self._waiting = waiting
            if waiting:
                log.error(
                    "partitions wait: this process holds as many as it may",
                    group=self._group,
                    waiting=[f"{topic}/{number}" for topic, number in places[len(taken) :][:WAITING_NAMED_MAX]],
                    count=waiting,
                    leases_max=limit,
                    what_to_do="start another process of this service, or raise leases_max in the transport URL",
                )
            else:
                log.info("no partition waits any more", group=self._group)
        self._metrics.set("cutbank_group_partitions_waiting", waiting, group=self._group)
        return taken

    def _lose(self, lease: KafkaLease, why: str) -> None:
        """The lease is gone; said to the reader unless its worker has released it."""
        self._drop(lease, why)
        if not lease.released:
            self._emit(Lost(lease))

    def _drop(self, lease: KafkaLease, why: str) -> None:
        if self._leases.get(lease.place) is lease:
            del self._leases[lease.place]
        lease.end(why)
        task = asyncio.get_running_loop().create_task(lease.close(), name=f"kafka close {lease.partition}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _give_back(self, lease: KafkaLease) -> None:
        """A released lease: if it was to move, the next round says so; else it comes back when the group confirms."""
        if self._leases.get(lease.place) is not lease:
            return
        del self._leases[lease.place]
        self._rejoin |= lease.revoked_s is not None
        self._kicked.set()
