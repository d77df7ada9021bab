"""The scorer as a service: opens the log and the state store, and scores until told to stop.

Owns what concerns the whole process: how long a thread may keep the interpreter, and what the garbage collector leaves
out. Event-loop only.
"""

import gc
import sys
from contextlib import AsyncExitStack

from cutbank.objects import open_store
from cutbank.pipeline.partitions import unless_stopped
from cutbank.pipeline.scoring import run_scorer
from cutbank.pipeline.spec import load_spec
from cutbank.runtime.service import Runtime, Service
from cutbank.transports import open_transport
from cutbank_scorer.settings import ScorerSettings


async def run(settings: ScorerSettings, runtime: Runtime) -> None:
    """Score as the settings and the spec say. Raises CutbankErrors; wrong settings, spec or store as UsageError."""
    spec = load_spec(settings.spec)
    clock, metrics = runtime.clock, runtime.metrics
    runtime.health.ready("scorer", ok=False, why="starting")
    async with AsyncExitStack() as stack:
        stack.callback(gc.unfreeze)
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        log = open_transport(
            settings.transport_url,
            clock=clock,
            metrics=metrics,
            tell=lambda ok, why: runtime.health.ready("group", ok, why),
        )
        # A cluster may be long in coming; told to stop meanwhile, there is nothing to finish.
        if (transport := await unless_stopped(stack.enter_async_context(log), runtime.stop)) is None:
            return
        state_store = await stack.enter_async_context(open_store(settings.state_url, clock=clock, metrics=metrics))
        await run_scorer(
            transport,
            state_store,
            spec,
            settings,
            clock=clock,
            metrics=metrics,
            stop=runtime.stop,
            rng=runtime.rng,
            on_ready=lambda: _ready(settings, runtime),
        )


def _ready(settings: ScorerSettings, runtime: Runtime) -> None:
    """Everything is loaded and compiled: from here on, time counts."""
    sys.setswitchinterval(settings.thread_switch_ms / 1000.0)
    # Some 200,000 objects of the libraries stay for good; a collector that looks through them stops all for 0.1 s.
    gc.collect()
    gc.freeze()
    runtime.health.ready("scorer", ok=True)


SERVICE = Service(
    name="score",
    summary="Score a stream and publish its anomalies and bad records.",
    examples=(
        "cutbank score",
        "cutbank score --spec cutbank.toml --emit all",
        "cutbank score --transport-url local:///var/lib/cutbank/log.db --state-url file:///var/lib/cutbank/state",
        "cutbank score --transport-url kafka://broker:9092 --state-url 's3://my-bucket/state?region=eu-west-1'",
        "cutbank score --on-lost-state new_run",
    ),
    settings=ScorerSettings,
    run=run,
)
