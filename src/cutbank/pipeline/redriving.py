"""Sends bad records again to where they came from, after a fix. Each error once, whatever is killed, whoever runs it.

Owns one group a reason, `<pipeline>.redrive.<reason>`, over the error stream: its committed position says up to where
errors of this reason were sent. The original and that position go in one `publish_and_commit` of a fenced lease, so
an error is sent exactly once where the transport's step is atomic, and what a run leaves out for its reason stays for
a later one. A run ends where the error stream ended when it began: what fails again waits for the next.

Originals go to the partition they came from, in the order of the error stream. Event-loop only; memory is one batch.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from cutbank.clock import Clock
from cutbank.errors import MessageTooLarge, StreamUnavailable
from cutbank.pipeline.error_records import ErrorRecord, Gone, Original, Originals, batches, error_record
from cutbank.pipeline.scoring.decode import Reason
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Partition, Position
from cutbank.retry import RetryPolicy, retrying
from cutbank.transports.base import Assigned, Consumer, Lease, Lost, Output, PartitionInfo, Revoked, Start, Transport

T = TypeVar("T")

REASONS_BY_DEFAULT: Final = frozenset(reason.value for reason in Reason) - {Reason.ANOMALY_TOO_LARGE.value}
"""Reasons that are redriven where none is named: not those whose records the model has learnt already."""

SEND_RECORDS_MAX: Final = 500
"""Most records sent in one step."""
SEND_BYTES_MAX: Final = 4 << 20
"""About the most bytes of them, one record at least."""

LEASE_WAIT_S_MAX: Final = 60.0
"""How long a run waits for its leases, seconds: longer than a killed one's hold on."""

SEND: Final = RetryPolicy(attempts_max=8, delay_s_first=0.05, delay_s_max=2.0)
"""Attempts at one step while the log is busy; then the run ends, and the next goes on."""


def redrive_group(pipeline: str, reason: str) -> str:
    """The group whose position says which errors of a reason were sent."""
    return f"{pipeline}.redrive.{reason}"


@dataclass(frozen=True, slots=True)
class Found:
    """An error whose turn it is, and its record."""

    error: ErrorRecord
    original: Original | Gone


@dataclass(slots=True)
class Account:
    """What a run has done so far; true at every moment, also when it ends with an error."""

    sent: Counter[str] = field(default_factory=Counter)
    """Records sent, by reason."""
    gone: Counter[str] = field(default_factory=Counter)
    """Records that can't be sent and were passed by, by reason."""


async def waiting(transport: Transport, spec: PipelineSpec, *, reasons: Collection[str]) -> AsyncIterator[Found]:
    """What a run would send now, and what it could not, without taking or moving anything. Raises StreamMissing."""
    originals = Originals(transport)
    parts = (await transport.describe(spec.errors)).partitions
    async for error in _all_unsent(transport, spec, parts, reasons):
        yield Found(error, await originals.find(error))


async def redrive(
    transport: Transport,
    spec: PipelineSpec,
    *,
    reasons: Collection[str],
    account: Account,
    clock: Clock,
    rng: random.Random,
    on_gone: Callable[[ErrorRecord, str], None] = lambda _error, _why: None,
) -> None:
    """Send every error of these reasons that was not sent yet, and count in `account`.

    `on_gone` is told of each record that can't be sent, once it is passed by: no later run meets it again.
    Raises StreamMissing, StreamUnavailable (another run holds the leases, or the log is busy), Fenced (another run
    took over), OutcomeUnknown, PositionLost. After all of them the same call goes on where this one ended.
    """
    parts = (await transport.describe(spec.errors)).partitions
    present = sorted({error.reason async for error in _all_unsent(transport, spec, parts, reasons)})
    async with AsyncExitStack() as stack:
        # Two runs that began together may each hold half: the one that tires first leaves the other all.
        wait_s = LEASE_WAIT_S_MAX * rng.uniform(0.5, 1.0)
        held = await _within(_all_leases(transport, spec, present, len(parts), stack), wait_s, clock)
        if held is None:
            raise StreamUnavailable(f"another redrive of {spec.name} is at work on {spec.errors}; wait until it ends")
        originals = Originals(transport)
        for info in parts:
            leases = {reason: leases[info.partition] for reason, leases in zip(present, held, strict=True)}
            run = _Run(leases, account=account, clock=clock, rng=rng, on_gone=on_gone)
            async for error, after in _unsent(transport, spec, info, await run.fence()):
                await run.add(_Turn(error, await originals.find(error), after))
            await run.finish(info.end)


async def _all_unsent(
    transport: Transport, spec: PipelineSpec, parts: Collection[PartitionInfo], reasons: Collection[str]
) -> AsyncIterator[ErrorRecord]:
    """Of all partitions, by the committed positions as an onlooker sees them."""
    for info in parts:
        marks = {
            reason: await transport.committed(redrive_group(spec.name, reason), info.partition) for reason in reasons
        }
        async for error, _ in _unsent(transport, spec, info, marks):
            yield error


