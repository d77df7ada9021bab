"""A broker that is killed and comes back, or hangs: the transport goes on, nothing lost, nothing twice.

One owner publishes without a pause while each broker in turn is killed and comes back; it ends when all have, not after
so many records: how many it does meanwhile is the machine's affair.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from brokers.fixtures import NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.wire import Api, Fault, Wire
from cutbank.clock import SystemClock
from cutbank.errors import Fenced, OutcomeUnknown, StreamUnavailable
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.testing.group_contract import PARTITION, content
from cutbank.transports.base import Assigned, Lease, Lost, Output, StreamConfig, Transport
from cutbank.transports.kafka import open_kafka
from cutbank.transports.kafka.assignment import Claim
from cutbank.transports.kafka.membership import Membership, Pulse
from cutbank.transports.kafka.transaction import GROUP
from cutbank.transports.kafka.transport import KafkaTransport
from cutbank.transports.kafka.wire import TopicsRequest

WAIT_S_MAX = 120.0
"""For each broker: it is ready after some 6 s, on a busy machine after 30."""
RECORDS = 60_000
"""More than an owner can do meanwhile, at some 3 ms each."""


@pytest.fixture(scope="module", params=[1, 3], ids=["one", "three"])
def cluster(request: pytest.FixtureRequest, new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster(brokers=request.param)


class Owner:
    """Publishes numbers with their positions, in order, through whatever happens, until told to stop; one partition."""

    def __init__(self, transport: Transport, *, group: str = "g", out: str = "out") -> None:
        self.consumer = transport.consumer(group, ["s"])
        self.out = out
        self.losses = 0
        self.position = Position(0)
        self.troubles: list[str] = []
        self.stop = asyncio.Event()
        self._passed = asyncio.Event()

    async def run(self) -> None:
        """Raises what ended its worker, unless that was told to stop or has lost its lease."""
        async with self.consumer, asyncio.TaskGroup() as group:
            working: asyncio.Task[None] | None = None
            events = self.consumer.events()
            stopping = group.create_task(self.stop.wait())
            while not self.stop.is_set():
                event = asyncio.ensure_future(anext(events))
                await asyncio.wait({event, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not event.done():
                    event.cancel()
                    break
                if isinstance(came := event.result(), Assigned):
                    working = group.create_task(self._work(came.lease))
                elif isinstance(came, Lost) and working is not None:
                    self.losses += 1
                    await asyncio.wait({working})

    async def passes(self) -> None:
        """Until one more record is published."""
        self._passed.clear()
        await self._passed.wait()

    async def _work(self, lease: Lease) -> None:
        known = False
        while not self.stop.is_set():
            try:
                if not known:
                    self.position = await lease.fence() or Position(0)
                    lease.seek(self.position)
                    known = True
                batch = await lease.receive(records_max=1, bytes_max=1 << 20, wait_s=1.0)
                assert self.position < RECORDS, "there are records left, or the test waits for nothing"
                if not len(batch):
                    continue
                await lease.publish_and_commit([Output(self.out, batch.values[0])], batch.end)
                self.position = batch.end
                self._passed.set()
            except (StreamUnavailable, OutcomeUnknown) as error:
                known = False
                self.troubles.append(type(error).__name__)
            except Fenced:
                await lease.release()
                return


async def test_killed_brokers_lose_and_repeat_nothing(cluster: KafkaCluster) -> None:
    url = f"kafka://{cluster.bootstrap_servers}?prefix=t{uuid4().hex[:12]}-&request_timeout_ms=60000"
    patient = "&commit_timeout_ms=50000&transaction_timeout_ms=60000&call_timeout_ms=50000"
    hasty = "&heartbeat_ms=100&commit_timeout_ms=2000&call_timeout_ms=3000"
    async with (
        open_kafka(url + patient, clock=SystemClock(), metrics=NoMetrics()) as onlooker,
        open_kafka(url + hasty, clock=SystemClock(), metrics=NoMetrics()) as transport,
    ):
        await onlooker.ensure(StreamConfig("s"))
        await onlooker.ensure(StreamConfig("out"))
        # One publish: positions without gaps, and one marker behind them.
        await onlooker.publish([Message("s", b"%d" % number) for number in range(RECORDS)])
        owner = Owner(transport)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(owner.run())
            for server in cluster.servers:
                async with asyncio.timeout(WAIT_S_MAX):
                    await owner.passes()
                    server.kill()
                    server.start()
                    await cluster.ready()
                    await owner.passes()
            owner.stop.set()
            await running
        assert owner.troubles, "the kill was felt"
        end = await onlooker.committed("g", PARTITION)
        assert end is not None
        assert end >= owner.position, "a commit whose answer was lost may have been done"
        assert await content(onlooker, Partition("out", "0")) == [b"%d" % number for number in range(end)]


THREE = pytest.mark.parametrize("cluster", [3], indirect=True, ids=["three"])
HASTY = (
    "&try_timeout_ms=500&call_timeout_ms=10000&commit_timeout_ms=5000&heartbeat_ms=100&metadata_ms=100"
    # Nobody restarts the client: the calls themselves have to find the way.
    "&session_timeout_ms=30000&request_timeout_ms=60000&transaction_timeout_ms=60000&stuck_ms=3600000"
)


async def led_apart(transport: KafkaTransport) -> tuple[str, str, int]:
    """A stream, a group whose coordinator is another broker, and the broker that leads the stream."""
    cluster = transport._cluster
    for number in range(20):
        out = f"out{number}"
        await transport.ensure(StreamConfig(out))
        leader = (await cluster.topic(out, fresh=True)).leaders[0]
        for group in ("g0", "g1", "g2", "g3", "g4"):
            await transport.committed(group, PARTITION)  # asks until there is a coordinator
            if leader not in {-1, await cluster.coordinator(GROUP, cluster.settings.prefix + group)}:
                return out, group, leader
    pytest.fail("one broker has everything")


def servers_from(cluster: KafkaCluster, node: int) -> str:
    """The brokers as a URL has them, this one first."""
    ports = [server.address.client_port for server in (cluster.server(node), *cluster.servers)]
    return ",".join(f"127.0.0.1:{port}" for port in dict.fromkeys(ports))


@asynccontextmanager
async def frozen(cluster: KafkaCluster, node: int) -> AsyncIterator[None]:
    """It takes connections and answers nothing."""
    cluster.server(node).freeze()
    try:
        yield
    finally:
        cluster.server(node).thaw()


@THREE
async def test_a_frozen_broker_of_three_stops_nobody(cluster: KafkaCluster) -> None:
    """It leads what is written to, and stands first in the URL; the group's coordinator is well."""
    options = f"?prefix=t{uuid4().hex[:12]}-"
    async with open_kafka(
        f"kafka://{cluster.bootstrap_servers}{options}", clock=SystemClock(), metrics=NoMetrics()
    ) as onlooker:
        await onlooker.ensure(StreamConfig("s"))
        await onlooker.publish([Message("s", b"%d" % number) for number in range(RECORDS)])
        out, group, leader = await led_apart(onlooker)
        url = f"kafka://{servers_from(cluster, leader)}{options}{HASTY}"
        async with open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as transport, asyncio.TaskGroup() as tasks:
            owner = Owner(transport, group=group, out=out)
            running = tasks.create_task(owner.run())
            async with asyncio.timeout(WAIT_S_MAX):
                await owner.passes()
                async with frozen(cluster, leader):
                    # More than what may be on its way already.
                    for _ in range(10):
                        await owner.passes()
                    await others_are_reached(transport, leader)
                    await transport._cluster.restart()
                    async with open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as late:
                        await late.publish([Message(out, b"late")])
                    for _ in range(10):
                        await owner.passes()
                owner.stop.set()
                await running
        await cluster.ready()
        assert owner.losses == 0
        end = await onlooker.committed(group, PARTITION)
        assert end is not None
        assert end >= owner.position
        written = [value for value in await content(onlooker, Partition(out, "0")) if value != b"late"]
        assert written == [b"%d" % number for number in range(end)]


