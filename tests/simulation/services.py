"""One life of a producer, a scorer or a sink in a world: the real services, on the process's clock, log and stores.

Owns what a life is set to: drawn anew at each start, as an operator changes settings in a restart. Nothing here may
change a line; so all of it may change at any time. Event-loop only.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from cutbank.clock import Clock
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.scoring import ScorerConfig, run_scorer
from cutbank.pipeline.sinking import Layout, SinkConfig, run_sink
from cutbank.pipeline.sinking.prefix import partition_fields
from cutbank.pipeline.sinking.schema import ERROR_COLUMNS, Column, anomaly_columns
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message
from cutbank.testing.detectors import chain_detectors
from cutbank.testing.taps import Around, TappedTransport
from cutbank.transports.base import Transport
from cutbank_producer.producing import produce
from cutbank_producer.settings import ProducerSettings
from simulation.plan import Plan

SPEC = PipelineSpec(name="simulated")
DETECTORS = chain_detectors(dimensions=len(SPEC.features), share=0.3)
"""Three of ten records are anomalies, and each score depends on every record before."""
SPEC_HASH = SPEC.hash(algorithm_version=DETECTORS.algorithm_version)
SCORER_GROUP = f"{SPEC.name}.scorer"
SINK_GROUP = f"{SPEC.name}.sink"

SUNK = frozenset({SPEC.destination, SPEC.errors})
"""Streams that the sinks sink."""

_COLUMNS = tuple(column.name for column in anomaly_columns(SPEC))
_ERROR_PREFIX = "errors/!{firehose:error-output-type}/"


def _parquet(columns: Sequence[Column], **more: object) -> Layout:
    """A layout with a typed column for each of these."""
    names, types = (tuple(column[at] for column in columns) for at in (0, 1))
    return Layout.model_validate({"format": "parquet", "columns": names, "types": types, **more})


LAYOUTS: tuple[Layout, ...] = (
    Layout(),
    Layout(prefix="anomalies/!{timestamp:yyyy/MM/dd}/", zone="Asia/Kolkata"),
    Layout(compression="gzip"),
    Layout(format="csv", columns=_COLUMNS),
    Layout(
        prefix="!{timestamp:yyyy/MM/dd/HH/mm}/type=!{partitionKeyFromQuery:tradeType}/", partition_keys=("tradeType",)
    ),
    Layout(
        prefix="symbol=!{partitionKeyFromQuery:tickerSymbol}/",
        partition_keys=("tickerSymbol",),
        partition_values_max=2,
        format="csv",
        columns=_COLUMNS,
        compression="gzip",
    ),
    Layout(compression="zstd", prefix="!{timestamp:yyyy/MM/dd}/!{firehose:random-string}/", zone="America/New_York"),
    _parquet(anomaly_columns(SPEC), compression="zstd"),
    _parquet(
        anomaly_columns(SPEC),
        prefix="!{timestamp:yyyy/MM/dd/HH}/type=!{partitionKeyFromQuery:tradeType}/",
        partition_keys=("tradeType",),
    ),
)
"""How sinks may be told to lay out objects: a restart draws another one."""

MANY_VALUES = Layout(
    prefix="at=!{partitionKeyFromQuery:SOURCE.position}/",
    partition_keys=("SOURCE.position",),
    partition_values_max=50,
)
"""Each anomaly has a value of its own: a claim of more than 50 has as many objects and a rest."""

ERROR_LAYOUTS: tuple[Layout, ...] = (
    Layout(prefix="errors/!{timestamp:yyyy/MM/dd/HH}/"),
    Layout(prefix="errors/!{timestamp:yyyy/MM/dd}/", zone="America/New_York", compression="gzip"),
    Layout(prefix=_ERROR_PREFIX, partition_keys=partition_fields(_ERROR_PREFIX)),
    _parquet(ERROR_COLUMNS, prefix="errors/", compression="gzip"),
)
"""How they may be told to lay out errors."""

BAD_VALUES: tuple[bytes, ...] = (
    b"",
    b"  \n",
    b"{",
    b"[1, 2]",
    b"null",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"price": NaN, "quantity": 1}',
    b'{"price": 1e999, "quantity": 1}',
    b'{"price": 100.0}',
    b'{"price": null, "quantity": 1}',
    b'{"price": true, "quantity": 1}',
    b'{"price": "100", "quantity": 1}',
    b'{"price": 100.0, "quantity": 1.5}',
    b"[" * 200,
)
"""Records that can't be scored, one of each kind."""


