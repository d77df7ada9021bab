"""A client without a permission, on a real broker: each refusal names the operation, the resource and what it is about.

The last test gives what docs and messages say, no more, and everything works.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest

from brokers.secured import LIMITED, Operation, Resource, SecuredKafka
from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.testing.log_under_test import WAIT_S_MAX
from cutbank.transports.base import Assigned, Output, Start, StreamConfig, Transport
from cutbank.transports.kafka import KafkaTransport, open_kafka

READER = (Operation.READ, Operation.DESCRIBE_CONFIGS)
WRITER = (Operation.WRITE, Operation.DESCRIBE_CONFIGS)
QUICK = {"session_timeout_ms": 6_000, "heartbeat_ms": 100}


class World:
    """Two streams under a prefix of their own, made by who may do everything, and a handle of who may not."""

    def __init__(self, kafka: SecuredKafka, everything: Transport, limited: Transport, prefix: str) -> None:
        self.kafka, self.everything, self.limited, self.prefix = kafka, everything, limited, prefix

    async def allow(self, resource: Resource, name: str, *operations: Operation, prefixed: bool = False) -> None:
        await self.kafka.allow(resource, self.prefix + name, *operations, prefixed=prefixed)


@pytest.fixture
async def world(secured: SecuredKafka) -> AsyncIterator[World]:
    prefix = f"t{uuid4().hex[:12]}-"
    clock, metrics = SystemClock(), NoMetrics()
    async with (
        open_kafka(secured.url(prefix=prefix), clock=clock, metrics=metrics) as everything,
        open_kafka(secured.sasl_url(LIMITED, prefix=prefix, **QUICK), clock=clock, metrics=metrics) as limited,
    ):
        for stream in ("in", "out"):
            await everything.ensure(StreamConfig(stream))
        await everything.publish([Message("in", b"1")])
        yield World(secured, everything, limited, prefix)


async def refused(call: Callable[[], Awaitable[object]], *says: str) -> None:
    with pytest.raises(UsageError) as failure:
        await call()
    text = str(failure.value)
    assert "\n" not in text
    for word in says:
        assert word in text


async def test_a_stream_asks_for_describe_then_its_settings_then_read(world: World) -> None:
    topic = repr(f"{world.prefix}in")
    await refused(lambda: world.limited.describe("in"), "Describe", "topic", topic)
    await world.allow(Resource.TOPIC, "in", Operation.DESCRIBE)
    await refused(lambda: world.limited.describe("in"), "DescribeConfigs", topic)
    await world.allow(Resource.TOPIC, "in", Operation.DESCRIBE_CONFIGS)
    info = await world.limited.describe("in")
    read = info.partitions[0]
    await refused(
        lambda: world.limited.read(read.partition, read.oldest, records_max=1, bytes_max=1), "Read", "topic", "in"
    )


async def test_a_topic_asks_for_create(world: World) -> None:
    await world.allow(Resource.TOPIC, "new", Operation.DESCRIBE)
    await refused(lambda: world.limited.ensure(StreamConfig("new")), "Create", repr(f"{world.prefix}new"))
    await world.allow(Resource.TOPIC, "new", Operation.CREATE, Operation.DESCRIBE_CONFIGS)
    assert len((await world.limited.ensure(StreamConfig("new"))).partitions) == 1


async def test_a_publish_asks_for_its_transactional_id_then_write(world: World) -> None:
    await world.allow(Resource.TOPIC, "out", Operation.DESCRIBE)
    await world.allow(Resource.TOPIC, "in", *WRITER)
    both = [Message("in", b"x"), Message("out", b"x")]
    await refused(lambda: world.limited.publish(both), "Write", "transactional id", world.prefix)
    await world.kafka.allow(Resource.TRANSACTIONAL_ID, world.prefix, Operation.WRITE, prefixed=True)
    await refused(lambda: world.limited.publish(both), "Write", "topic", repr(f"{world.prefix}out"))
    await world.allow(Resource.TOPIC, "out", Operation.WRITE)
    await world.limited.publish(both)


async def test_a_group_asks_for_read(world: World) -> None:
    await world.allow(Resource.TOPIC, "in", *READER)
    await refused(lambda: world.limited.committed("g", Partition("in", "0")), "Read", "group", f"{world.prefix}g")

    async def joined() -> None:
        async with world.limited.consumer("g", ["in"]) as consumer:
            await anext(aiter(consumer.events()))

    await refused(joined, "Read", "group", f"{world.prefix}g")


async def test_what_is_said_is_enough_for_everything(world: World) -> None:
    await world.allow(Resource.TOPIC, "in", *READER)
    await world.allow(Resource.TOPIC, "out", *WRITER)
    await world.allow(Resource.GROUP, "g", Operation.READ)
    await world.kafka.allow(Resource.TRANSACTIONAL_ID, world.prefix, Operation.WRITE, prefixed=True)
    async with asyncio.timeout(WAIT_S_MAX), world.limited.consumer("g", ["in"]) as consumer:
        event = await anext(aiter(consumer.events()))
        assert isinstance(event, Assigned)
        lease = event.lease
        assert await lease.fence() is None
        start = await world.limited.position_at(lease.partition, Start("earliest"))
        lease.seek(start)
        batch = await lease.receive(records_max=1, bytes_max=1, wait_s=WAIT_S_MAX)
        assert list(batch.values) == [b"1"]
        await lease.publish_and_commit([Output("out", b"2")], batch.end)
        await lease.release()
    assert await world.limited.committed("g", Partition("in", "0")) == batch.end
    out = Partition("out", "0")
    assert list((await world.everything.read(out, Position(0), records_max=9, bytes_max=99)).values) == [b"2"]


async def test_a_fence_that_may_not_be_tried_is_said(world: World) -> None:
    """Where the requests that brokers take do not tell what they are."""
    limited = world.limited
    assert isinstance(limited, KafkaTransport)
    limited._cluster.cluster_id = "redpanda.of-the-tests"
    await world.allow(Resource.TOPIC, "in", *READER)
    await world.allow(Resource.TRANSACTIONAL_ID, "g/", Operation.WRITE, prefixed=True)
    report = await limited.check_brokers("g", "in", rounds=5)
    assert (report.rounds, f"allow Read on group '{world.prefix}g.check'" in report.warning) == (0, True)
    await world.allow(Resource.GROUP, "g.check", Operation.READ)
    report = await limited.check_brokers("g", "in", rounds=5)
    assert (report.rounds, report.warning) == (5, "")
