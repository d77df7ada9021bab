"""Scores a stretch of the retained source again, into a stream of its own, beside a live pipeline that notices nothing.

Owns the output stream's content. Its truth is that stream: every line has a key that follows from all that the line
depends on, so what another replay or anybody else wrote is known for foreign and refused; a run that was killed is
run again, computes the same lines from the beginning, finds those that are there, byte for byte, and adds the rest.
Lines and a position go in one `publish_and_commit` of a fenced lease of the replay's own group, which one process
holds whole before it writes its first line.

Per partition one task: a batch is scored in a thread while the one before it is published and the next one is read.
At most three batches and one model a partition at work are in memory. Event-loop only.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from cutbank.clock import Clock
from cutbank.errors import (
    CutbankError,
    Fenced,
    MessageTooLarge,
    OutcomeUnknown,
    PartitionStopped,
    StreamUnavailable,
    UsageError,
)
from cutbank.metrics import NoMetrics
from cutbank.pipeline.partitions import PartitionRunner, unless_stopped
from cutbank.pipeline.replaying.output import NotOurs, Present, foreign
from cutbank.pipeline.replaying.plan import Part, Plan, mixed
from cutbank.pipeline.scoring.model import PartitionModel, Scored
from cutbank.records import Batch, Partition, Position, partition_for
from cutbank.retry import RetryPolicy, retrying
from cutbank.transports.base import Lease, Output, StreamConfig, StreamInfo, Transport

T = TypeVar("T")

BATCH_RECORDS_MAX: Final = 4096
"""Most records scored in one step."""
BATCH_BYTES_MAX: Final = 4 << 20
"""About the most bytes of them."""

MODELS_BYTES_MAX: Final = 4 << 30
"""Most memory for the models at work, as computed, bytes; one model at least."""

READ_WAIT_S: Final = 0.5
EMPTY_READS_MAX: Final = 60
"""Reads in a row that bring nothing, each as long as READ_WAIT_S, before the log is said not to reach its end."""

JOIN_S_MAX: Final = 60.0
"""How long a run waits for all its leases before it has begun, seconds: longer than a killed one's hold on."""
AWAY_S_MAX: Final = 180.0
"""How long a run that has begun waits for a lease that it lost: longer than one started by mistake waits to join."""
WATCH_S: Final = 1.0
"""Between two looks for leases that are missing, seconds."""

CALL: Final = RetryPolicy(attempts_max=8, delay_s_first=0.05, delay_s_max=2.0)
"""Attempts at one call while the log is busy; then the run ends, and the next one goes on."""

TAKES_MAX: Final = 8
"""How often one run begins a partition again, after a write of unknown outcome, before it ends."""


def replay_group(pipeline: str, output: str) -> str:
    """The group of a replay into this stream; no live service is ever in it."""
    return f"{pipeline}.replay.{output}"


@dataclass(slots=True)
class PartAccount:
    """How far one partition has come; counts of records begin again where it is taken up again."""

    next: Position
    """The first position not yet learnt."""
    start: Position
    end: Position
    learnt: int = 0
    """Records before the first one scored."""
    scored: int = 0
    anomalies: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Bad records, by reason. They have no line."""
    lines: int = 0
    """In the output stream."""
    published: int = 0
    """Of these, by this run; the others were there already."""
    done: bool = False


@dataclass(slots=True)
class Account:
    """What a run has done so far; true at every moment, also when it ends with an error."""

    parts: dict[Partition, PartAccount] = field(default_factory=dict)

    def total(self, name: str) -> int:
        """The sum of a count over all partitions."""
        return sum(getattr(part, name) for part in self.parts.values())

    @property
    def errors(self) -> Counter[str]:
        """Bad records of all partitions, by reason."""
        return sum((part.errors for part in self.parts.values()), Counter())

    @property
    def share(self) -> float:
        """How much of the way is done, 0 to 1; an estimate where positions have gaps."""
        whole = sum(part.end - part.start for part in self.parts.values())
        return sum(part.next - part.start for part in self.parts.values()) / whole if whole else 1.0


async def replay(
    transport: Transport,
    plan: Plan,
    *,
    account: Account,
    clock: Clock,
    rng: random.Random,
    threads: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Score all of it, and count in `account`; `on_step` is called after each batch.

    Raises UsageError (the output stream holds something else), StreamUnavailable (the log is busy, or another run
    holds the leases), PartitionStopped and below (retention overtook it, a line is too large). After all but the first
    the same call goes on where this one ended.
    """
    wanted = StreamConfig(
        name=plan.request.output, partitions=len(plan.info.partitions), retention_ms=plan.info.retention_ms
    )
    there = await retrying(partial(transport.ensure, wanted), policy=CALL, clock=clock, rng=rng)
    for part in plan.parts:
        start = part.origin.start
        account.parts[part.stretch.partition] = PartAccount(next=start, start=start, end=part.stretch.end)
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="replay")
    try:
        scene = _Scene(transport, plan, there, account, clock, rng, pool, on_step)
        await _Crew(scene, at_once=_at_once(plan, threads)).run()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    before = {bounds.partition: bounds.end for bounds in there.partitions}
    for bounds in (await transport.describe(there.name)).partitions:
        start = max(before.get(bounds.partition, bounds.oldest), bounds.oldest)
        if await foreign(transport, bounds.partition, start, bounds.end, plan.keys):
            raise UsageError(mixed(there.name))


