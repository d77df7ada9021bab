"""Publishes portions on schedule until something ends it: the producer itself, as a service and as a Lambda function.

Invariant: one portion is in flight, in order; the next is published only after the log has acknowledged it. What was
acknowledged is counted; at most one portion more may be in the log when this is killed.
Delivery is at least once: where the log can't say whether a publish was done (`OutcomeUnknown`), it is done again,
with the same ids. On the embedded log a publish is one transaction, and only a failing disk leaves that open.
Event-loop only. A log that is busy makes `publish` wait: back-pressure, the schedule gives way.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

import structlog

from cutbank.clock import Clock
from cutbank.errors import CutbankError, MessageTooLarge, OutcomeUnknown, StreamUnavailable, UsageError
from cutbank.metrics import Metrics
from cutbank.pipeline.inputs import Input
from cutbank.pipeline.spec import load_spec
from cutbank.records import Message
from cutbank.retry import RetryPolicy, retrying
from cutbank.transports.base import StreamConfig, StreamInfo, Transport
from cutbank_producer.made_up import MadeUpTrades
from cutbank_producer.pace import Ending, Schedule
from cutbank_producer.portions import Portion, Source
from cutbank_producer.replay import Replay, open_source, prepare
from cutbank_producer.settings import ProducerSettings
from cutbank_producer.trades import FIRST_ID

log = structlog.get_logger(__name__)

T = TypeVar("T")

Why: TypeAlias = Literal["stopped", "duration", "records", "input"]

PUBLISH_RETRY = RetryPolicy(attempts_max=20, delay_s_first=0.05, delay_s_max=5.0)
"""How long an unreachable log is tried: pauses of 35 s on average; then the producer fails and has to be restarted."""

_COUNTABLE = 1 << 64
"""Positions from here on are sequence numbers (Kinesis), which count nothing."""


@dataclass(slots=True)
class Produced:
    """What the log has acknowledged."""

    records: int = 0
    labels: int = 0
    why: Why = "stopped"
    """What ended it: a stop, the time given, RECORDS_MAX, or the input's end."""


async def produce(
    settings: ProducerSettings,
    *,
    transport: Transport,
    clock: Clock,
    metrics: Metrics,
    rng: random.Random,
    stop: asyncio.Event,
    source: Input | None = None,
    left_s: Callable[[], float] | None = None,
    tell: Callable[[bool, str], None] = lambda ok, why: None,  # noqa: ARG005  # the default tells nobody
) -> Produced:
    """Produce until `stop`, the duration, no time left, RECORDS_MAX or the input's end, whichever is first.

    Ends within one portion. `left_s()`, asked before each, is the time left, seconds. `source` is an input that the
    caller has opened, and closes; else `settings.input` is opened here. `tell(ok, why)` hears whether the log takes
    records, for readiness. Raises UsageError; StreamUnavailable or OutcomeUnknown when the retries end; other
    CutbankErrors at once.
    """
    if settings.input is not None and source is None:
        with open_source(settings) as opened:
            return await produce(
                settings,
                transport=transport,
                clock=clock,
                metrics=metrics,
                rng=rng,
                stop=stop,
                source=opened,
                left_s=left_s,
                tell=tell,
            )
    async with Ending(
        clock=clock,
        stop=stop,
        duration_s=_duration_s(settings, replaying=source is not None),
        left_s=left_s,
        on_end=source.stop if source is not None else None,
    ) as ending:
        publisher = _Publisher(transport, ending=ending, metrics=metrics, rng=rng, tell=tell)
        portions = await _portions(settings, publisher, source)
        produced = await _run(settings, portions, publisher, ending)
    if source is not None and produced.why != "input":
        log.warning("input not replayed to its end", input=source.name, records=produced.records, why=produced.why)
    return produced


def _duration_s(settings: ProducerSettings, *, replaying: bool) -> float | None:
    """How long to produce; None: without end. An input is cut off only by a duration that somebody set."""
    if settings.duration_seconds == 0.0 or (replaying and "duration_seconds" not in settings.model_fields_set):
        return None
    return settings.duration_seconds


async def _portions(settings: ProducerSettings, publisher: "_Publisher", source: Input | None) -> Source:
    """Make the streams, and the source that goes on where they are."""
    if source is not None:
        await prepare(source, settings)
    stream = settings.stream_name
    if settings.spec is not None and "stream_name" not in settings.model_fields_set:
        stream = load_spec(settings.spec).source
    if source is None and settings.labels_stream is not None:
        if settings.labels_stream == stream:
            raise UsageError(f"LABELS_STREAM and the spec's source are both {stream!r}; labels need their own stream")
        await publisher.ensure(StreamConfig(settings.labels_stream))
    info = await publisher.ensure(StreamConfig(stream, partitions=settings.stream_partitions))
    if source is None:
        first_id = settings.first_id if settings.first_id is not None else FIRST_ID + _count(info, "FIRST_ID")
        log.info("producing", stream=stream, first_id=first_id, seed=settings.seed)
        return MadeUpTrades(settings, stream=stream, partition_ids=info.partition_ids, first_id=first_id)
    skip = _count(info, "RESUME=false") if settings.resume else 0
    log.info("replaying", stream=stream, input=source.name, skip=skip)
    return Replay(
        source,
        stream=stream,
        partition_ids=info.partition_ids,
        paced=settings.pace == "file",
        speed=settings.speed,
        skip=skip,
    )


