"""The sink: from a stream of anomalies to objects, each anomaly in exactly one, by a chain of claims (see `claims`).

`run_sink` is a whole sink process but for its settings; `inspect` reads what sinks have written.
"""

import asyncio
import random

from cutbank.clock import Clock
from cutbank.errors import StreamMissing, UsageError
from cutbank.metrics import Metrics
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.partitions import PartitionRunner
from cutbank.pipeline.sinking.claims import Birth, ChainId, Claim, DataObject, Layout, Lost, Mark
from cutbank.pipeline.sinking.config import SinkConfig
from cutbank.pipeline.sinking.outage import Ready, StoreWatch, tell_nobody
from cutbank.pipeline.sinking.patience import Interrupted, Patience, unless
from cutbank.pipeline.sinking.worker import Sink
from cutbank.retry import RetryPolicy, retrying
from cutbank.transports.base import Transport

__all__ = [
    "Birth",
    "ChainId",
    "Claim",
    "DataObject",
    "Layout",
    "Lost",
    "Mark",
    "Sink",
    "SinkConfig",
    "run_sink",
]


STREAM_LOOK_S = 0.5
"""Pause between two looks for a stream that is not there yet, seconds."""

STREAM_LOOK = RetryPolicy()
"""Attempts at each look while the log is busy; then the process ends and its supervisor starts it again."""


async def run_sink(
    transport: Transport,
    store: ObjectStore,
    config: SinkConfig,
    *,
    clock: Clock,
    metrics: Metrics,
    stop: asyncio.Event,
    rng: random.Random,
    ready: Ready = tell_nobody,
) -> None:
    """Sink every partition of its streams that the group gives this process, until `stop` is set.

    `ready(part, ok, why)` is told of `store` and `transport`. Raises StoreRefused, UsageError, StreamUnavailable.
    """
    watch = StoreWatch(clock=clock, metrics=metrics, ready=ready)
    patience = Patience(clock=clock, rng=rng, metrics=metrics, stop=stop, watch=watch)
    ready("store", False, "not probed yet")
    ready("transport", False, f"waiting for streams: {', '.join(config.streams)}")
    try:
        await unless(patience.store(store.probe, operation="probe"), stop)
        ready("store", True, "")
        await unless(_streams(transport, config, clock=clock, rng=rng), stop)
        ready("transport", True, "")
    except Interrupted:
        return
    sink = Sink(transport, store, config, clock=clock, metrics=metrics, rng=rng, watch=watch)
    consumer = transport.consumer(config.group, config.streams)
    await PartitionRunner(consumer, sink.work, role="sink", clock=clock, metrics=metrics, rng=rng).run(stop)


async def _streams(transport: Transport, config: SinkConfig, *, clock: Clock, rng: random.Random) -> None:
    """Wait until all are there: whoever publishes to a stream makes it, with as many partitions as it should have."""
    until_s = clock.monotonic_s() + config.stream_wait_s
    for stream in config.streams:
        await _stream(transport, stream, config, until_s=until_s, clock=clock, rng=rng)


async def _stream(
    transport: Transport, stream: str, config: SinkConfig, *, until_s: float, clock: Clock, rng: random.Random
) -> None:
    while True:
        try:
            await retrying(lambda: transport.describe(stream), policy=STREAM_LOOK, clock=clock, rng=rng)
        except StreamMissing:
            if clock.monotonic_s() >= until_s:
                raise UsageError(
                    f"stream {stream!r} did not appear within {config.stream_wait_s:g} s: start the scorer, "
                    f"or make it with: cutbank streams create {stream}"
                ) from None
            await clock.sleep(STREAM_LOOK_S)
        else:
            return