class Figures:
    """A metrics sink that adds up counters; gauges and histograms are left out."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        self.counters[name] += int(value)

    def set(self, name: str, value: float, /, **labels: str) -> None: ...

    def observe(self, name: str, value: float, /, **labels: str) -> None: ...


class SpoilingTransport(TappedTransport):
    """A producer's log, into which some bad records go between the good ones."""

    def __init__(self, transport: Transport, around: Around, *, rng: random.Random, share: float) -> None:
        super().__init__(transport, around)
        self._rng = rng
        self._share = share

    async def publish(self, messages: Sequence[Message]) -> None:
        mixed: list[Message] = []
        for message in messages:
            mixed.append(message)
            if self._rng.random() < self._share:
                value = self._rng.choice(BAD_VALUES)
                mixed.append(Message(message.stream, value, message.key, message.partition_id))
        await super().publish(mixed)


async def run_producer(
    plan: Plan,
    transport: Transport,
    *,
    clock: Clock,
    figures: Figures,
    stop: asyncio.Event,
    rng: random.Random,
    left_s: float,
) -> None:
    """Produce for the seconds that are left."""
    settings = ProducerSettings(
        stream_name=SPEC.source,
        stream_partitions=plan.source_partitions,
        records_per_batch=plan.records_per_batch,
        records_per_second=plan.records_per_second,
        duration_seconds=left_s,
        seed=plan.seed,
        partition_by="round-robin",
    )
    await produce(settings, transport=transport, clock=clock, metrics=figures, rng=rng, stop=stop)


async def run_a_scorer(
    plan: Plan,
    transport: Transport,
    state: ObjectStore,
    *,
    clock: Clock,
    figures: Figures,
    stop: asyncio.Event,
    rng: random.Random,
) -> None:
    """Score, in batches and with snapshots as this life has them."""
    config = ScorerConfig(
        emit=plan.emit,
        snapshot_s=rng.choice((0.5, 2.0, 5.0, 10.0, 60.0)),
        batch_records_max=rng.choice((1, 2, 5, 20, 4096)),
        wait_s=rng.choice((1.0, 3.0)),
        models_kept_max=rng.choice((0, 8)),
        threads=1,
        output_partitions=plan.output_partitions,
    )
    await run_scorer(
        transport, state, SPEC, config, clock=clock, metrics=figures, stop=stop, rng=rng, detectors=DETECTORS
    )


async def run_a_sink(
    plan: Plan,
    transport: Transport,
    store: ObjectStore,
    *,
    clock: Clock,
    figures: Figures,
    stop: asyncio.Event,
    rng: random.Random,
) -> None:
    """Sink, in stretches and layouts as this life has them."""
    config = SinkConfig(
        pipeline=SPEC.name,
        stream=SPEC.destination,
        layout=rng.choice((MANY_VALUES, *LAYOUTS)[: 2 if plan.many_values else None]),
        beside={SPEC.errors: rng.choice(ERROR_LAYOUTS)},
        stretch_bytes_max=16 << 20 if plan.many_values else rng.choice((1, 1000, 4000, 16 << 20)),
        stretch_records_max=500_000 if plan.many_values else rng.choice((1, 2, 5, 500_000)),
        held_bytes_max=rng.choice((1 << 20, 256 << 20)),
        grace_ms=rng.choice((0, 2000)),
        flush_on_stop=rng.random() < 0.3,
        spec_hash=SPEC_HASH,
    )
    await run_sink(transport, store, config, clock=clock, metrics=figures, stop=stop, rng=rng)
