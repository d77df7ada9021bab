"""Scores one partition: from a lease until it is asked to stop.

Owns the order of a step: receive, score, publish with the end of what was scored. Invariants: outputs and the position
after them go in one atomic step; a step whose outcome is unknown is settled by a fence before anything else is tried;
a snapshot is frozen only when all that the model has seen is committed.

Calls on the lease come from one task, one after another. While a batch is scored in a thread, the one before it is
published and the next one is read: at most three batches a partition are in memory.
"""

import asyncio
import random
from functools import partial
from typing import Any

import structlog

from cutbank.errors import (
    CutbankError,
    Fenced,
    MessageTooLarge,
    OutcomeUnknown,
    PartitionStopped,
    PositionLost,
    StreamUnavailable,
)
from cutbank.pipeline.partitions import pause
from cutbank.pipeline.scoring.assignment import Assignment, Ready, Scene, check_newest_run
from cutbank.pipeline.scoring.gauges import LagGauges
from cutbank.pipeline.scoring.keeper import SnapshotKeeper
from cutbank.pipeline.scoring.model import PartitionModel, Scored
from cutbank.pipeline.scoring.shelf import ModelShelf
from cutbank.pipeline.scoring.snapshots import SNAPSHOT_BYTES_MAX, snapshot_bytes
from cutbank.records import Batch, Partition, Position
from cutbank.retry import RetryPolicy, retrying
from cutbank.transports.base import Lease

PUBLISH = RetryPolicy(attempts_max=8, delay_s_first=0.05, delay_s_max=2.0)
"""Attempts at publishing one batch, each settled by a fence; then the partition is taken up again from the start."""

LAG_S = 1.0
"""Seconds between two looks at the lag."""

log = structlog.get_logger(__name__)


class ScorerWorker:
    """What `PartitionRunner` runs for each lease: `work`."""

    def __init__(self, scene: Scene, *, rng: random.Random) -> None:
        self._scene = scene
        self._rng = rng
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
        async with self._shelf.room(lease.partition, stop=stop):
            await self._work(lease, stop)

    async def _work(self, lease: Lease, stop: asyncio.Event) -> None:
        anew = 0
        while not stop.is_set():
            assignment = Assignment(self._scene, self._shelf, lease, stop)
            ready = await assignment.take_up()
            if ready is None:
                return
            live = _Live(self._scene, lease, ready, stop, rng=self._rng)
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
        LagGauges(partition, clock=self._scene.clock, metrics=self._scene.metrics).clear()
        self._scene.metrics.set("cutbank_snapshot_age_seconds", 0.0, partition=str(partition))


