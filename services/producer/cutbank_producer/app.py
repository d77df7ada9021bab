"""The producer as a service: opens the transport, produces, says what came of it. Owns nothing else.

Returns when the duration, RECORDS_MAX or the input ends, or within one batch of the stop signal. Event-loop only.
"""

from contextlib import AsyncExitStack, nullcontext

import structlog

from cutbank.pipeline.partitions import unless_stopped
from cutbank.runtime.service import Runtime, Service
from cutbank.transports import open_transport
from cutbank_producer.producing import produce
from cutbank_producer.replay import open_source
from cutbank_producer.settings import ProducerSettings

log = structlog.get_logger(__name__)


async def run(settings: ProducerSettings, runtime: Runtime) -> None:
    """Produce as the settings say. Raises CutbankErrors; the input's and the settings' as UsageError."""
    # The input first: a wrong file name makes no log.
    with open_source(settings) if settings.input is not None else nullcontext() as source:
        async with AsyncExitStack() as stack:
            opening = open_transport(settings.transport_url, clock=runtime.clock, metrics=runtime.metrics)
            # A cluster may be long in coming; told to stop meanwhile, there is nothing to finish.
            if (transport := await unless_stopped(stack.enter_async_context(opening), runtime.stop)) is None:
                return
            produced = await produce(
                settings,
                transport=transport,
                clock=runtime.clock,
                metrics=runtime.metrics,
                rng=runtime.rng,
                stop=runtime.stop,
                source=source,
                tell=lambda ok, why: runtime.health.ready("log", ok, why),
            )
    log.info("produced", records=produced.records, labels=produced.labels, why=produced.why)


SERVICE = Service(
    name="produce",
    summary="Produce stock trades, some of them anomalous, or replay a file of real records.",
    examples=(
        "cutbank produce",
        "cutbank produce --records-per-second 1000 --duration-seconds 60 --labels-stream labels",
        "cutbank produce --input trades.csv.gz --pace file --timestamp-column timestamp --speed 10",
        "zcat records.ndjson.gz | cutbank produce --input - --pace max --records-per-batch 1000",
    ),
    settings=ProducerSettings,
    run=run,
)
