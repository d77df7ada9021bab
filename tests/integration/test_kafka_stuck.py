"""Scorer and sink whose broker comes after them, and while it is silent: ready by themselves, not ready within 30 s.

Also what a client that begins anew, as it does then, leaves behind.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog

from brokers.fixtures import NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.wire import Api, Fault, Wire
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.runtime.service import Runtime, Service
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig
from cutbank.transports.kafka import open_kafka
from cutbank.transports.kafka.wire import TopicsRequest
from cutbank_scorer.app import SERVICE as SCORER
from cutbank_sink.app import SERVICE as SINK

WAIT_S_MAX = 180.0
NOTICED_S_MAX = 30.0
LOOK_S = 0.02
PARTITIONS = {"scorer": 1, "sink": 2}
"""Of trades; of anomalies and errors."""


@pytest.fixture(scope="module")
def cluster(new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster()


class Watched:
    """A service in the test's process, all its limits the defaults."""

    def __init__(self, service: Service[Any], environ: dict[str, str], *, role: str) -> None:
        self._metrics = PrometheusMetrics()
        self._role = role
        self._runtime = Runtime(clock=SystemClock(), metrics=self._metrics)
        self._running = asyncio.ensure_future(service.run(service.settings.load(environ), self._runtime))

    async def at_work(self) -> None:
        """Until it is ready and holds its partitions."""
        held = PARTITIONS[self._role]
        await self._until(
            lambda: (
                self._runtime.health.is_ready
                and self._metrics.value("cutbank_partitions_held", role=self._role) == held
            )
        )

    async def not_ready(self) -> str:
        """Why not, once it says so."""
        await self._until(lambda: not self._runtime.health.is_ready)
        return self._runtime.health.why_not()

    async def stopped(self) -> None:
        """Once it has ended."""
        self._runtime.stop.set()
        await self._running

    async def _until(self, met: Callable[[], bool]) -> None:
        """Real time passes until it holds."""
        async with asyncio.timeout(WAIT_S_MAX):
            while not met():  # what is waited for happens at the broker
                assert not self._running.done(), f"the {self._role} has ended"
                await asyncio.sleep(LOOK_S)


@pytest.fixture
async def environ(cluster: KafkaCluster, tmp_path: Path) -> dict[str, str]:
    """Of both services, through the wire; their streams are there. All else are the defaults."""
    options = f"?prefix=t{uuid4().hex[:12]}-"
    direct = f"kafka://{cluster.bootstrap_servers}{options}"
    async with open_transport(direct, clock=SystemClock(), metrics=NoMetrics()) as transport:
        for stream in ("trades", "anomalies", "errors"):
            await transport.ensure(StreamConfig(stream))
    return {
        "CUTBANK_TRANSPORT_URL": f"kafka://{cluster.proxied_bootstrap_servers}{options}",
        "CUTBANK_STATE_URL": f"file://{tmp_path}/state",
        "CUTBANK_STORE_URL": f"file://{tmp_path}/objects",
    }


async def test_services_that_start_before_their_broker_begin_when_it_comes(
    cluster: KafkaCluster, environ: dict[str, str]
) -> None:
    async with Wire.of(cluster) as wire:
        wire.down()
        with structlog.testing.capture_logs() as logs:
            services = [Watched(SCORER, environ, role="scorer"), Watched(SINK, environ, role="sink")]
            async with asyncio.timeout(WAIT_S_MAX):
                while [line["event"] for line in logs].count("waiting for Kafka") < len(services):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)
        await wire.up()
        await asyncio.gather(*(service.at_work() for service in services))
        await asyncio.gather(*(service.stopped() for service in services))


async def test_a_silent_broker_turns_readiness_off_and_on_again(cluster: KafkaCluster, environ: dict[str, str]) -> None:
    """With the session's length, the time until it counts as stuck and all others as they are: about 30 s."""
    async with Wire.of(cluster) as wire:
        services = [Watched(SCORER, environ, role="scorer"), Watched(SINK, environ, role="sink")]
        await asyncio.gather(*(service.at_work() for service in services))
        wire.stall()
        began_s = time.monotonic()
        try:
            whys = await asyncio.gather(*(service.not_ready() for service in services))
        finally:
            wire.flow()
        took_s = time.monotonic() - began_s
        assert took_s < NOTICED_S_MAX, f"load {os.getloadavg()[0]:.1f}: {whys}"
        # Which of the two has been silent for longest is chance.
        assert all("no answer of the coordinator" in why or "/0 can't be " in why for why in whys), whys
        await asyncio.gather(*(service.at_work() for service in services))
        await asyncio.gather(*(service.stopped() for service in services))


async def test_a_client_that_begins_anew_leaves_no_connection_behind(cluster: KafkaCluster) -> None:
    """Not even one that was being opened on the old one: it is closed once it is there."""
    url = f"kafka://{cluster.proxied_bootstrap_servers}"
    async with Wire.of(cluster) as wire, open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        connections = transport._cluster
        opening = wire.ambush(Api.API_VERSIONS, Fault.HOLD_REPLY)
        asked = asyncio.create_task(connections.send(None, TopicsRequest([]), line=connections.new_line("late")))
        async with asyncio.timeout(WAIT_S_MAX):
            await opening.met.wait()
            old = connections._client
            await connections.restart()
            opening.release()
            await asyncio.wait({asked})
        assert connections._client is not old
        assert [where for where, connection in old._conns.items() if connection.connected()] == []
        asked.exception()  # looked at: it may have been answered, or not