def _at_once(plan: Plan, threads: int) -> int:
    """How many partitions are at work at the same time."""
    model_bytes = plan.source.model_bytes()
    return max(1, min(threads, MODELS_BYTES_MAX // model_bytes if model_bytes else threads))


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the partitions of a run share."""

    transport: Transport
    plan: Plan
    output: StreamInfo
    account: Account
    clock: Clock
    rng: random.Random
    pool: ThreadPoolExecutor
    on_step: Callable[[], None]

    async def retried(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call, again while the log is busy."""
        return await retrying(call, policy=CALL, clock=self.clock, rng=self.rng)


class _Crew:
    """All partitions of a run: waits until the whole group is ours, then lets them work."""

    def __init__(self, scene: _Scene, *, at_once: int) -> None:
        self._scene = scene
        self._parts = {part.stretch.partition: part for part in scene.plan.parts}
        self._held: set[Partition] = set()
        self._whole = asyncio.Event()
        self._stop = asyncio.Event()
        self._room = asyncio.Semaphore(at_once)
        self._failure: CutbankError | None = None

    async def run(self) -> None:
        """Until every partition is done, or one can't be."""
        scene, spec = self._scene, self._scene.plan.spec
        consumer = scene.transport.consumer(replay_group(spec.name, scene.output.name), [spec.source])
        runner = PartitionRunner(
            consumer, self._work, role="replay", clock=scene.clock, metrics=NoMetrics(), rng=scene.rng
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch())
                await runner.run(self._stop)
        except BaseExceptionGroup as error:
            raise _first(error) from error
        if self._failure is not None:
            raise self._failure

    async def _work(self, lease: Lease, stop: asyncio.Event) -> None:
        """One lease, until the whole run stops: what is done is held on to, so that nobody begins it again."""
        part = self._parts.get(lease.partition)
        if part is None:
            await stop.wait()
            return
        account = self._scene.account.parts[lease.partition]
        self._held.add(lease.partition)
        try:
            if self._held == self._parts.keys():
                self._whole.set()
            await unless_stopped(self._whole.wait(), stop)
            if not (account.done or stop.is_set()):
                account.done = await self._in_turn(part, lease, account, stop)
            if all(one.done for one in self._scene.account.parts.values()):
                self._stop.set()
            await stop.wait()
        except Fenced:
            raise
        except CutbankError as error:
            self._fail(error)
        finally:
            self._held.discard(lease.partition)

    async def _in_turn(self, part: Part, lease: Lease, account: PartAccount, stop: asyncio.Event) -> bool:
        # Not raced against `stop`: a cancelled race may leave a turn taken that nobody gives back.
        async with self._room:
            for _ in range(TAKES_MAX):
                if stop.is_set():
                    return False
                try:
                    return await _Performance(self._scene, part, lease, account, stop).run()
                except _TakeUpAgain:
                    continue
        raise StreamUnavailable(f"{lease.partition}: the outcome of its writes kept being unknown")

    async def _watch(self) -> None:
        """End a run whose leases somebody else keeps."""
        clock = self._scene.clock
        # Two runs that began together may each hold half: the one that tires first leaves the other all.
        join_s = JOIN_S_MAX * self._scene.rng.uniform(0.5, 1.0)
        since_s = clock.monotonic_s()
        while not self._stop.is_set():
            if self._held == self._parts.keys():
                since_s = clock.monotonic_s()
            elif clock.monotonic_s() - since_s >= (AWAY_S_MAX if self._whole.is_set() else join_s):
                output = self._scene.output.name
                some = f", or raise leases_max: {len(self._held)} of {len(self._parts)} partitions are here"
                why = f"another replay into {output!r} is at work; wait until it ends{some if self._held else ''}"
                self._fail(StreamUnavailable(why))
            await unless_stopped(clock.sleep(WATCH_S), self._stop)

    def _fail(self, error: CutbankError) -> None:
        self._failure = self._failure or error
        self._stop.set()


class _TakeUpAgain(Exception):
    """Nobody knows what a write did: what lies in the output stream tells."""


class _Performance:
    """One partition under one lease, from the model's beginning to the end of its stretch."""

    def __init__(self, scene: _Scene, part: Part, lease: Lease, account: PartAccount, stop: asyncio.Event) -> None:
        self._scene = scene
        self._part = part
        self._lease = lease
        self._account = account
        self._stop = stop
        self._stretch = part.stretch
        self._present: Present

    async def run(self) -> bool:
        """Whether the end was reached; else somebody has asked to stop."""
        scene, account = self._scene, self._account
        # The fence comes first: what lies in the output stream then, no earlier owner changes any more.
        await scene.retried(self._lease.fence)
        self._present = Present(scene.transport, await self._output(), self._part.key, ours=scene.plan.keys)
        model = await scene.plan.origins.model(self._part.origin)
        account.learnt = account.scored = account.anomalies = account.lines = 0
        account.errors.clear()
        account.start = account.next = model.next
        self._lease.seek(model.next)
        try:
            return await self._steps(model)
        except NotOurs:
            raise UsageError(mixed(scene.output.name)) from None
        except MessageTooLarge as error:
            raise PartitionStopped(
                f"{self._lease.partition}: stream {scene.output.name!r} refuses a line for its size ({error}); raise "
                f"the stream's limit to {error.bytes_max} bytes or more"
            ) from error

    async def _output(self) -> "tuple[Partition, Position, Position]":
        """Where this partition's lines go, and what is there now."""
        info = await self._scene.retried(partial(self._scene.transport.describe, self._scene.output.name))
        target = partition_for(self._stretch.partition.id, info.partition_ids)
        bounds = next(one for one in info.partitions if one.partition.id == target)
        return bounds.partition, bounds.oldest, bounds.end

    async def _steps(self, model: PartitionModel) -> bool:
        scored: Scored | None = None
        batch = await self._read(model.next)
        while batch is not None:
            if self._stop.is_set():
                return False
            working = asyncio.get_running_loop().run_in_executor(
                self._scene.pool, partial(_apply, model, batch, self._stretch.first)
            )
            try:
                if scored is not None:
                    await self._publish(scored)
                following = await self._read(batch.end)
                learnt, scored = await working
            finally:
                # Only left undone by an error or cancellation: then this model is never used again.
                working.cancel()
                if working.done() and not working.cancelled():
                    working.exception()
            self._count(batch.end, learnt, scored)
            batch = following
        if scored is not None:
            await self._publish(scored)
        return True

    async def _read(self, position: Position) -> Batch | None:
        """The records from here on; None at the end of the stretch. Raises PositionLost, StreamUnavailable."""
        if position >= self._stretch.end:
            return None
        receive = partial(
            self._lease.receive, records_max=BATCH_RECORDS_MAX, bytes_max=BATCH_BYTES_MAX, wait_s=READ_WAIT_S
        )
        for _ in range(EMPTY_READS_MAX):
            batch = await self._scene.retried(receive)
            if batch.end > position or self._stop.is_set():
                return batch.before(self._stretch.end)
        raise StreamUnavailable(f"{self._stretch.partition}: the log does not reach {self._stretch.end}")

    def _count(self, end: Position, learnt: int, scored: Scored | None) -> None:
        account = self._account
        account.next = end
        account.learnt += learnt
        if scored is not None:
            account.scored += scored.scored
            account.anomalies += scored.anomalies
            account.errors += scored.errors
        self._scene.on_step()

    async def _publish(self, scored: Scored) -> None:
        """What is not there yet, with its end. Raises _TakeUpAgain where nobody knows if that was done."""
        request, spec = self._scene.plan.request, self._scene.plan.spec
        wanted = spec.scores if request.emit == "all" else spec.destination
        lines = [
            replace(output, stream=request.output, key=self._part.key)
            for output in scored.outputs
            if output.stream == wanted
        ]
        new = await self._new(lines)
        if not self._present.over:
            return
        try:
            if new:
                await self._scene.retried(partial(self._lease.publish_and_commit, new, scored.end))
            else:
                await self._scene.retried(partial(self._lease.commit, scored.end))
        except OutcomeUnknown as error:
            if await self._scene.retried(self._lease.fence) != scored.end:
                raise _TakeUpAgain from error
        self._account.lines += len(new)
        self._account.published += len(new)

    async def _new(self, lines: Sequence[Output]) -> Sequence[Output]:
        """Those of the lines that are not in the output stream yet. Raises NotOurs where another one is."""
        for at, line in enumerate(lines):
            there = await self._present.take()
            if there is None:
                return lines[at:]
            if there != line.value:
                raise NotOurs
            self._account.lines += 1
        return ()


def _apply(model: PartitionModel, batch: Batch, first: Position) -> tuple[int, Scored | None]:
    """Learn what lies before `first`, score the rest: how many were learnt, and what the rest gave."""
    learnt = 0
    if model.next < first:
        learnt = model.replay(batch.before(first)).records
    return learnt, model.apply(batch) if batch.end > first else None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a group of tasks failed with."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
