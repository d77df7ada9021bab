"""A member of a group: one task that beats, looks who is there, takes partitions and hands them over.

Owns membership and the table of this member's leases. The file is the truth: after each look the table is made to
agree with it, so a look whose outcome is unknown is put right by the next one.

Invariants: one lease a partition at a time; `Assigned` comes only after the earlier lease ended; after `Revoked` a
lease is never handed back to its worker, only a new one; partitions are taken only while somebody reads `events`.
Event-loop only.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self
from uuid import uuid4

import structlog

from cutbank.errors import CutbankError, OutcomeUnknown, StreamUnavailable
from cutbank.metrics import Metrics
from cutbank.transports.base import Assigned, GroupEvent, Lost, Revoked
from cutbank.transports.events import Events
from cutbank.transports.local import groups
from cutbank.transports.local.engine import Engine
from cutbank.transports.local.lease import LocalLease
from cutbank.transports.local.streams import missing

log = structlog.get_logger(__name__)

PASSED_BEATS_MAX = 2.0
"""One own beat lets at most so many heartbeats' time count against silent members, however long it really took."""


class LocalConsumer:
    """Implements `transports.base.Consumer` on the embedded log."""

    def __init__(self, engine: Engine, *, group: str, streams: Sequence[str], client_id: str, metrics: Metrics) -> None:
        assert streams, "a consumer reads one stream at least"
        self._engine = engine
        self._client_id = client_id
        self._metrics = metrics
        self._me = groups.Member(
            id=self._new_id(),
            group=group,
            streams=tuple(dict.fromkeys(streams)),
            session_timeout_ms=engine.settings.session_timeout_ms,
        )
        self._silence = groups.Silence()
        self._leases: dict[int, LocalLease] = {}
        self._last_epochs: dict[int, int] = {}
        self._queue: deque[GroupEvent] = deque()
        self._queued = asyncio.Event()
        self._kicked = asyncio.Event()
        self._generation: int | None = None
        self._beat_s = self._next_beat_s = 0.0
        self._reading = False
        self._read_until_s: float | None = None
        self._failure: BaseException | None = None
        self._heart: asyncio.Task[None] | None = None
        self._left = False

    def _new_id(self) -> str:
        return f"{self._client_id}-{uuid4().hex}"

    @property
    def member_id(self) -> str:
        """This member's name in the group; another one after it was removed and joined again."""
        return self._me.id

    async def __aenter__(self) -> Self:
        me = self._me
        await self._engine.write(lambda db: groups.join(db, me, takes=False))
        self._beat_s = self._next_beat_s = self._engine.clock.monotonic_s()
        self._heart = asyncio.create_task(self._live(), name=f"local heart {me.group}")
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._left = True
        self._kicked.set()
        if self._heart is not None:
            try:
                # Not cut short: a look that joins again under a new name must be known before leaving.
                await asyncio.wait({self._heart})
            finally:
                self._heart.cancel()
        for lease in self._leases.values():
            lease.end("the consumer has left the group")
        self._leases.clear()
        self._queued.set()
        me = self._me
        try:
            await asyncio.shield(self._engine.write(lambda db: groups.leave(db, me.group, me.id), urgent=True))
        except CutbankError as error:
            # The others notice by the time-out.
            log.warning("left the group without a word", group=me.group, member=me.id, why=str(error))

    def events(self) -> AsyncIterator[GroupEvent]:
        """Assignments as they come, for one reader."""
        return Events(self.next_event)

    async def next_event(self) -> GroupEvent | None:
        """The next event; None after the consumer has left. For one reader."""
        assert not self._reading, "one reader of events at a time"
        self._reading = True
        if not self._takes_before(self._engine.clock.monotonic_s()):
            self._kicked.set()
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
            self._read_until_s = self._engine.clock.monotonic_s()

    def _takes_before(self, now_s: float) -> bool:
        """Whether somebody has read events a moment ago."""
        return self._read_until_s is not None and now_s - self._read_until_s < self._engine.settings.heartbeat_ms / 1000

    def _emit(self, event: GroupEvent) -> None:
        # Bounded: a lease gives three events at most, and there is one lease a partition.
        self._queue.append(event)
        self._queued.set()

    async def _live(self) -> None:
        """Beat until cancelled; what ends membership is told to the reader of events."""
        try:
            while not self._left:
                await self._beat()
                await self._pause()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # told to the reader, who raises it
            self._failure = error
        if self._failure is not None:
            for lease in list(self._leases.values()):
                self._lose(lease, f"membership has ended: {self._failure}")
        self._queued.set()

    async def _pause(self) -> None:
        """Until the next beat is due, or there is news."""
        delay_s = self._next_beat_s - self._engine.clock.monotonic_s()
        if delay_s <= 0.0 or self._left:
            return
        kicked = asyncio.get_running_loop().create_task(self._kicked.wait())
        waits: list[asyncio.Future[Any]] = [kicked]
        if self._generation is not None:
            waits.append(self._engine.changed(("group", self._me.group), seen=self._generation))
        try:
            await self._engine.wait(waits, delay_s=delay_s)
        finally:
            for wait in waits:
                wait.cancel()

    async def _beat(self) -> None:
        """One look at the group, with a heartbeat if it is due; then act on what has changed."""
        self._kicked.clear()
        settings, clock = self._engine.settings, self._engine.clock
        now_s = clock.monotonic_s()
        due = now_s >= self._next_beat_s
        passed_ms = min((now_s - self._beat_s) * 1000, PASSED_BEATS_MAX * settings.heartbeat_ms) if due else None
        me, new_id, takes = self._me, self._new_id(), not self._left and (self._reading or self._takes_before(now_s))
        late = [lease for lease in self._leases.values() if self._must_go(lease, now_s)]

        def look(db: sqlite3.Connection) -> groups.View:
            for lease in late:
                groups.give_back(db, me.group, lease.member_id, lease.row_id, lease.epoch)
            return groups.look(db, me, new_id=new_id, takes=takes, silence=self._silence, passed_ms=passed_ms)

        try:
            view = await self._engine.write(look, urgent=True)
        except (StreamUnavailable, OutcomeUnknown) as error:
            self._metrics.add("cutbank_retries_total", operation="heartbeat")
            log.warning("no heartbeat", group=me.group, member=me.id, why=str(error))
            self._generation = None
            self._next_beat_s = clock.monotonic_s() + settings.heartbeat_ms / 1000
            return
        if due:
            self._beat_s = now_s
            self._next_beat_s = clock.monotonic_s() + settings.heartbeat_ms / 1000
        self._apply(view, late)

    def _must_go(self, lease: LocalLease, now_s: float) -> bool:
        """Released but not yet in the file, or revoked too long ago."""
        if lease.released:
            return True
        return lease.revoked_s is not None and (now_s - lease.revoked_s) * 1000 > self._engine.settings.hand_over_ms

    def _apply(self, view: groups.View, late: Sequence[LocalLease]) -> None:
        """Make the table of leases agree with the file."""
        if view.member_id != self._me.id:
            log.warning("was taken for dead, joins again", group=self._me.group, was=self._me.id, now=view.member_id)
            self._me = groups.Member(view.member_id, self._me.group, self._me.streams, self._me.session_timeout_ms)
        self._generation = view.generation
        for lease in list(self._leases.values()):
            still = lease.member_id == view.member_id and view.owned.get(lease.row_id) == lease.epoch
            if not still:
                self._lose(
                    lease, "given back too late" if lease in late else "its partition has passed to somebody else"
                )
            elif lease.row_id not in view.meant and lease.revoked_s is None and not lease.over:
                lease.revoked_s = self._engine.clock.monotonic_s()
                self._emit(Revoked(lease))
        for row_id, epoch in view.owned.items():
            # An older epoch is a lease that has just been released, seen by a look from before.
            if row_id not in self._leases and epoch > self._last_epochs.get(row_id, 0):
                self._take(row_id, epoch, view)
        if view.missing is not None:
            raise missing(view.missing)

    def _take(self, row_id: int, epoch: int, view: groups.View) -> None:
        lease = LocalLease(
            self._engine,
            group=self._me.group,
            member_id=view.member_id,
            row_id=row_id,
            epoch=epoch,
            partition=view.partitions[row_id],
            give_back=self._give_back,
            fenced=self._kicked.set,
        )
        self._leases[row_id] = lease
        self._last_epochs[row_id] = epoch
        self._emit(Assigned(lease))

    def _lose(self, lease: LocalLease, why: str) -> None:
        """The lease is gone; said to the reader unless its worker has released it."""
        if self._leases.get(lease.row_id) is lease:
            del self._leases[lease.row_id]
        lease.end(why)
        if not lease.released:
            self._emit(Lost(lease))

    async def _give_back(self, lease: LocalLease) -> None:
        """Release a lease in the file. If that fails, the next beat does it."""
        if self._left or self._leases.get(lease.row_id) is not lease:
            return
        group = self._me.group
        try:
            await self._engine.write(
                lambda db: groups.give_back(db, group, lease.member_id, lease.row_id, lease.epoch), urgent=True
            )
        except (StreamUnavailable, OutcomeUnknown) as error:
            self._metrics.add("cutbank_retries_total", operation="release")
            log.warning("released a little later", partition=str(lease.partition), why=str(error))
            return
        if self._leases.get(lease.row_id) is lease:
            del self._leases[lease.row_id]
        self._kicked.set()
