"""The Kafka transport against the contract of transports, on a real broker; each test under a prefix of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from brokers.fixtures import Broker
from cutbank.clock import SystemClock
from cutbank.errors import StreamMissing
from cutbank.metrics import NoMetrics
from cutbank.testing.log_under_test import WAIT_S_MAX, LogUnderTest
from cutbank.testing.transport_contract import TransportContract
from cutbank.transports.base import Transport
from cutbank.transports.kafka import open_kafka
from cutbank.transports.kafka.routing import VALUE_BYTES_MAX

TICK_S = 0.02
"""Real time between two looks of a test at a condition; the broker lives in no simulated time."""


class StoppableClock(SystemClock):
    """The machine's clock, for a process that can be made to stand still wherever it sleeps."""

    def __init__(self) -> None:
        self._going = asyncio.Event()
        self._going.set()

    def stop(self) -> None:
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    async def sleep(self, delay_s: float) -> None:
        await super().sleep(delay_s)
        await self._going.wait()


class KafkaLog:
    """Handles on one broker under one prefix."""

    value_bytes_max = VALUE_BYTES_MAX

    def __init__(self, broker: Broker, stack: AsyncExitStack, *, options: str = "") -> None:
        self._bootstrap_servers = broker.bootstrap_servers
        self._prefix = f"t{uuid4().hex[:12]}-"
        self._url = (
            f"{broker.url}?prefix={self._prefix}&session_timeout_ms=6000&heartbeat_ms=100&hand_over_ms=5000{options}"
        )
        self._stack = stack
        self._clocks: dict[int, StoppableClock] = {}
        self._handles: list[Transport] = []

    async def open(self) -> Transport:
        clock = StoppableClock()
        # Last in, first out: a process that stands still is woken before it is closed.
        transport = await self._stack.enter_async_context(open_kafka(self._url, clock=clock, metrics=NoMetrics()))
        self._stack.callback(clock.go_on)
        self._clocks[id(transport)] = clock
        self._handles.append(transport)
        return transport

    async def tick(self) -> None:
        await asyncio.sleep(TICK_S)

    async def silence(self, transport: Transport) -> None:
        self._clocks[id(transport)].stop()

    async def wake(self, transport: Transport) -> None:
        self._clocks[id(transport)].go_on()

    async def expire(self, stream: str) -> None:
        info = await self._handles[0].describe(stream)
        cut = {
            TopicPartition(self._prefix + stream, int(part.partition.id)): RecordsToDelete(before_offset=part.end)
            for part in info.partitions
        }
        admin = await self._admin()
        try:
            await admin.delete_records(cut)
        finally:
            await admin.close()

    async def delete(self, stream: str) -> None:
        admin = await self._admin()
        try:
            await admin.delete_topics([self._prefix + stream])
        finally:
            await admin.close()
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                try:
                    await self._handles[0].describe(stream)
                except StreamMissing:
                    return
                await self.tick()

    async def _admin(self) -> AIOKafkaAdminClient:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap_servers)
        await admin.start()
        return admin


class TestKafka(TransportContract):
    @pytest.fixture
    async def log(self, broker: Broker) -> AsyncIterator[LogUnderTest]:
        async with AsyncExitStack() as stack:
            yield KafkaLog(broker, stack)
