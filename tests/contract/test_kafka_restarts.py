"""A broker that is killed and comes back: the transport goes on, nothing lost, nothing twice.

One owner publishes without a pause while each broker in turn is killed and comes back; it ends when all have, not after
so many records: how many it does meanwhile is the machine's affair.
"""

import asyncio
from uuid import uuid4

import pytest

from brokers.fixtures import NewCluster
from brokers.kafka_server import KafkaCluster
from cutbank.clock import SystemClock
from cutbank.errors import Fenced, OutcomeUnknown, StreamUnavailable
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.testing.group_contract import PARTITION, content
from cutbank.transports.base import Assigned, Lease, Lost, Output, StreamConfig, Transport
from cutbank.transports.kafka import open_kafka

WAIT_S_MAX = 120.0
"""For each broker: it is ready after some 6 s, on a busy machine after 30."""
RECORDS = 60_000
"""More than an owner can do meanwhile, at some 3 ms each."""


@pytest.fixture(scope="module", params=[1, 3], ids=["one", "three"])
def cluster(request: pytest.FixtureRequest, new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster(brokers=request.param)


class Owner:
    """Publishes numbers with their positions, in order, through whatever happens, until told to stop; one partition."""

    def __init__(self, transport: Transport) -> None:
        self.consumer = transport.consumer("g", ["s"])
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
                await lease.publish_and_commit([Output("out", batch.values[0])], batch.end)
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
