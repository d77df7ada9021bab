"""What Kafka's groups do beyond the contract: static names, added partitions, topics that are refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

from brokers.fixtures import Broker
from brokers.topics import make
from cutbank.clock import SystemClock
from cutbank.errors import AnotherStream, UsageError
from cutbank.metrics import Metrics, NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.testing.group_contract import Crew
from cutbank.transports.base import StreamConfig, Transport
from cutbank.transports.kafka import open_kafka
from cutbank.transports.kafka.consumer import WAITING_NAMED_MAX

WAIT_S_MAX = 60.0
LOOK_S = 0.02


async def until(met: object) -> None:
    """Real time passes until it holds."""
    assert callable(met)
    async with asyncio.timeout(WAIT_S_MAX):
        while not met():  # noqa: ASYNC110  # what is waited for happens at the broker
            await asyncio.sleep(LOOK_S)


class Site:
    """Handles on one broker under one prefix."""

    def __init__(self, broker: Broker, stack: AsyncExitStack) -> None:
        self.bootstrap_servers = broker.bootstrap_servers
        self.prefix = f"t{uuid4().hex[:12]}-"
        self._url = f"{broker.url}?prefix={self.prefix}&heartbeat_ms=100&session_timeout_ms=6000&metadata_ms=100"
        self._stack = stack

    async def open(self, options: str = "", *, metrics: Metrics | None = None) -> Transport:
        return await self._stack.enter_async_context(
            open_kafka(self._url + options, clock=SystemClock(), metrics=metrics or NoMetrics())
        )


@pytest.fixture
async def site(broker: Broker) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(broker, stack)


async def test_a_static_member_that_comes_back_moves_nothing(site: Site) -> None:
    first, second = await site.open("&group_instance_id=one"), await site.open("&group_instance_id=two")
    await first.ensure(StreamConfig("s", partitions=4))
    async with Crew(second) as stays:
        async with Crew(first) as goes:
            await until(lambda: len(stays.held) == len(goes.held) == 2)
            mine = set(goes.held)
        assigned = len(stays.assigned)
        async with Crew(first) as back:
            await until(lambda: len(back.held) == 2)
            assert set(back.held) == mine
            assert len(stays.assigned) == assigned
            assert set(stays.held) == {Partition("s", str(n)) for n in range(4)} - mine
            for lease in back.held.values():
                await lease.fence()


async def test_of_two_processes_with_one_static_name_the_older_stops(site: Site) -> None:
    first, second = await site.open("&group_instance_id=one"), await site.open("&group_instance_id=one")
    await first.ensure(StreamConfig("s"))
    with pytest.raises(UsageError, match="group_instance_id 'one'"):  # noqa: PT012  # raised when the older leaves
        async with Crew(first) as older:
            await until(lambda: len(older.held) == 1)
            async with Crew(second) as newer:
                await until(lambda: len(newer.held) == 1)
                await until(older._task.done)
                (lease,) = newer.held.values()
                await lease.fence()


async def test_partitions_that_are_added_are_shared_out(site: Site) -> None:
    transport = await site.open()
    await transport.ensure(StreamConfig("s", partitions=1))
    async with Crew(transport) as crew:
        await until(lambda: len(crew.held) == 1)
        (kept,) = crew.held.values()
        await kept.fence()
        admin = AIOKafkaAdminClient(bootstrap_servers=site.bootstrap_servers)
        await admin.start()
        try:
            await admin.create_partitions({f"{site.prefix}s": NewPartitions(total_count=3)})
        finally:
            await admin.close()
        await until(lambda: len(crew.held) == 3)
        assert crew.held[Partition("s", "0")] is kept, "what is held stays"
        for lease in crew.held.values():
            await lease.fence()
        assert (await transport.describe("s")).partition_ids == ("0", "1", "2")


async def test_a_process_holds_so_many_leases_and_what_is_over_waits_loudly(site: Site) -> None:
    metrics = PrometheusMetrics()
    group = f"{site.prefix}g"
    first = await site.open("&leases_max=2", metrics=metrics)
    await first.ensure(StreamConfig("s", partitions=3))
    with structlog.testing.capture_logs() as logs:
        async with Crew(first) as crew:
            await until(lambda: metrics.value("cutbank_group_partitions_waiting", group=group) == 1)
            assert set(crew.held) == {Partition("s", "0"), Partition("s", "1")}
            for lease in crew.held.values():
                await lease.fence()
            (told,) = [line for line in logs if line["log_level"] == "error"]
            assert (told["waiting"], told["leases_max"]) == ([f"{site.prefix}s/2"], 2)
            assert "another process" in told["what_to_do"]
            async with Crew(await site.open("&leases_max=2")) as other:
                await until(lambda: Partition("s", "2") in other.held)
                await until(lambda: metrics.value("cutbank_group_partitions_waiting", group=group) == 0)
                await other.held[Partition("s", "2")].fence()
            await until(lambda: metrics.value("cutbank_group_partitions_waiting", group=group) == 1)


async def test_of_many_that_wait_some_are_named_and_all_are_counted(site: Site) -> None:
    transport = await site.open("&leases_max=1")
    await transport.ensure(StreamConfig("s", partitions=WAITING_NAMED_MAX + 3))
    with structlog.testing.capture_logs() as logs:
        async with Crew(transport) as crew:
            await until(lambda: len(crew.held) == 1)
            await until(lambda: any(line["log_level"] == "error" for line in logs))
    (told,) = [line for line in logs if line["log_level"] == "error"]
    assert (len(told["waiting"]), told["count"]) == (WAITING_NAMED_MAX, WAITING_NAMED_MAX + 2)


async def test_a_topic_made_again_is_not_read_under_an_old_lease(site: Site) -> None:
    """Its positions are in range and its records are somebody else's."""
    transport = await site.open()
    await transport.ensure(StreamConfig("s"))
    await transport.publish([Message("s", b"old %d" % number) for number in range(4)])
    before = await transport.describe("s")
    async with Crew(transport) as crew:
        await until(lambda: len(crew.held) == 1)
        (lease,) = crew.held.values()
        await lease.fence()
        lease.seek(Position(0))
        batch = await lease.receive(records_max=2, bytes_max=1 << 20, wait_s=WAIT_S_MAX)
        assert batch.values == [b"old 0", b"old 1"]
        admin = AIOKafkaAdminClient(bootstrap_servers=site.bootstrap_servers)
        await admin.start()
        try:
            await admin.delete_topics([f"{site.prefix}s"])
        finally:
            await admin.close()
        async with asyncio.timeout(WAIT_S_MAX):
            # The broker may still know the old one for a moment.
            while (await transport.ensure(StreamConfig("s"))).identity == before.identity:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
        await transport.publish([Message("s", b"new %d" % number) for number in range(4)])
        lease.seek(Position(1))
        with pytest.raises(AnotherStream, match=before.identity):
            await lease.receive(records_max=2, bytes_max=1 << 20, wait_s=WAIT_S_MAX)


async def test_a_group_does_not_read_a_topic_without_arrival_times(site: Site) -> None:
    transport = await site.open()
    topic = NewTopic(f"{site.prefix}s", 1, 1, topic_configs={"message.timestamp.type": "CreateTime"})
    await make(site.bootstrap_servers, topic)
    with pytest.raises(UsageError, match=r"message\.timestamp\.type=LogAppendTime"):
        async with transport.consumer("g", ["s"]):
            pass
