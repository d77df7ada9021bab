"""The scorer of one process: what must be there before the first record, then one worker a partition.

Owns the start (self-check, stores, streams) and the threads. Event-loop only; returns when stopped and drained.
"""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

import structlog

from cutbank.clock import Clock
from cutbank.errors import StreamMissing, UsageError
from cutbank.metrics import Metrics
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.partitions import PartitionRunner, unless_stopped
from cutbank.pipeline.scoring.config import ScorerConfig
from cutbank.pipeline.scoring.gauges import ROLE
from cutbank.pipeline.scoring.model import DetectorSource, registered
from cutbank.pipeline.scoring.room import Rooms
from cutbank.pipeline.scoring.scene import Scene
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.scoring.worker import ScorerWorker
from cutbank.pipeline.spec import PipelineSpec
from cutbank.retry import RetryPolicy, retrying
from cutbank.transports.base import StreamConfig, Transport

START = RetryPolicy(attempts_max=8, delay_s_first=0.1, delay_s_max=5.0)
"""Attempts at each call before the first record; then the process ends and its supervisor starts it again."""

SOURCE_POLL_S = 0.25
"""Seconds between two looks for a source stream that isn't there yet."""

log = structlog.get_logger(__name__)


def group_name(spec: PipelineSpec) -> str:
    """The consumer group of a pipeline's scorers."""
    return f"{spec.name}.scorer"


async def run_scorer(
    transport: Transport,
    state_store: ObjectStore,
    spec: PipelineSpec,
    config: ScorerConfig,
    *,
    clock: Clock,
    metrics: Metrics,
    stop: asyncio.Event,
    rng: random.Random,
    detectors: DetectorSource | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Score the spec's source stream, together with the group's other members, until `stop` is set.

    `transport` and `state_store` are open and stay so. `detectors`: another detector than the spec names (for tests).
    `on_ready` is called once, when the source is there and this process asks for partitions.

    Raises UsageError (a model is too large, the source stream does not appear, the store is refused),
    DetectorMismatch, StreamMissing (an output stream was deleted). What concerns one partition only is logged and
    counted by `PartitionRunner`.
    """
    source = detectors or registered(spec)
    threads = ThreadPoolExecutor(max_workers=config.threads, thread_name_prefix="scorer")
    try:
        scene = Scene(
            transport=transport,
            state=StateRoom(state_store, pipeline=spec.name, stream=spec.source),
            spec=spec,
            spec_hash=spec.hash(algorithm_version=source.algorithm_version),
            config=config,
            detectors=source,
            clock=clock,
            metrics=metrics,
            threads=threads,
            rooms=Rooms(config),
        )
        if not await unless_stopped(_prepare(scene, state_store, rng), stop):
            return
        worker = ScorerWorker(scene, rng=rng)
        consumer = transport.consumer(group_name(spec), [spec.source])
        runner = PartitionRunner(
            consumer,
            worker.work,
            role=ROLE,
            clock=clock,
            metrics=metrics,
            rng=rng,
            while_parked=worker.parked,
            on_released=worker.released,
        )
        on_ready()
        await runner.run(stop)
    finally:
        # Not waited for: that would hold up the event loop, and what still runs here nobody looks at.
        threads.shutdown(wait=False, cancel_futures=True)


async def _prepare(scene: Scene, state_store: ObjectStore, rng: random.Random) -> Literal[True]:
    """What must be true before the first record."""
    log.info("checking the detector", detector=scene.spec.detector.name, pipeline=scene.spec.name)
    # Before anything is made: the size is refused here, not in the middle.
    model_bytes = await scene.in_thread(scene.detectors.model_bytes)
    if model_bytes > scene.config.models_bytes_max:
        raise UsageError(
            f"a model of {scene.spec.detector.name} needs {model_bytes} bytes, more than models_bytes_max "
            f"({scene.config.models_bytes_max}) leaves to all: raise it, or lower number_of_trees, sub_sample_size, "
            "shingle_size or the number of features in the spec"
        )
    # A machine that scores differently must not score at all.
    await scene.in_thread(scene.detectors.self_check)
    await retrying(lambda: state_store.probe(deletes=True), policy=START, clock=scene.clock, rng=rng)
    await _make_outputs(scene, rng)
    await _source_is_there(scene, rng)
    return True


async def _make_outputs(scene: Scene, rng: random.Random) -> None:
    streams = [scene.spec.destination, scene.spec.errors]
    if scene.config.emit == "all":
        streams.append(scene.spec.scores)
    for name in streams:
        wanted = StreamConfig(name=name, partitions=scene.config.output_partitions)
        await retrying(partial(scene.transport.ensure, wanted), policy=START, clock=scene.clock, rng=rng)


async def _source_is_there(scene: Scene, rng: random.Random) -> None:
    """Wait for the source stream: services start in any order."""
    name, began_s = scene.spec.source, scene.clock.monotonic_s()
    said = False
    while True:
        try:
            await retrying(lambda: scene.transport.describe(name), policy=START, clock=scene.clock, rng=rng)
        except StreamMissing:
            if scene.clock.monotonic_s() - began_s >= scene.config.source_wait_s:
                raise UsageError(
                    f"source stream {name!r} did not appear within {scene.config.source_wait_s:g} s: "
                    "start the producer, or name an existing stream as source in the spec"
                ) from None
        else:
            return
        if not said:
            log.info("waiting for the source stream", stream=name, wait_s_max=scene.config.source_wait_s)
            said = True
        await scene.clock.sleep(SOURCE_POLL_S)