async def others_are_reached(transport: KafkaTransport, hung: int) -> None:
    """A connection that is being opened to a broker that hangs keeps none to another from being opened."""
    connections = transport._cluster
    opening = asyncio.create_task(
        connections.send(hung, TopicsRequest([]), line=connections.new_line("late"), timeout_s=WAIT_S_MAX)
    )
    try:
        for node in connections.brokers:
            if node != hung:
                line = connections.new_line("new")
                await connections.send(node, TopicsRequest([]), line=line, timeout_s=WAIT_S_MAX / 2)
                connections.drop(line)
        assert not opening.done()
    finally:
        opening.cancel()
        await asyncio.wait({opening})


@THREE
async def test_the_heart_beats_on_while_partitions_can_not_be_counted(cluster: KafkaCluster) -> None:
    url = (
        f"kafka://{cluster.proxied_bootstrap_servers}?prefix=t{uuid4().hex[:12]}-&heartbeat_ms=100&metadata_ms=100"
        "&try_timeout_ms=600000&call_timeout_ms=600000&request_timeout_ms=600000&stuck_ms=3600000"
    )
    async with Wire.of(cluster) as wire, open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig("s"))
        async with asyncio.timeout(WAIT_S_MAX), transport.consumer("g", ["s"]) as consumer:
            assert isinstance(await anext(consumer.events()), Assigned)
            topic = transport._cluster.topic_name("s").encode()
            count = wire.ambush(Api.METADATA, Fault.HOLD_REQUEST, holding=topic)
            await count.met.wait()
            before = wire.seen[Api.HEARTBEAT]
            while wire.seen[Api.HEARTBEAT] < before + 5:  # noqa: ASYNC110  # time must pass
                await asyncio.sleep(0.02)
            count.release()


