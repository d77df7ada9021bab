"""Settings of the client that nothing else shows: they arrive at the broker, or at the connection."""

import asyncio
import struct
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from brokers.fixtures import Broker, NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.wire import Api, Fault, Wire
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Position
from cutbank.testing.group_contract import Crew
from cutbank.testing.log_under_test import WAIT_S_MAX
from cutbank.transports.base import Lease, StreamConfig
from cutbank.transports.kafka import open_kafka
from cutbank.transports.kafka.lease import FETCH_BYTES_MIN
from cutbank.transports.kafka.transport import KafkaTransport

LINES_OF_A_LEASE = 3
KINDS = {"fetch", "transaction", "produce"}
OTHERS_MAX = 5
"""Of a process and its group."""


def opened(servers: str, options: str) -> KafkaTransport:
    url = f"kafka://{servers}?prefix=t{uuid4().hex[:12]}-&heartbeat_ms=100&session_timeout_ms=6000{options}"
    return open_kafka(url, clock=SystemClock(), metrics=NoMetrics())


async def until_held(crew: Crew, count: int) -> list[Lease]:
    async with asyncio.timeout(WAIT_S_MAX):
        while len(crew.held) < count:  # noqa: ASYNC110  # the broker gives them
            await asyncio.sleep(0.02)
    return list(crew.held.values())


async def test_brokers_know_the_client_by_its_id(broker: Broker) -> None:
    async with opened(broker.bootstrap_servers, "&client_id=desk-7") as transport:
        await transport.ensure(StreamConfig("s"))
        async with Crew(transport) as crew:
            await until_held(crew, 1)
            admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
            await admin.start()
            try:
                (answer,) = await admin.describe_consumer_groups([f"{transport._cluster.settings.prefix}g"])
            finally:
                await admin.close()
            ((_, _, _, _, _, members, *_),) = answer.groups
            assert [client_id for _, client_id, *_ in members] == ["desk-7"]


async def test_an_idle_connection_is_closed_and_opened_again_when_it_is_needed(broker: Broker) -> None:
    async with opened(broker.bootstrap_servers, "&connections_max_idle_ms=1000") as transport:
        await transport.ensure(StreamConfig("s"))
        open_ones = list(transport._cluster._client._conns.values())
        assert open_ones
        async with asyncio.timeout(WAIT_S_MAX):
            while any(connection.connected() for connection in open_ones):  # noqa: ASYNC110  # time must pass
                await asyncio.sleep(0.05)
        assert await transport.streams() == ("s",)


async def test_a_lease_has_as_many_connections_as_is_said(broker: Broker) -> None:
    if broker.cluster is None:
        pytest.skip("of one broker alone it is known who leads and coordinates")
    async with opened(broker.bootstrap_servers, "") as transport:
        await transport.ensure(StreamConfig("s", partitions=4))
        async with Crew(transport) as crew:
            for lease in await until_held(crew, 4):
                await lease.fence()
                lease.seek(Position(0))
                await lease.receive(records_max=1, bytes_max=1, wait_s=0.01)
                await lease.commit(Position(0))
            connections = transport._cluster._client._conns
            ours = [line for _, line in connections if isinstance(line, str) and line.split()[0] in KINDS]
            assert len(ours) <= 4 * LINES_OF_A_LEASE
            assert len(connections) - len(ours) <= OTHERS_MAX


@pytest.fixture(scope="module")
def cluster(broker: Broker, new_cluster: NewCluster) -> KafkaCluster:
    """Ours, for the wire before it; nothing here stops it."""
    return broker.cluster or new_cluster()


async def test_how_much_a_fetch_waits_for_arrives_at_the_broker(cluster: KafkaCluster) -> None:
    least = 54_321
    options = f"&fetch_bytes_min={least}&fetch_bytes_max=1000000&fetch_wait_ms=100"
    async with Wire.of(cluster) as wire, opened(cluster.proxied_bootstrap_servers, options) as transport:
        await transport.ensure(StreamConfig("s"))
        await transport.publish([Message("s", b"1")])
        async with Crew(transport) as crew:
            (lease,) = await until_held(crew, 1)
            await lease.fence()
            lease.seek(Position(0))
            asked = wire.ambush(Api.FETCH, Fault.HOLD_REPLY, holding=struct.pack(">i", least))
            asked.release()
            batch = await lease.receive(records_max=1, bytes_max=1 << 20, wait_s=WAIT_S_MAX)
            assert asked.met.is_set()
            assert list(batch.values) == [b"1"], "the wait ends before there is as much"


@pytest.mark.parametrize(("partitions", "share"), [(1, 1 << 20), (4, 1 << 18), (40, FETCH_BYTES_MIN)])
async def test_leases_share_what_their_fetches_may_bring(cluster: KafkaCluster, partitions: int, share: int) -> None:
    least = 54_321
    options = f"&fetches_bytes_max={1 << 20}&fetch_bytes_min={least}&fetch_wait_ms=100"
    async with Wire.of(cluster) as wire, opened(cluster.proxied_bootstrap_servers, options) as transport:
        await transport.ensure(StreamConfig("s", partitions=partitions))
        async with Crew(transport) as crew:
            lease = (await until_held(crew, partitions))[0]
            await lease.fence()
            lease.seek(Position(0))
            asked = wire.ambush(Api.FETCH, Fault.HOLD_REPLY, holding=struct.pack(">ii", least, share))
            asked.release()
            await lease.receive(records_max=1, bytes_max=1 << 20, wait_s=0.1)
            async with asyncio.timeout(WAIT_S_MAX):
                await asked.met.wait()


async def test_all_copies_in_step_have_what_is_acknowledged(cluster: KafkaCluster) -> None:
    """Seen on the wire: acks=-1 in the request (up to version 8 the time-out stands behind it, its upper half 0)."""
    async with Wire.of(cluster) as wire, opened(cluster.proxied_bootstrap_servers, "") as transport:
        await transport.ensure(StreamConfig("s"))
        asked = wire.ambush(Api.PRODUCE, Fault.HOLD_REPLY, holding=struct.pack(">hh", -1, 0))
        asked.release()
        await transport.publish([Message("s", b"1")])
        assert asked.met.is_set()
