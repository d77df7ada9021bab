"""The sink as a service: opens the log and the object store, and sinks until told to stop. Owns nothing else.

Event-loop only.
"""

import sys
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog

from cutbank.objects import open_store
from cutbank.pipeline.partitions import unless_stopped
from cutbank.pipeline.sinking import run_sink
from cutbank.pipeline.spec import PipelineSpec, load_spec
from cutbank.runtime.service import Runtime, Service
from cutbank.transports import open_transport
from cutbank_sink.settings import SinkSettings

log = structlog.get_logger(__name__)


def _spec_hash(spec: PipelineSpec) -> str | None:
    """What the claims record; None in an image without detectors, whose versions are part of it."""
    try:
        from cutbank import detectors
    except ImportError:
        return None
    return spec.hash(algorithm_version=detectors.algorithm_version(spec.detector.name))


async def run(settings: SinkSettings, runtime: Runtime) -> None:
    """Sink the spec's destination stream and its errors.

    Raises CutbankErrors; wrong settings, spec or store as UsageError.
    """
    spec = load_spec(settings.spec)
    config = replace(settings.config(spec), spec_hash=_spec_hash(spec))
    clock, metrics = runtime.clock, runtime.metrics
    async with AsyncExitStack() as stack:
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(settings.thread_switch_ms / 1000.0)
        opening = open_transport(
            settings.transport_url,
            clock=clock,
            metrics=metrics,
            tell=lambda ok, why: runtime.health.ready("group", ok, why),
        )
        # A cluster may be long in coming; told to stop meanwhile, there is nothing to finish.
        if (transport := await unless_stopped(stack.enter_async_context(opening), runtime.stop)) is None:
            return
        store = await stack.enter_async_context(open_store(settings.store_url, clock=clock, metrics=metrics))
        log.info(
            "objects go below the root, one a minute and partition in which there is a record",
            root=settings.store_url,
            streams=list(config.streams),
        )
        await run_sink(
            transport,
            store,
            config,
            clock=clock,
            metrics=metrics,
            stop=runtime.stop,
            rng=runtime.rng,
            ready=runtime.health.ready,
        )


SERVICE = Service(
    name="sink",
    summary="Put the anomalies into objects, one a minute, each anomaly in exactly one.",
    examples=(
        "cutbank sink",
        "cutbank sink --spec cutbank.toml --store-url file:///var/lib/cutbank/anomalies",
        "cutbank sink --store-url 's3://my-bucket/anomalies?region=eu-west-1' --compression gzip",
        "cutbank sink --grace-ms 500 --stretch-bytes-max 67108864",
        "cutbank sink --accept-lost",
    ),
    settings=SinkSettings,
    run=run,
)
