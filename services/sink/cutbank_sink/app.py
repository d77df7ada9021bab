"""The sink as a service: opens the log and the object store, and sinks until told to stop. Owns nothing else.

Event-loop only.
"""

from cutbank.objects import open_store
from cutbank.pipeline.sinking import run_sink
from cutbank.pipeline.spec import load_spec
from cutbank.runtime.service import Runtime, Service
from cutbank.transports import open_transport
from cutbank_sink.settings import SinkSettings


async def run(settings: SinkSettings, runtime: Runtime) -> None:
    """Sink the spec's destination stream. Raises CutbankErrors; wrong settings, spec or store as UsageError."""
    config = settings.config(load_spec(settings.spec))
    clock, metrics = runtime.clock, runtime.metrics
    async with (
        open_transport(settings.transport_url, clock=clock, metrics=metrics) as transport,
        open_store(settings.store_url, clock=clock, metrics=metrics) as store,
    ):
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
        "cutbank sink --grace-ms 500 --stretch-bytes-max 67108864",
        "cutbank sink --accept-lost",
    ),
    settings=SinkSettings,
    run=run,
)