async def _unsent(
    transport: Transport, spec: PipelineSpec, info: PartitionInfo, marks: Mapping[str, Position | None]
) -> AsyncIterator[tuple[ErrorRecord, Position]]:
    """This pipeline's errors in one partition at or after their reason's mark, each with the position after it."""
    oldest = await transport.position_at(info.partition, Start("earliest"))
    starts = {reason: oldest if mark is None else max(mark, oldest) for reason, mark in marks.items()}
    if not starts:
        return
    async for batch in batches(transport, info.partition, min(starts.values()), info.end):
        afters = [*batch.positions[1:], batch.end]
        for position, value, after in zip(batch.positions, batch.values, afters, strict=True):
            error = error_record(info.partition.id, position, value)
            if error is None or error.pipeline != spec.name or error.reason not in starts:
                continue
            if position >= starts[error.reason]:
                yield error, after


@dataclass(frozen=True, slots=True)
class _Turn:
    error: ErrorRecord
    original: Original | Gone
    after: Position
    """In the error stream: what is committed once this error is done with."""


class _Run:
    """One partition of the error stream, through the leases of the reasons that are there."""

    def __init__(
        self,
        leases: Mapping[str, Lease],
        *,
        account: Account,
        clock: Clock,
        rng: random.Random,
        on_gone: Callable[[ErrorRecord, str], None],
    ) -> None:
        self._leases = leases
        self._account = account
        self._clock = clock
        self._rng = rng
        self._on_gone = on_gone
        self._step: list[_Turn] = []
        self._step_bytes = 0

    async def fence(self) -> dict[str, Position | None]:
        """Cut off every earlier run, then see how far they came, by reason."""
        return {reason: await self._retried(lease.fence) for reason, lease in self._leases.items()}

    async def add(self, turn: _Turn) -> None:
        """The next error. Steps hold one reason each, so that order is kept across reasons."""
        size = len(turn.original.value) if isinstance(turn.original, Original) else 0
        full = len(self._step) >= SEND_RECORDS_MAX or self._step_bytes + size > SEND_BYTES_MAX
        if self._step and (full or self._step[0].error.reason != turn.error.reason):
            await self._flush()
        self._step.append(turn)
        self._step_bytes += size

    async def finish(self, end: Position) -> None:
        """Send what is left, and move every reason's position to the end of what was looked at."""
        await self._flush()
        for lease in self._leases.values():
            await self._retried(partial(lease.commit, end))

    async def _flush(self) -> None:
        turns, self._step, self._step_bytes = self._step, [], 0
        if not turns:
            return
        try:
            await self._send(turns)
        except MessageTooLarge:
            for turn in turns:
                await self._send_alone(turn)

    async def _send_alone(self, turn: _Turn) -> None:
        """One that the stream refuses for its size is passed by, or no later one would ever have its turn."""
        try:
            await self._send([turn])
        except MessageTooLarge as error:
            await self._send([replace(turn, original=Gone(str(error)))])

    async def _send(self, turns: Sequence[_Turn]) -> None:
        """Originals and position in one step; counted when it is certain. Raises MessageTooLarge (nothing done)."""
        lease, after = self._leases[turns[0].error.reason], turns[-1].after
        outputs = [
            Output(turn.error.source.stream, turn.original.value, turn.original.key, turn.error.source.id)
            for turn in turns
            if isinstance(turn.original, Original)
        ]
        if outputs:
            await self._retried(partial(lease.publish_and_commit, outputs, after))
        else:
            await self._retried(partial(lease.commit, after))
        for turn in turns:
            if isinstance(turn.original, Gone):
                self._account.gone[turn.error.reason] += 1
                self._on_gone(turn.error, turn.original.why)
            else:
                self._account.sent[turn.error.reason] += 1

    async def _retried(self, call: Callable[[], Awaitable[T]]) -> T:
        return await retrying(call, policy=SEND, clock=self._clock, rng=self._rng)


async def _all_leases(
    transport: Transport, spec: PipelineSpec, reasons: Sequence[str], count: int, stack: AsyncExitStack
) -> list[dict[Partition, Lease]]:
    """All `count` leases of every reason, one reason after another; the groups are left when `stack` closes."""
    # All are joined first: the hold of a killed run ends for all at once, not one session time-out after another.
    consumers = [
        await stack.enter_async_context(transport.consumer(redrive_group(spec.name, reason), [spec.errors]))
        for reason in reasons
    ]
    return [await _leases_of(consumer, count) for consumer in consumers]


async def _leases_of(consumer: Consumer, count: int) -> dict[Partition, Lease]:
    held: dict[Partition, Lease] = {}
    async for event in consumer.events():
        match event:
            case Assigned(lease):
                held[lease.partition] = lease
            case Revoked(lease) | Lost(lease):  # another run has come
                held.pop(lease.partition, None)
                await lease.release()
        if len(held) == count:
            break
    return held


async def _within(call: Coroutine[None, None, T], wait_s: float, clock: Clock) -> T | None:
    """The call's result; None when it takes longer: then it is cancelled and its end waited for."""
    calling, tired = asyncio.ensure_future(call), asyncio.ensure_future(clock.sleep(wait_s))
    try:
        await asyncio.wait({calling, tired}, return_when=asyncio.FIRST_COMPLETED)
        return calling.result() if calling.done() else None
    finally:
        calling.cancel()
        tired.cancel()
        await asyncio.wait({calling, tired})
