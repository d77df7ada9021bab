"""Runs one task a partition that this process holds: the part that scorer and sink share.

Owns the life of a lease: start its work, hand it back when revoked, drop it when lost, take it up again after a
passing fault, park it when the partition stops for good. Owns no record and no position.

Invariant: a lease's work runs in at most one task, and a lease is released only after its task has ended.
Event-loop only. Every task has the one TaskGroup here as parent; what is neither a transport's nor a store's passing
fault (a bug) ends the process.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from cutbank.clock import Clock
from cutbank.errors import CutbankError, Fenced, OutcomeUnknown, PartitionStopped
from cutbank.metrics import Metrics
from cutbank.records import Partition
from cutbank.retry import RetryPolicy
from cutbank.transports.base import Assigned, Consumer, Lease, Lost, Revoked

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETAKE = RetryPolicy(attempts_max=None, delay_s_first=0.1, delay_s_max=10.0)
"""Pauses before a partition is taken up again, after a passing fault or when given up: for as long as it lasts."""


async def unless_stopped(call: Awaitable[T], stop: asyncio.Event) -> T | None:
    """The call's result; None when `stop` is set first: then the call is cancelled and its end waited for."""
    calling = asyncio.ensure_future(call)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({calling, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        calling.cancel()
        stopping.cancel()
        await asyncio.wait({calling, stopping})
    if calling.cancelled() and stop.is_set():
        return None
    return calling.result()


async def pause(attempt: int, *, stop: asyncio.Event, clock: Clock, rng: random.Random) -> None:
    """Sleep before the next attempt as RETAKE says, with jitter, but wake when stopped. Attempts count from 1."""
    await unless_stopped(clock.sleep(rng.uniform(0.0, RETAKE.delay_s_bound(attempt))), stop)


@dataclass(slots=True)
class _Held:
    """A lease in this process's hands."""

    lease: Lease
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class PartitionRunner:
    """Follows a consumer's assignments and runs `work(lease, stop)` for each lease.

    `work` fences, reads and writes until `stop` is set, then finishes what its contract says (snapshot, flush) and
    returns. It raises `Fenced` when given up, a retryable error or `OutcomeUnknown` to be started again, and
    `PartitionStopped` to be parked: `while_parked(lease)` runs then, and is cancelled at the end. `on_released` is
    called when this process has let go of a partition.
    """

    def __init__(
        self,
        consumer: Consumer,
        work: Callable[[Lease, asyncio.Event], Awaitable[None]],
        *,
        role: str,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
        while_parked: Callable[[Lease], Awaitable[None]] | None = None,
        on_released: Callable[[Partition], None] = lambda _: None,
    ) -> None:
        self._consumer = consumer
        self._work = work
        self._role = role
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._held: dict[Partition, _Held] = {}
        self._while_parked = while_parked
        self._on_released = on_released
        self._stopped: set[Partition] = set()
        self._given_up: dict[Partition, int] = {}
        """How often in a row, over one lease after another."""

    @property
    def stopped(self) -> frozenset[Partition]:
        """Partitions parked by a loud stop."""
        return frozenset(self._stopped)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then every partition's work is stopped, finished and released."""
        async with self._consumer, asyncio.TaskGroup() as group:
            follow = group.create_task(self._follow(group))
            await stop.wait()
            follow.cancel()
            for held in self._held.values():
                held.stop.set()

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        async for event in self._consumer.events():
            match event:
                case Assigned(lease):
                    held = _Held(lease)
                    self._held[lease.partition] = held
                    held.task = group.create_task(self._own(held))
                case Revoked(lease):
                    if (known := self._held.get(lease.partition)) and known.lease is lease:
                        known.stop.set()
                case Lost(lease):
                    if (known := self._held.get(lease.partition)) and known.lease is lease and known.task:
                        known.task.cancel()

    async def _own(self, held: _Held) -> None:
        """One lease from assignment to release."""
        partition = held.lease.partition
        self._metrics.set("cutbank_partitions_held", len(self._held), role=self._role)
        try:
            await self._work_until_done(held)
        finally:
            # Even when cancelled: a lease that is not released would hold its partition until the time-out.
            await asyncio.shield(held.lease.release())
            if self._held.get(partition) is held:
                del self._held[partition]
                self._on_released(partition)
            self._stopped.discard(partition)
            self._metrics.set("cutbank_partitions_held", len(self._held), role=self._role)
            self._metrics.set("cutbank_partitions_stopped", len(self._stopped), role=self._role)

    async def _work_until_done(self, held: _Held) -> None:
        partition = held.lease.partition
        attempt = 0
        while not held.stop.is_set():
            began_s = self._clock.monotonic_s()
            try:
                await self._work(held.lease, held.stop)
                self._given_up.pop(partition, None)
                return
            except Fenced as error:
                log.warning("partition given up", partition=str(partition), role=self._role, why=str(error))
                self._metrics.add("cutbank_partitions_given_up_total", role=self._role)
                if self._lasted(began_s):
                    self._given_up.pop(partition, None)
                times = self._given_up[partition] = self._given_up.get(partition, 0) + 1
                # Once released, it may be assigned to us again at once: two that want it would fence each other away.
                await pause(times, stop=held.stop, clock=self._clock, rng=self._rng)
                return
            except PartitionStopped as error:
                await self._park(held, error)
                return
            except CutbankError as error:
                if not (error.retryable or isinstance(error, OutcomeUnknown)):
                    raise
                if self._lasted(began_s):
                    attempt = 0
                attempt += 1
                log.warning("partition taken up again", partition=str(partition), role=self._role, why=str(error))
                self._metrics.add("cutbank_partitions_retaken_total", role=self._role)
                await pause(attempt, stop=held.stop, clock=self._clock, rng=self._rng)

    def _lasted(self, began_s: float) -> bool:
        """Whether the work went on for a while: what ended it is a new fault then, not the same one."""
        return self._clock.monotonic_s() - began_s > RETAKE.delay_s_max

    async def _park(self, held: _Held, error: PartitionStopped) -> None:
        """Loud, once; the lease stays held so that the partition does not wander from process to process."""
        log.error("partition stopped", partition=str(held.lease.partition), reason=error.reason, why=str(error))
        self._stopped.add(held.lease.partition)
        self._metrics.set("cutbank_partitions_stopped", len(self._stopped), role=self._role)
        if self._while_parked is not None:
            await unless_stopped(self._while_parked(held.lease), held.stop)
        await held.stop.wait()
