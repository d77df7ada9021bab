"""A batch that its topic refuses as too large goes in parts, whole and in order; a record that is, is refused."""

import random
import uuid

import pytest
from aiokafka.admin import NewTopic

from brokers.fixtures import Broker
from brokers.topics import make
from cutbank.clock import SystemClock
from cutbank.errors import MessageTooLarge
from cutbank.metrics import NoMetrics
from cutbank.pipeline.audit import read_all
from cutbank.records import Message
from cutbank.transports import open_transport

STREAM = "narrow"
BATCH_BYTES = 1_000

rng = random.Random(7)
values = [rng.randbytes(150) for _ in range(100)]
"""They can't be packed, so several of them make a batch that is too large."""


async def test_a_batch_too_large_for_its_topic_is_sent_in_parts_and_a_record_is_refused(broker: Broker) -> None:
    prefix = f"t{uuid.uuid4().hex[:12]}-"
    settings = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(BATCH_BYTES)}
    await make(broker.bootstrap_servers, NewTopic(prefix + STREAM, 1, 1, topic_configs=settings))
    url = f"{broker.url}?prefix={prefix}"
    async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.publish([Message(STREAM, value) for value in values])
        with pytest.raises(MessageTooLarge, match=r"max\.message\.bytes"):
            await transport.publish([Message(STREAM, b"a"), Message(STREAM, rng.randbytes(2 * BATCH_BYTES))])
        await transport.publish([Message(STREAM, b"the last")])
        found = [
            value async for batch in read_all(transport, await transport.describe(STREAM)) for value in batch.values
        ]
    assert found == [*values, b"the last"]
