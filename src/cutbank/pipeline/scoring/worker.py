"""Scores one partition: from a lease until it is asked to stop.

Owns the order of its steps: receive, score, publish with the end of what was scored. Invariants: outputs and the
position after them go in one atomic step; a step whose outcome is unknown is settled by a fence before the next one
begins; a snapshot is frozen only when all that the model has seen is committed.

One task decides; at most one call of each kind is under way: a batch is received while the one before it is scored in a
thread and what was scored before that is published. In memory are a batch that was received, one that is scored, the
backlog's lines and those of the step under way.
"""

import asyncio
import random
from functools import partial
from typing import Any

import structlog

from cutbank.errors import (
    CutbankError,
    Fenced,
    PartitionStopped,
    PositionLost,
)
from cutbank.pipeline.partitions import pause
from cutbank.pipeline.scoring.assignment import Assignment, Ready
from cutbank.pipeline.scoring.backlog import Backlog
from cutbank.pipeline.scoring.gauges import LagGauges, gauging
from cutbank.pipeline.scoring.keeper import SnapshotKeeper
from cutbank.pipeline.scoring.model import PartitionModel, Scored
from cutbank.pipeline.scoring.scene import Scene
from cutbank.pipeline.scoring.shelf import ModelShelf
from cutbank.pipeline.scoring.snapshots import SNAPSHOT_BYTES_MAX, snapshot_bytes
from cutbank.pipeline.scoring.step import Step
from cutbank.records import Batch, Partition
from cutbank.retry import RetryPolicy, retrying
from cutbank.transports.base import Lease

PUBLISH = RetryPolicy(attempts_max=8, delay_s_first=0.05, delay_s_max=2.0)
"""Attempts at publishing one batch, each settled by a fence; then the partition is taken up again from the start."""

READ_AHEAD_RECORDS = 256
"""A batch of so many records takes longer to score than to fetch the next one: that is received meanwhile. One of fewer
is all that had come; read on beside it, the next ones would be smaller yet, and each costs a round trip."""

log = structlog.get_logger(__name__)


class ScorerWorker:
    """What `PartitionRunner` runs for each lease: `work`."""

    def __init__(self, scene: Scene, *, rng: random.Random) -> None:
        self._scene = scene
        self._rng = rng
        self._lags: dict[Partition, tuple[Lease, LagGauges]] = {}
        """Bounded by the leases that this process holds."""
        self._shelf = ModelShelf(
            scene.config.models_kept_max,
            bytes_max=scene.config.models_bytes_max,
            model_bytes=scene.detectors.model_bytes(),
            metrics=scene.metrics,
        )

    async def work(self, lease: Lease, stop: asyncio.Event) -> None:
        """Score this partition until `stop`; then the last snapshot is taken and the model kept in memory.

        Raises Fenced when given up, PartitionStopped when it must stop loudly, StreamUnavailable, OutcomeUnknown and
        StoreUnavailable to be started again.
        """
        lag = self._lag_of(lease)
        gauged = gauging(lag, lease, clock=self._scene.clock)
        async with gauged as tasks, self._shelf.room(lease.partition, stop=stop):
            with self._scene.rooms.partition():
                await self._work(lease, stop, lag, tasks)

    async def parked(self, lease: Lease) -> None:
        """Tell how far a partition falls behind that `work` has stopped loudly; until cancelled."""
        async with gauging(self._lag_of(lease), lease, clock=self._scene.clock) as tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    def _lag_of(self, lease: Lease) -> LagGauges:
        """The gauges of this lease: they outlast a passing fault, and are begun anew with another lease."""
        known, lag = self._lags.get(lease.partition, (None, None))
        if lag is None or known is not lease:
            lag = LagGauges(lease.partition, clock=self._scene.clock, metrics=self._scene.metrics)
            self._lags[lease.partition] = (lease, lag)
        return lag

    async def _work(self, lease: Lease, stop: asyncio.Event, lag: LagGauges, tasks: "set[asyncio.Task[None]]") -> None:
        anew = 0
        while not stop.is_set():
            assignment = Assignment(self._scene, self._shelf, lease, stop, lag=lag)
            ready = await assignment.take_up()
            if ready is None:
                return
            live = _Live(self._scene, lease, ready, stop, lag=lag, gauging=tasks, rng=self._rng)
            try:
                await live.run()
            except PositionLost as error:
                await assignment.run_anew(str(error))
                anew += 1  # each one leaves a birth for ever: not in a tight loop
                await pause(anew, stop=stop, clock=self._scene.clock, rng=self._rng)
            except CutbankError as error:
                if error.retryable and live.settled:
                    self._shelf.put(live.model)  # a passing fault between two batches costs no replay
                raise
            else:
                self._shelf.put(live.model)

    def released(self, partition: Partition) -> None:
        """Its gauges are another process's from now on."""
        self._lags.pop(partition, None)
        LagGauges(partition, clock=self._scene.clock, metrics=self._scene.metrics).clear()
        self._scene.metrics.set("cutbank_snapshot_age_seconds", 0.0, partition=str(partition))


