"""Limits of names and sizes on Kafka: what has exactly the limit is taken by the broker, one more is refused by us."""

from uuid import uuid4

import pytest

from brokers.fixtures import Broker
from cutbank.clock import SystemClock
from cutbank.errors import MessageTooLarge, UsageError
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition
from cutbank.transports.base import Start, StreamConfig
from cutbank.transports.kafka import open_kafka
from cutbank.transports.kafka.admin import PARTITIONS_MAX
from cutbank.transports.kafka.cluster import TOPIC_CHARACTERS_MAX
from cutbank.transports.kafka.routing import KEY_BYTES_MAX, VALUE_BYTES_MAX


async def test_the_longest_name_and_the_largest_record_are_taken_and_one_more_is_refused(broker: Broker) -> None:
    name = uuid4().hex.ljust(TOPIC_CHARACTERS_MAX, "x")
    key, value = bytes(KEY_BYTES_MAX), bytes(VALUE_BYTES_MAX)
    async with open_kafka(f"{broker.url}?compression=none", clock=SystemClock(), metrics=NoMetrics()) as transport:
        with pytest.raises(UsageError, match=f"1 to {TOPIC_CHARACTERS_MAX} of the characters"):
            await transport.ensure(StreamConfig(name + "x"))
        await transport.ensure(StreamConfig(name))
        for message in (Message(name, value + b"x"), Message(name, b"", key=key + b"x")):
            with pytest.raises(MessageTooLarge):
                await transport.publish([message])
        await transport.publish([Message(name, value, key=key)])
        partition = Partition(name, "0")
        start = await transport.position_at(partition, Start("earliest"))
        batch = await transport.read(partition, start, records_max=9, bytes_max=1)
        assert (list(batch.keys), list(batch.values)) == ([key], [value])


async def test_more_partitions_than_possible_are_refused_before_the_broker_is_asked(broker: Broker) -> None:
    async with open_kafka(broker.url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        name = uuid4().hex
        with pytest.raises(UsageError, match=f"{PARTITIONS_MAX + 1} partitions; 1 to {PARTITIONS_MAX} are possible"):
            await transport.ensure(StreamConfig(name, partitions=PARTITIONS_MAX + 1))
        assert name not in await transport.streams()
