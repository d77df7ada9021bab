"""Three brokers: a leader killed loses nothing that was acknowledged, and a partition has a new one."""

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient

from brokers.fixtures import NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.topics import made_topic, payloads

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def three(new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster(brokers=3)


async def leader(bootstrap_servers: str, topic: str) -> int:
    client = AIOKafkaClient(bootstrap_servers=bootstrap_servers)
    await client.bootstrap()
    try:
        client.add_topic(topic)
        await client.force_metadata_update()
        return int(client.cluster.leader_for_partition(TopicPartition(topic, 0)))
    finally:
        await client.close()


async def test_a_killed_leader_loses_nothing(three: KafkaCluster) -> None:
    topic = await made_topic(three.bootstrap_servers, replication_factor=3)
    async with AIOKafkaProducer(
        bootstrap_servers=three.bootstrap_servers, acks="all", enable_idempotence=True
    ) as producer:
        for number in range(100):
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
        first = await leader(three.bootstrap_servers, topic)
        three.server(first).kill()
        for number in range(100, 200):
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
    assert await leader(three.bootstrap_servers, topic) != first
    assert await payloads(three.bootstrap_servers, topic, 200) == [b"%d" % number for number in range(200)]
    three.server(first).start()
    await three.ready(brokers=3)