class _Live:
    """A partition that is live: one model, one lease, one task."""

    def __init__(
        self,
        scene: Scene,
        lease: Lease,
        ready: Ready,
        stop: asyncio.Event,
        *,
        lag: LagGauges,
        gauging: "set[asyncio.Task[None]]",
        rng: random.Random,
    ) -> None:
        self.model: PartitionModel = ready.model
        self._scene = scene
        self._lease = lease
        self._stop = stop
        self._rng = rng
        self._committed = ready.committed
        self._in_thread = False
        self._receiving: asyncio.Task[Batch | None] | None = None
        self._faulted = False
        """The last receive failed while other things were under way."""
        self._batch: Batch | None = None
        """Received and not begun to be scored."""
        self._scoring: asyncio.Task[Scored] | None = None
        self._ahead = False
        """Whether to receive while the batch in the thread is scored."""
        self._held = False
        """A snapshot is due: nothing is scored until what was scored is published."""
        self._backlog = Backlog(scene.rooms.room)
        self._publishing: asyncio.Task[None] | None = None
        self._gauging = gauging
        """Keep the lag's gauges true; they end by a bug only."""
        self._lag = lag
        self._keeper = SnapshotKeeper(
            scene.state,
            partition=lease.partition,
            run=ready.model.run.number,
            kept_position=ready.kept_position,
            unusable=ready.unusable,
            period_s=scene.config.snapshot_s,
            clock=scene.clock,
            metrics=scene.metrics,
            rng=rng,
        )

    @property
    def settled(self) -> bool:
        """Whether the model is at rest and has seen exactly what is committed."""
        return not self._in_thread and self.model.next == self._committed

    async def run(self) -> None:
        """Until stopped: everything received and scored is published then, and a snapshot taken."""
        log.info("live", partition=str(self._lease.partition), run=self.model.run.number, next=self.model.next)
        try:
            await self._steps()
            await self._last_snapshot()
        finally:
            await self._keeper.abandon()

    async def _steps(self) -> None:
        """Receive, score and publish until stopped; what is scored by then is published, what is not stays unread."""
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            while True:
                self._keeper.check()
                await self._snapshot_if_due()
                self._start()
                if not (under_way := self._under_way()):
                    return
                if not self._stop.is_set():
                    under_way.add(stopping)
                await asyncio.wait(under_way | self._gauging, return_when=asyncio.FIRST_COMPLETED)
                self._finish()
        finally:
            stopping.cancel()
            await self._abandon()

    def _under_way(self) -> "set[asyncio.Task[Any]]":
        return {task for task in (self._receiving, self._scoring, self._publishing) if task is not None}

    def _start(self) -> None:
        """Begin whatever can begin; nothing can once all is done and stopped."""
        stop = self._stop.is_set()
        if self._publishing is None and self._backlog:
            self._publishing = asyncio.create_task(self._publish(self._backlog.take()))
        if stop and self._receiving is not None:
            self._receiving.cancel()  # what would have come stays unread
        if stop:
            return
        if self._scoring is None and self._batch is not None and not (self._held or self._backlog.full):
            self._in_thread = True
            self._ahead = len(self._batch) >= READ_AHEAD_RECORDS
            self._scoring = asyncio.create_task(self._score(self._batch))
            self._batch = None
        if self._receiving is None and self._batch is None and (self._scoring is None or self._ahead):
            # After a fault it is asked again with nothing in hand: what was scored is published before it counts.
            if self._faulted and (self._scoring, self._publishing) != (None, None):
                return
            self._receiving = asyncio.create_task(self._receive(wait_s=self._scene.config.wait_s))

    def _finish(self) -> None:
        """Take what has ended, in the order of the records. Raises what they raised."""
        for task in self._gauging:
            if task.done():
                task.result()
        if (publishing := self._publishing) is not None and publishing.done():
            self._publishing = None
            publishing.result()
        if (scoring := self._scoring) is not None and scoring.done():
            self._scoring = None
            self._backlog.put(scoring.result())
            self._in_thread = False
        if (receiving := self._receiving) is not None and receiving.done():
            self._receiving = None
            self._take(receiving)

    def _take(self, receiving: "asyncio.Task[Batch | None]") -> None:
        if receiving.cancelled():
            return
        idle = (self._scoring, self._publishing) == (None, None) and not self._backlog
        error = receiving.exception()
        if isinstance(error, CutbankError) and not isinstance(error, Fenced) and not idle:
            self._faulted = True
            log.warning("receiving again", partition=str(self._lease.partition), why=str(error))
            self._scene.metrics.add("cutbank_retries_total", operation="receive")
            return
        self._faulted = False
        self._batch = receiving.result()

    async def _abandon(self) -> None:
        """After an error or cancellation: calls on the lease end here; a model in a thread is never used again."""
        calls = self._under_way()
        for task in calls:
            task.cancel()
            task.add_done_callback(_look_at)
        if calls:
            await asyncio.wait(calls)
        self._receiving = self._scoring = self._publishing = None

    async def _score(self, batch: Batch) -> Scored:
        """Score a batch in a thread."""
        began_s = self._scene.clock.monotonic_s()
        scored = await self._scene.in_thread(partial(self.model.apply, batch))
        self._scene.metrics.observe("cutbank_score_seconds", self._scene.clock.monotonic_s() - began_s)
        return scored

    async def _receive(self, *, wait_s: float) -> Batch | None:
        """The next batch; None if there is nothing new."""
        records_max, bytes_max = self._scene.rooms.room()
        batch = await self._lease.receive(records_max=records_max, bytes_max=bytes_max, wait_s=wait_s)
        self._lag.received(batch)
        return batch if len(batch) or batch.end > batch.start else None

    async def _publish(self, scored: Scored) -> None:
        """Publish what a batch gave, with its end, exactly once; returns when that is certain.

        Raises Fenced if given up, PartitionStopped, StreamMissing, StreamUnavailable after all attempts.
        """
        if scored.end == self._committed and not scored.outputs:
            return
        began_s = self._scene.clock.monotonic_s()
        await retrying(
            Step(self._scene, self._lease, self.model, scored, committed=self._committed).attempt,
            policy=PUBLISH,
            clock=self._scene.clock,
            rng=self._rng,
            on_retry=self._say_retry,
        )
        self._committed = scored.end
        self._lag.published(scored.end)
        self._count(scored, took_s=self._scene.clock.monotonic_s() - began_s)

    def _say_retry(self, error: BaseException, attempt: int) -> None:
        log.warning("publishing again", partition=str(self._lease.partition), attempt=attempt, why=str(error))
        self._scene.metrics.add("cutbank_retries_total", operation="publish")

    def _count(self, scored: Scored, *, took_s: float) -> None:
        """Figures of what is now durable."""
        metrics = self._scene.metrics
        metrics.observe("cutbank_publish_seconds", took_s)
        if scored.records == 0:
            return
        metrics.add("cutbank_records_scored_total", scored.scored)
        metrics.add("cutbank_anomalies_total", scored.anomalies)
        for reason, count in scored.errors.items():
            metrics.add("cutbank_record_errors_total", count, reason=reason)
        now_ms = self._scene.clock.now_ms()
        for arrival_ms in scored.anomaly_arrivals_ms:
            metrics.observe("cutbank_arrival_to_published_seconds", max((now_ms - arrival_ms) / 1000.0, 0.0))

    async def _snapshot_if_due(self) -> None:
        """Between two batches, when everything scored is committed: until it is, nothing more is scored."""
        resting = self._scoring is None
        self._held = resting and not self._stop.is_set() and self._keeper.due(self.model.next)
        if self._held and self._publishing is None and not self._backlog:
            await self._snapshot()
            self._held = False

    async def _snapshot(self) -> None:
        """Freeze the model and give it to the keeper. Nothing is being scored, everything scored is committed."""
        self._keeper.put(self.model.next, await self._frozen())

    async def _frozen(self) -> bytes:
        assert self.model.next == self._committed, "a snapshot holds exactly what is committed"
        body = await self._scene.in_thread(lambda: snapshot_bytes(self.model.frozen()))
        if len(body) > SNAPSHOT_BYTES_MAX:
            raise PartitionStopped(
                f"{self._lease.partition}: the model's snapshot has {len(body)} bytes, the most is "
                f"{SNAPSHOT_BYTES_MAX}; lower number_of_trees, sub_sample_size or shingle_size in the spec"
            )
        return body

    async def _last_snapshot(self) -> None:
        """So that the next owner need not replay; if the store is slow, it replays."""
        within_s = self._scene.config.snapshot_stop_s
        began_s = self._scene.clock.monotonic_s()
        await self._keeper.finish(within_s=within_s)
        if self._keeper.needed(self.model.next):
            left_s = within_s - (self._scene.clock.monotonic_s() - began_s)
            if left_s > 0.0:
                await self._snapshot()
                await self._keeper.finish(within_s=left_s)


def _look_at(task: "asyncio.Task[Any]") -> None:
    """A task that failed while another error was on its way need not be reported as forgotten."""
    if task.done() and not task.cancelled():
        task.exception()
