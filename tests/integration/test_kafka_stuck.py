"""Scorer and sink while their broker is silent: not ready within 30 s, and ready again by themselves."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from brokers.fixtures import NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.wire import Wire
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.runtime.service import Runtime
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig
from cutbank_scorer.app import SERVICE as SCORER
from cutbank_scorer.settings import ScorerSettings
from cutbank_sink.app import SERVICE as SINK
from cutbank_sink.settings import SinkSettings

WAIT_S_MAX = 60.0
NOTICED_S_MAX = 30.0
LOOK_S = 0.02

Run = Callable[[dict[str, str], Runtime], Coroutine[Any, Any, None]]


async def scorer(environ: dict[str, str], runtime: Runtime) -> None:
    await SCORER.run(ScorerSettings.load(environ), runtime)


async def sink(environ: dict[str, str], runtime: Runtime) -> None:
    await SINK.run(SinkSettings.load(environ), runtime)


@pytest.fixture(scope="module")
def cluster(new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster()


async def until(met: Callable[[], bool], running: asyncio.Task[None]) -> None:
    """Real time passes until it holds."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not met():  # what is waited for happens at the broker
            assert not running.done(), "the service has ended"
            await asyncio.sleep(LOOK_S)


@pytest.mark.parametrize(("run", "role"), [(scorer, "scorer"), (sink, "sink")], ids=["scorer", "sink"])
async def test_a_silent_broker_turns_readiness_off_and_on_again(
    cluster: KafkaCluster, tmp_path: Path, run: Run, role: str
) -> None:
    options = f"?prefix=t{uuid4().hex[:12]}-"
    direct = f"kafka://{cluster.bootstrap_servers}{options}"
    async with open_transport(direct, clock=SystemClock(), metrics=NoMetrics()) as transport:
        for stream in ("trades", "anomalies", "errors"):
            await transport.ensure(StreamConfig(stream))
    environ = {
        # All limits are the defaults: this is about 30 s.
        "CUTBANK_TRANSPORT_URL": f"kafka://{cluster.proxied_bootstrap_servers}{options}",
        "CUTBANK_STATE_URL": f"file://{tmp_path}/state",
        "CUTBANK_STORE_URL": f"file://{tmp_path}/objects",
    }
    metrics = PrometheusMetrics()
    runtime = Runtime(clock=SystemClock(), metrics=metrics)

    def held() -> bool:
        return metrics.value("cutbank_partitions_held", role=role) == 1

    async with Wire.of(cluster) as wire:
        running = asyncio.create_task(run(environ, runtime))
        await until(lambda: runtime.health.is_ready and held(), running)
        wire.stall()
        began_s = time.monotonic()
        try:
            await until(lambda: not runtime.health.is_ready, running)
        finally:
            wire.flow()
        assert time.monotonic() - began_s < NOTICED_S_MAX
        assert "no answer" in runtime.health.why_not()
        await until(lambda: runtime.health.is_ready and held(), running)
        runtime.stop.set()
        await running
