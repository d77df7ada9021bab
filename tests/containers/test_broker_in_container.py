"""The fixture that testcontainers serves: a broker that a transport can use, on loopback alone, gone afterwards."""

import asyncio
import uuid

from containers.broker import broker_in_container, redpanda_image
from containers.engine import Engine
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.records import Message
from cutbank.transports.base import StreamConfig
from cutbank.transports.kafka import open_kafka


def test_a_broker_in_a_container_takes_a_stream_and_is_gone_afterwards(engine: Engine) -> None:
    before = set(engine.docker("ps", "--all", "--quiet").split())
    with broker_in_container(engine) as (name, servers):
        assert ("Redpanda (" if engine.pulls else "in Redpanda's place") in name
        asyncio.run(_publishes(servers))
        (mine,) = set(engine.docker("ps", "--quiet", "--filter", f"ancestor={_image(engine)}").split()) - before
        published = engine.docker("port", mine).splitlines()
        assert published
        assert all(line.rpartition("-> ")[2].startswith("127.0.0.1:") for line in published)
    assert mine not in engine.docker("ps", "--all", "--quiet").split()


def _image(engine: Engine) -> str:
    return redpanda_image() if engine.pulls else engine.kafka()


async def _publishes(servers: str) -> None:
    url = f"kafka://{servers}?prefix=t{uuid.uuid4().hex[:12]}-"
    async with open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as log:
        made = await log.ensure(StreamConfig("trades", partitions=2))
        assert len(made.partitions) == 2
        await log.publish([Message("trades", b"{}")])
        ends = [int(item.end) for item in (await log.describe("trades")).partitions]
        assert max(ends) > 0
