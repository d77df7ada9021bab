"""Topics that are made here, as the brokers have them, and every compression, by us and by the bare client."""

from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.record.memory_records import MemoryRecords

from brokers.fixtures import Broker, NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.topics import make
from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.transports.base import Start, StreamConfig
from cutbank.transports.kafka import open_kafka, wire
from cutbank.transports.kafka.batches import CODECS

RETENTION_MS = 3_600_000
VALUES = [b'{"price": 1.5, "quantity": %d}' % number for number in range(200)]


@pytest.fixture(scope="module")
def three(new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster(brokers=3)


async def described(servers: str, topic: str) -> tuple[list[int], dict[str, str]]:
    """Replicas of each partition, and the topic's settings."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        (about,) = await admin.describe_topics([topic])
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await admin.close()
    ((_, _, _, _, entries),) = answer.resources
    return [len(part["replicas"]) for part in about["partitions"]], {name: value for name, value, *_ in entries}


async def check_made(servers: str, *, partitions: int, replicas: int, in_sync: str) -> None:
    topic = f"t{uuid4().hex[:12]}"
    async with open_kafka(f"kafka://{servers}", clock=SystemClock(), metrics=NoMetrics()) as transport:
        made = await transport.ensure(StreamConfig(topic, partitions=partitions, retention_ms=RETENTION_MS))
        copies, settings = await described(servers, topic)
        assert copies == [replicas] * partitions
        assert settings["min.insync.replicas"] == in_sync
        assert settings["message.timestamp.type"] == "LogAppendTime"
        assert settings["cleanup.policy"] == "delete"
        assert settings["retention.ms"] == str(RETENTION_MS)
        assert (made.retention_ms, len(made.partitions)) == (RETENTION_MS, partitions)
        # One that is there is left as it is.
        again = await transport.ensure(StreamConfig(topic, partitions=partitions + 1, retention_ms=1_000))
        assert (again.identity, again.retention_ms, len(again.partitions)) == (made.identity, RETENTION_MS, partitions)


async def check_refused(servers: str) -> None:
    topic = f"t{uuid4().hex[:12]}"
    settings = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
    await make(servers, NewTopic(topic, 1, 1, topic_configs=settings))
    async with open_kafka(f"kafka://{servers}", clock=SystemClock(), metrics=NoMetrics()) as transport:
        with pytest.raises(UsageError, match=r"cleanup\.policy=compact"):
            await transport.ensure(StreamConfig(topic))


async def test_a_topic_on_three_brokers_has_three_copies_two_of_them_in_step(three: KafkaCluster) -> None:
    await check_made(three.bootstrap_servers, partitions=2, replicas=3, in_sync="2")
    await check_refused(three.bootstrap_servers)


async def test_a_topic_on_one_broker_has_one_copy(broker: Broker) -> None:
    if broker.cluster is None:
        pytest.skip("how many brokers there are is not ours")
    await check_made(broker.bootstrap_servers, partitions=3, replicas=1, in_sync="1")
    await check_refused(broker.bootstrap_servers)


async def test_a_publish_goes_on_while_one_broker_of_three_is_down(three: KafkaCluster) -> None:
    topic = f"t{uuid4().hex[:12]}"
    url = f"kafka://{three.bootstrap_servers}"
    async with open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig(topic))
        (leader,) = (await transport._cluster.topic(topic, fresh=True)).leaders
        follower = next(server for server in three.servers if server.address.node != leader)
        follower.kill()
        try:
            await transport.publish([Message(topic, b"1")])
        finally:
            follower.start()
            await three.ready()
        partition = Partition(topic, "0")
        batch = await transport.read(partition, Position(0), records_max=9, bytes_max=99)
        assert list(batch.values) == [b"1"]


async def codec_of(transport: Any, topic: str) -> int:
    """How the broker has packed the first batch of a topic."""
    ask = wire.Fetching(topic, 0, 0, 500, 1 << 20)
    (leader,) = (await transport._cluster.topic(topic)).leaders
    answer = await transport._cluster.send(leader, wire.FetchByNameRequest(ask))
    ((_, ((*_, records),)),) = answer.topics
    return int(MemoryRecords(records).next_batch().compression_type)


@pytest.mark.parametrize("compression", list(CODECS))
async def test_each_compression_of_ours_is_read_by_us_and_by_the_bare_client(broker: Broker, compression: str) -> None:
    topic = f"t{uuid4().hex[:12]}"
    url = f"{broker.url}?compression={compression}"
    async with open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig(topic))
        await transport.publish([Message(topic, value) for value in VALUES])
        assert await codec_of(transport, topic) == CODECS[compression]
        batch = await transport.read(Partition(topic, "0"), Position(0), records_max=999, bytes_max=1 << 20)
        assert list(batch.values) == VALUES
    async with AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, isolation_level="read_committed"
    ) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        assert [(await consumer.getone()).value for _ in VALUES] == VALUES


@pytest.mark.parametrize("compression", list(CODECS))
async def test_each_compression_of_the_bare_client_is_read_by_us(broker: Broker, compression: str) -> None:
    topic = f"t{uuid4().hex[:12]}"
    async with open_kafka(broker.url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig(topic))
        async with AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap_servers,
            compression_type=None if compression == "none" else compression,
            acks="all",
            linger_ms=50,
        ) as producer:
            for sent in [await producer.send(topic, value, partition=0) for value in VALUES]:
                await sent
        assert await codec_of(transport, topic) == CODECS[compression]
        partition = Partition(topic, "0")
        start = await transport.position_at(partition, Start("earliest"))
        batch = await transport.read(partition, start, records_max=999, bytes_max=1 << 20)
        assert list(batch.values) == VALUES