def _count(info: StreamInfo, instead: str) -> int:
    """How many records the stream has ever taken; more where positions have gaps. Raises UsageError if none can say."""
    if any(partition.end >= _COUNTABLE for partition in info.partitions):
        raise UsageError(f"positions of stream {info.name!r} do not count its records; set {instead}")
    return sum(partition.end for partition in info.partitions)


async def _run(settings: ProducerSettings, portions: Source, publisher: "_Publisher", ending: Ending) -> Produced:
    """Portion after portion, each when it is due."""
    produced = Produced()
    schedule = Schedule(ending)
    why: Why | None
    while True:
        room = settings.records_max - produced.records if settings.records_max else settings.records_per_batch
        if why := ending.why() or ("records" if room <= 0 else None):
            break
        portion = await portions.next(min(settings.records_per_batch, room))
        if portion is None:
            why = ending.why() or "input"
            break
        offset_s = _offset_s(settings, portion, produced.records)
        wait_s = 0.0 if offset_s is None else schedule.wait_s(offset_s)
        # What is due at the end or later does not go out, so nothing is left to wait for.
        if wait_s > 0.0 and wait_s >= ending.left_s():
            why = "duration"
            break
        await ending.sleep(wait_s)
        if why := ending.why():
            break
        await publisher.publish(portion)
        produced.records += portion.records
        produced.labels += portion.labels
    produced.why = why
    return produced


def _offset_s(settings: ProducerSettings, portion: Portion, records_before: int) -> float | None:
    """The portion's place in the schedule, seconds after its start; None: none, it goes out at once."""
    if settings.pace == "file":
        return portion.offset_s
    if settings.pace == "max" or settings.records_per_second == 0.0:
        return None
    return records_before / settings.records_per_second


class _SentPerhaps(CutbankError):
    """A publish whose outcome is unknown, to be done again."""

    retryable = True


class _Ended(CutbankError):
    """No further try: it has ended."""


class _Publisher:
    """Calls of the transport, tried again while the log can't be reached."""

    def __init__(
        self,
        transport: Transport,
        *,
        ending: Ending,
        metrics: Metrics,
        rng: random.Random,
        tell: Callable[[bool, str], None],
    ) -> None:
        self._transport = transport
        self._ending = ending
        self._metrics = metrics
        self._rng = rng
        self._tell = tell

    async def ensure(self, config: StreamConfig) -> StreamInfo:
        """Make the stream unless it is there."""
        return await self._trying(lambda: self._transport.ensure(config), operation="ensure")

    async def publish(self, portion: Portion) -> None:
        """Publish, and count. A value that the log does not take is cut to what it takes, and said."""
        began_s = self._ending.monotonic_s()
        try:
            await self._publish(portion.messages)
        except MessageTooLarge as error:
            await self._publish(_cut(portion, error))
        self._metrics.observe("cutbank_publish_seconds", self._ending.monotonic_s() - began_s)
        self._metrics.add("cutbank_records_produced_total", portion.records)

    async def _publish(self, messages: Sequence[Message]) -> None:
        await self._trying(lambda: self._transport.publish(messages), operation="publish")

    async def _trying(self, call: Callable[[], Awaitable[T]], *, operation: str) -> T:
        failure: CutbankError | None = None

        async def once() -> T:
            nonlocal failure
            if failure is not None and self._ending.why() is not None:
                raise _Ended
            try:
                return await call()
            except StreamUnavailable as error:
                failure = error
                raise
            except OutcomeUnknown as error:
                failure = error
                raise _SentPerhaps(str(error)) from error

        def on_retry(error: BaseException, attempt: int) -> None:
            log.warning("tried again", operation=operation, attempt=attempt, why=str(error))
            self._metrics.add("cutbank_retries_total", operation=operation)
            self._tell(False, f"{operation}: {error}")

        try:
            done = await retrying(once, policy=PUBLISH_RETRY, clock=self._ending, rng=self._rng, on_retry=on_retry)
        except (_SentPerhaps, _Ended):
            assert failure is not None, "only a failure leads here"
            raise failure from None
        self._tell(True, "")
        return done


def _cut(portion: Portion, refused: MessageTooLarge) -> list[Message]:
    """The portion with every value cut to what the log takes: half a JSON object, which lands in the error stream.

    Raises the error as it came where nothing can be cut.
    """
    messages = list(portion.messages)
    cut_any = False
    for index, line in enumerate(portion.lines):
        message = messages[index]
        bytes_max = max(refused.bytes_max - len(message.key or b""), 0)
        if len(message.value) > bytes_max:
            log.warning(
                "record cut to what the log takes", line=line, bytes_total=len(message.value), bytes_max=bytes_max
            )
            messages[index] = replace(message, value=message.value[:bytes_max])
            cut_any = True
    if not cut_any:
        raise refused
    return messages
