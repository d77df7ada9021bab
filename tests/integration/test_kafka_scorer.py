"""The scorer as a service on a real broker: partitions that are added under it, and where the first run starts."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from brokers.fixtures import Broker
from cutbank.clock import Clock, SystemClock
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.runtime.service import Runtime
from cutbank.transports import open_transport
from cutbank.transports.base import PartitionInfo, StreamConfig, Transport
from cutbank_scorer.app import SERVICE
from cutbank_scorer.settings import ScorerSettings

WAIT_S_MAX = 120.0
LOOK_S = 0.02
GROUP = "anomaly-extractor.scorer"


class StoppableClock(SystemClock):
    """The machine's clock, for a process that can be made to stand still wherever it sleeps."""

    def __init__(self) -> None:
        self.going = asyncio.Event()
        self.going.set()

    async def sleep(self, delay_s: float) -> None:
        await super().sleep(delay_s)
        await self.going.wait()


def trade(number: int) -> bytes:
    return b'{"price": %d, "quantity": %d, "id": %d}' % (100 + number % 7, 1 + number % 5, number)


@dataclass
class Site:
    """One pipeline's streams and state."""

    transport: Transport
    environ: dict[str, str]
    bootstrap_servers: str
    prefix: str

    async def publish(self, numbers: range, partition: int = 0) -> None:
        await self.transport.publish([Message("trades", trade(n), partition_id=str(partition)) for n in numbers])

    async def scored(self) -> list[tuple[str, int]]:
        """Partition of the source and id of every record that was scored, as they lie in [scores]."""
        if "scores" not in await self.transport.streams():
            return []
        (info,) = (await self.transport.describe("scores")).partitions
        found: list[tuple[str, int]] = []
        position = info.oldest
        while position < info.end:
            batch = await self.transport.read(info.partition, position, records_max=10_000, bytes_max=1 << 24)
            lines = map(json.loads, batch.values)
            found += [(line["SOURCE"]["partition"], line["id"]) for line in lines]
            if batch.end <= position:
                break
            position = batch.end
        return found

    @asynccontextmanager
    async def scorer(self, clock: Clock | None = None, **environ: str) -> AsyncIterator[PrometheusMetrics]:
        """The service, until the block ends; then told to stop."""
        metrics = PrometheusMetrics()
        runtime = Runtime(clock=clock or SystemClock(), metrics=metrics)
        settings = ScorerSettings.load({**self.environ, **environ})
        running = asyncio.ensure_future(SERVICE.run(settings, runtime))
        try:
            await until(lambda: metrics.value("cutbank_partitions_held", role="scorer") >= 1, running)
            yield metrics
        finally:
            runtime.stop.set()
            await running

    async def until_scored(self, wanted: list[tuple[str, int]]) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while len(await self.scored()) < len(wanted):  # noqa: ASYNC110  # the broker has them
                await asyncio.sleep(LOOK_S)
        assert await self.scored() == wanted


async def until(met: Callable[[], bool], running: asyncio.Future[None]) -> None:
    """Real time passes until it holds."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not met():  # what is waited for happens at the broker
            if running.done():
                running.result()
            await asyncio.sleep(LOOK_S)


@pytest.fixture
async def site(broker: Broker, tmp_path: Path) -> AsyncIterator[Site]:
    prefix = f"t{uuid4().hex[:12]}-"
    url = f"{broker.url}?prefix={prefix}&heartbeat_ms=200&session_timeout_ms=6000&metadata_ms=500"
    environ = {
        "CUTBANK_TRANSPORT_URL": url,
        "CUTBANK_STATE_URL": f"file://{tmp_path}/state",
        "CUTBANK_EMIT": "all",
    }
    async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig("trades"))
        yield Site(transport, environ, broker.bootstrap_servers, prefix)


async def test_a_partition_that_is_added_is_scored_from_its_first_record_on(site: Site) -> None:
    """The producer writes to it before the scorer has heard of it."""
    await site.publish(range(20))
    clock = StoppableClock()
    with structlog.testing.capture_logs() as logs:
        async with site.scorer(clock) as metrics:
            await site.until_scored([("0", n) for n in range(20)])
            clock.going.clear()  # it looks for partitions now and then, and not now
            admin = AIOKafkaAdminClient(bootstrap_servers=site.bootstrap_servers)
            await admin.start()
            try:
                await admin.create_partitions({f"{site.prefix}trades": NewPartitions(total_count=2)})
            finally:
                await admin.close()
            async with AIOKafkaProducer(bootstrap_servers=site.bootstrap_servers, acks="all") as producer:
                for number in range(100, 180):
                    if number == 150:
                        assert metrics.value("cutbank_partitions_held", role="scorer") == 1
                        clock.going.set()
                    await producer.send_and_wait(f"{site.prefix}trades", trade(number), partition=1)
            await site.publish(range(20, 30))
            async with asyncio.timeout(WAIT_S_MAX):
                while len(scored := await site.scored()) < 20 + 80 + 10:  # noqa: ASYNC110  # the broker has them
                    await asyncio.sleep(LOOK_S)
            assert [number for partition, number in scored if partition == "1"] == list(range(100, 180))
            assert [number for partition, number in scored if partition == "0"] == list(range(30))
            assert metrics.value("cutbank_runs_started_total") == 2
    (told,) = [line for line in logs if line["event"].startswith("partition was added")]
    assert (told["log_level"], told["partition"]) == ("warning", "trades/1")
    assert "empty" in told["event"]


async def test_latest_is_resolved_once_and_then_counts_what_was_committed(site: Site) -> None:
    await site.publish(range(10))
    async with site.scorer(CUTBANK_START="latest"):
        pass
    # While nobody reads, and with another setting after it: the start was written down at the birth.
    await site.publish(range(10, 20))
    async with site.scorer(CUTBANK_START="earliest"):
        await site.until_scored([("0", n) for n in range(10, 20)])
    await site.publish(range(20, 30))
    async with site.scorer(CUTBANK_START="latest"):
        await site.until_scored([("0", n) for n in range(10, 30)])


async def test_a_timestamp_is_resolved_once(site: Site) -> None:
    await site.publish(range(10))
    partition = Partition("trades", "0")
    before = await site.transport.read(partition, (await bounds(site)).oldest, records_max=100, bytes_max=1 << 20)
    async with asyncio.timeout(WAIT_S_MAX):
        while SystemClock().now_ms() <= before.arrivals_ms[-1] + 1:  # noqa: ASYNC110  # the broker's clock goes on
            await asyncio.sleep(LOOK_S)
    await site.publish(range(10, 20))
    at = str(before.arrivals_ms[-1] + 1)
    async with site.scorer(CUTBANK_START="timestamp", CUTBANK_START_TIMESTAMP_MS=at):
        await site.until_scored([("0", n) for n in range(10, 20)])
    await site.publish(range(20, 25))
    async with site.scorer(CUTBANK_START="timestamp", CUTBANK_START_TIMESTAMP_MS="0"):
        await site.until_scored([("0", n) for n in range(10, 25)])


async def test_earliest_is_the_default_and_a_restart_goes_on_where_it_was(site: Site) -> None:
    await site.publish(range(10))
    async with site.scorer():
        await site.until_scored([("0", n) for n in range(10)])
    committed = await site.transport.committed(GROUP, Partition("trades", "0"))
    assert committed is not None
    assert committed > 9
    await site.publish(range(10, 20))
    async with site.scorer(CUTBANK_START="latest"):
        await site.until_scored([("0", n) for n in range(20)])


async def bounds(site: Site) -> PartitionInfo:
    (info,) = (await site.transport.describe("trades")).partitions
    return info