@THREE
async def test_a_heartbeat_beside_a_join_that_is_answered_late_ends_no_membership(cluster: KafkaCluster) -> None:
    """The round is over at the coordinator, so that the heartbeat is one of an old generation."""
    url = f"kafka://{cluster.proxied_bootstrap_servers}?prefix=t{uuid4().hex[:12]}-&try_timeout_ms=60000"
    async with Wire.of(cluster) as wire, open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig("s"))
        name = transport._cluster.topic_name("s")
        member = Membership(transport._cluster, "g", ["s"])
        claim = Claim(topics=(name,), held=frozenset(), leaving=frozenset(), rounds=1)
        async with asyncio.timeout(WAIT_S_MAX):
            assert await member.join(claim) == {(name, 0)}
            answer = wire.ambush(Api.JOIN_GROUP, Fault.HOLD_REPLY)
            joining = asyncio.create_task(member.join(claim))
            await answer.met.wait()
            assert await member.beat() is Pulse.STEADY
            answer.release()
            assert await joining == {(name, 0)}
            await member.leave()
        member.close()


@THREE
async def test_a_cluster_that_goes_away_at_the_start_is_waited_for(cluster: KafkaCluster) -> None:
    url = f"kafka://{cluster.proxied_bootstrap_servers}?prefix=t{uuid4().hex[:12]}-&call_timeout_ms=200"
    metrics = PrometheusMetrics()
    async with Wire.of(cluster) as wire, open_kafka(url, clock=SystemClock(), metrics=metrics) as transport:
        await transport.ensure(StreamConfig("s"))
        consumer = transport.consumer("g", ["s"])
        wire.down()
        starting = asyncio.create_task(consumer.__aenter__())
        async with asyncio.timeout(WAIT_S_MAX):
            while metrics.value("cutbank_retries_total", operation="start") < 1:  # time must pass
                assert not starting.done()
                await asyncio.sleep(0.02)
            await wire.up()
            await starting
            assert isinstance(await anext(consumer.events()), Assigned)
        await consumer.__aexit__()