class _Live:
    """A partition that is live: one model, one lease, one task."""

    def __init__(self, scene: Scene, lease: Lease, ready: Ready, stop: asyncio.Event, *, rng: random.Random) -> None:
        self.model: PartitionModel = ready.model
        self._scene = scene
        self._lease = lease
        self._stop = stop
        self._rng = rng
        self._committed = ready.committed
        self._in_thread = False
        self._lag = LagGauges(lease.partition, clock=scene.clock, metrics=scene.metrics)
        self._lag_due_s = scene.clock.monotonic_s()
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
        telling = asyncio.create_task(self._keep_telling(), name=f"lag {self._lease.partition}")
        try:
            await self._steps()
            await self._last_snapshot()
        finally:
            telling.cancel()
            await self._keeper.abandon()

    async def _steps(self) -> None:
        scored: Scored | None = None
        batch: Batch | None = None
        while True:
            if batch is None or self._stop.is_set():
                # Nothing more to score beside it: publish at once, then there is time for everything else.
                if scored is not None:
                    await self._publish(scored)
                    scored = None
                if self._stop.is_set():
                    return
                await self._between()
                batch = await self._receive_or_stop()
                continue
            scored, batch = await self._score(batch, beside=scored)
            if self._keeper.due(self.model.next):
                await self._publish(scored)
                scored = None
                await self._snapshot()

    async def _score(self, batch: Batch, *, beside: Scored | None) -> tuple[Scored, Batch | None]:
        """Score a batch in a thread; publish the one before it and read the next one in the meantime."""
        began_s = self._scene.clock.monotonic_s()
        self._in_thread = True
        scoring = asyncio.ensure_future(self._scene.in_thread(partial(self.model.apply, batch)))
        try:
            if beside is not None:
                await self._publish(beside)
            following = await self._read_ahead()
            scored = await scoring
            self._in_thread = False
        finally:
            # Only left undone by an error or cancellation: then this model is never used again.
            scoring.cancel()
            _look_at(scoring)
        self._scene.metrics.observe("cutbank_score_seconds", self._scene.clock.monotonic_s() - began_s)
        return scored, following

    async def _read_ahead(self) -> Batch | None:
        """The next batch if it is there already. A fault must wait: what is being scored is published before it."""
        try:
            await self._tell_lag()
            return await self._receive(wait_s=0.0)
        except Fenced:
            raise
        except CutbankError:
            return None  # the next receive, with nothing in hand, meets it again

    async def _receive(self, *, wait_s: float) -> Batch | None:
        """The next batch; None if there is nothing new."""
        config = self._scene.config
        batch = await self._lease.receive(
            records_max=config.batch_records_max, bytes_max=config.batch_bytes_max, wait_s=wait_s
        )
        self._lag.received(batch)
        return batch if len(batch) or batch.end > batch.start else None

    async def _receive_or_stop(self) -> Batch | None:
        """Like `_receive`, waiting; a stop ends the wait, and what would have come stays unread."""
        receiving = asyncio.ensure_future(self._receive(wait_s=self._scene.config.wait_s))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await receiving if receiving.done() else None
        finally:
            stopping.cancel()
            receiving.cancel()
            await asyncio.wait({receiving})  # calls on a lease are never concurrent
            _look_at(receiving)

    async def _publish(self, scored: Scored) -> None:
        """Publish what a batch gave, with its end, exactly once; returns when that is certain.

        Raises Fenced if given up, PartitionStopped, StreamMissing, StreamUnavailable after all attempts.
        """
        if scored.end == self._committed and not scored.outputs:
            return
        began_s = self._scene.clock.monotonic_s()
        await retrying(
            _Step(self._scene, self._lease, self.model, scored, committed=self._committed).attempt,
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

    async def _between(self) -> None:
        """What is done when nothing is scored or published: a look at the lag, a snapshot."""
        self._keeper.check()
        if self._keeper.due(self.model.next):
            await self._snapshot()
        await self._tell_lag()

    async def _tell_lag(self) -> None:
        """Ask the log how much is unread, if it is time; then set the gauges."""
        now_s = self._scene.clock.monotonic_s()
        if now_s < self._lag_due_s:
            return
        self._lag_due_s = now_s + LAG_S
        self._lag.unread(await self._lease.lag())
        self._lag.tell()

    async def _keep_telling(self) -> None:
        """Let the gauges grow with time, also while a step hangs. Asks the log nothing: the lease is the steps'."""
        while True:
            await self._scene.clock.sleep(LAG_S)
            self._lag.tell()

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


def _look_at(task: "asyncio.Future[Any]") -> None:
    """A task that failed while another error was on its way need not be reported as forgotten."""
    if task.done() and not task.cancelled():
        task.exception()


class _Step:
    """One publish-and-commit, tried until it is known to be done."""

    def __init__(
        self, scene: Scene, lease: Lease, model: PartitionModel, scored: Scored, *, committed: Position
    ) -> None:
        self._scene = scene
        self._lease = lease
        self._model = model
        self._scored = scored
        self._committed = committed
        self._unsure = False

    async def attempt(self) -> None:
        """Raises StreamUnavailable to be called again."""
        if self._unsure and await self._done():
            return
        self._unsure = True
        try:
            if self._scored.outputs:
                await self._lease.publish_and_commit(self._scored.outputs, self._scored.end)
            else:
                await self._lease.commit(self._scored.end)
        except OutcomeUnknown as error:
            raise StreamUnavailable(str(error)) from error
        except MessageTooLarge as error:
            raise PartitionStopped(
                f"{self._lease.partition}: an output stream refuses a message that Cutbank's own limit lets pass "
                f"({error}); raise the stream's limit to {error.bytes_max} bytes or more"
            ) from error

    async def _done(self) -> bool:
        """After a fence, the committed position tells: the batch's end: done; its start: not; else given up."""
        committed = await self._lease.fence()
        await check_newest_run(self._scene.state, self._model.run)
        if committed == self._scored.end:
            return True
        if committed != self._committed:
            raise Fenced(
                f"{self._lease.partition}: committed position {committed} is neither the start nor the end of the "
                f"batch in hand ({self._committed} to {self._scored.end})"
            )
        return False
