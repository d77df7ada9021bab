"""The Kafka transport while its transactions' requests and replies are lost, cut and late: nothing lost, nothing twice.

One lease copies a stream, a few records a transaction, as a scorer does: what it can't be sure of, it fences for and
reads where it stands. Every request of a transaction meets every fault, on a real broker.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from brokers.fixtures import NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.wire import Ambush, Api, Fault, Wire
from cutbank.clock import SystemClock
from cutbank.errors import OutcomeUnknown, StreamUnavailable
from cutbank.metrics import NoMetrics
from cutbank.pipeline.audit import read_all
from cutbank.records import Message, Partition, Position
from cutbank.transports import open_transport
from cutbank.transports.base import Assigned, Lease, Output, StreamConfig, Transport

SOURCE, COPY = "source", "copy"
GROUP = "copiers"
RECORDS = 30
RECORDS_AT_ONCE = 3
WAIT_S = 60.0
STEPS = (Api.ADD_PARTITIONS_TO_TXN, Api.PRODUCE, Api.ADD_OFFSETS_TO_TXN, Api.TXN_OFFSET_COMMIT, Api.END_TXN)
PATIENCE = "commit_timeout_ms=1000&transaction_timeout_ms=5000&request_timeout_ms=7000&session_timeout_ms=6000"

values = [b"%d" % number for number in range(RECORDS)]
partition = Partition(SOURCE, "0")


@dataclass
class Stage:
    """A source with records, an empty copy, and a lease behind the wire."""

    wire: Wire
    direct: Transport
    lease: Lease

    async def copied(self) -> None:
        """Copy all there is."""
        position = await self.fenced()
        while True:
            self.lease.seek(position)
            batch = await self.lease.receive(records_max=RECORDS_AT_ONCE, bytes_max=1 << 20, wait_s=0.3)
            if not len(batch):
                return
            try:
                outputs = [Output(COPY, value) for value in batch.values]
                await self.lease.publish_and_commit(outputs, batch.end)
                position = batch.end
                assert await self.direct.committed(GROUP, partition) == position
            except (OutcomeUnknown, StreamUnavailable):
                before, position = position, await self.fenced()
                assert position in {before, batch.end}

    async def fenced(self) -> Position:
        """Where to go on."""
        while True:
            with suppress(StreamUnavailable):
                committed = await self.lease.fence()
                return committed if committed is not None else Position(0)

    async def copy(self) -> list[bytes]:
        """What a read_committed reader sees, whole."""
        info = await self.direct.describe(COPY)
        return [value async for batch in read_all(self.direct, info) for value in batch.values]


@pytest.fixture(scope="module")
def cluster(new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster()


@pytest.fixture
async def stage(cluster: KafkaCluster) -> AsyncIterator[Stage]:
    options = f"prefix=t{uuid.uuid4().hex[:12]}-&{PATIENCE}"
    clock, metrics = SystemClock(), NoMetrics()
    async with (
        Wire.of(cluster) as wire,
        open_transport(f"kafka://{cluster.bootstrap_servers}?{options}", clock=clock, metrics=metrics) as direct,
        open_transport(
            f"kafka://{cluster.proxied_bootstrap_servers}?{options}", clock=clock, metrics=metrics
        ) as faulty,
    ):
        for stream in (SOURCE, COPY):
            await direct.ensure(StreamConfig(stream))
        await direct.publish([Message(SOURCE, value) for value in values])
        async with faulty.consumer(GROUP, [SOURCE]) as consumer, asyncio.timeout(WAIT_S):
            event = await anext(consumer.events())
            assert isinstance(event, Assigned)
            yield Stage(wire, direct, event.lease)
            await event.lease.release()


async def copies_all(stage: Stage, ambush: Ambush) -> None:
    await stage.copied()
    assert ambush.met.is_set()
    assert await stage.copy() == values


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER], ids=lambda fault: fault.name)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
async def test_a_cut_connection_repeats_nothing(stage: Stage, step: Api, fault: Fault) -> None:
    await copies_all(stage, stage.wire.ambush(step, fault))


@pytest.mark.parametrize("fault", [Fault.HOLD_REQUEST, Fault.HOLD_REPLY], ids=lambda fault: fault.name)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
async def test_what_is_lost_for_ever_is_done_without(stage: Stage, step: Api, fault: Fault) -> None:
    """No answer comes, and no end of the connection: the transport's own deadlines must pass."""
    await copies_all(stage, stage.wire.ambush(step, fault))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
async def test_what_arrives_in_a_later_transaction_changes_nothing(stage: Stage, step: Api) -> None:
    """The client's end is cut, it asks again, and the first request arrives when the next transaction is half done."""
    first = stage.wire.ambush(step, Fault.HOLD_REQUEST)

    async def late() -> None:
        await first.met.wait()
        again = stage.wire.ambush(step, Fault.HOLD_REPLY)
        stage.wire.cut_clients()
        await again.met.wait()
        later = stage.wire.ambush(step, Fault.HOLD_REPLY)
        again.release()
        await later.met.wait()
        first.release()
        await first.answered.wait()
        later.release()

    arriving = asyncio.create_task(late())
    await copies_all(stage, first)
    await arriving
