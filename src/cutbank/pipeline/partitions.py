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

import structlog

from cutbank.clock import Clock
from cutbank.errors import CutbankError, Fenced, OutcomeUnknown, PartitionStopped
from cutbank.metrics import Metrics
from cutbank.records import Partition
from cutbank.retry import RetryPolicy
from cutbank.transports.base import Assigned, Consumer, Lease, Lost, Revoked

log = structlog.get_logger(__name__)

RETAKE = RetryPolicy(attempts_max=None, delay_s_first=0.1, delay_s_max=10.0)
"""Pauses before a partition's work is taken up again after a passing fault: for as long as it lasts."""


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
    `PartitionStopped` to be parked.
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
    ) -> None:
        self._consumer = consumer
        self._work = work
        self._role = role
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._held: dict[Partition, _Held] = {}
        self._stopped: set[Partition] = set()

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
                return
            except Fenced as error:
                log.warning("partition given up", partition=str(partition), role=self._role, why=str(error))
                self._metrics.add("cutbank_partitions_given_up_total", role=self._role)
                return
            except PartitionStopped as error:
                await self._park(held, error)
                return
            except CutbankError as error:
                if not (error.retryable or isinstance(error, OutcomeUnknown)):
                    raise
                if self._clock.monotonic_s() - began_s > RETAKE.delay_s_max:
                    attempt = 0  # it worked for a while: a new fault, not the same one
                attempt += 1
                log.warning("partition taken up again", partition=str(partition), role=self._role, why=str(error))
                self._metrics.add("cutbank_partitions_retaken_total", role=self._role)
                await self._pause(held.stop, self._rng.uniform(0.0, RETAKE.delay_s_bound(attempt)))

    async def _park(self, held: _Held, error: PartitionStopped) -> None:
        """Loud, once; the lease stays held so that the partition does not wander from process to process."""
        log.error("partition stopped", partition=str(held.lease.partition), reason=error.reason, why=str(error))
        self._stopped.add(held.lease.partition)
        self._metrics.set("cutbank_partitions_stopped", len(self._stopped), role=self._role)
        await held.stop.wait()

    async def _pause(self, stop: asyncio.Event, delay_s: float) -> None:
        """Sleep, but wake when stopped."""
        sleeping = asyncio.ensure_future(self._clock.sleep(delay_s))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stopping.cancel()
