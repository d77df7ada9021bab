"""How the bare client makes a topic, sends to it and reads it, for tests of the brokers. Owns nothing.

Partition 0 alone; of transactions, what was committed. Each call has a client of its own, closed when it returns.
"""

import asyncio
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

KNOWN_S = 60.0
LOOK_S = 0.02


async def made_topic(bootstrap_servers: str, **options: object) -> str:
    name = f"t-{uuid.uuid4().hex}"
    await make(bootstrap_servers, NewTopic(name, **{"num_partitions": 1, "replication_factor": 1, **options}))
    return name


async def make(bootstrap_servers: str, topic: NewTopic) -> None:
    """Returns when clients are told of it: the controller says that it is made before the brokers know."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([topic])
        async with asyncio.timeout(KNOWN_S):
            while any(one["error_code"] for one in await admin.describe_topics([topic.name])):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
    finally:
        await admin.close()


async def sent(bootstrap_servers: str, topic: str, payload: bytes) -> int:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all") as producer:
        return int((await producer.send_and_wait(topic, payload, partition=0)).offset)


async def payloads(bootstrap_servers: str, topic: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, isolation_level="read_committed") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        return [(await consumer.getone()).value for _ in range(count)]
