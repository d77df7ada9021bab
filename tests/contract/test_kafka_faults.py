"""Faults on the wire in each step of a transaction, on a real broker: whole or not at all, and never twice."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from brokers.fixtures import Broker, NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.topics import make
from brokers.wire import Api, Fault, Wire
from cutbank.clock import SystemClock
from cutbank.errors import Fenced, OutcomeUnknown, StreamUnavailable, UsageError
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.testing.group_contract import Crew, content
from cutbank.transports.base import Assigned, Output, StreamConfig, Transport
from cutbank.transports.kafka import open_kafka
from cutbank.transports.kafka.lease import KafkaLease
from cutbank.transports.kafka.transport import KafkaTransport

WAIT_S_MAX = 60.0
OUT = Partition("out", "0")
STEPS = [
    Api.ADD_PARTITIONS_TO_TXN,
    Api.PRODUCE,
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.END_TXN,
]


@pytest.fixture(scope="module")
def cluster(new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster()


@pytest.fixture
async def wire(cluster: KafkaCluster) -> AsyncIterator[Wire]:
    async with Wire.of(cluster) as wire:
        yield wire


@pytest.fixture
async def far(wire: Wire, cluster: KafkaCluster) -> AsyncIterator[KafkaTransport]:
    """A handle through the wire, with short deadlines."""
    prefix = f"t{uuid4().hex[:12]}-"
    url = (
        f"kafka://{cluster.proxied_bootstrap_servers}?prefix={prefix}&heartbeat_ms=100&session_timeout_ms=6000"
        "&commit_timeout_ms=1500&request_timeout_ms=8000&call_timeout_ms=5000&transaction_timeout_ms=60000"
    )
    async with open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig("s"))
        await transport.ensure(StreamConfig("out"))
        await transport.publish([Message("s", b"%d" % number) for number in range(9)])
        yield transport


async def leased(transport: Transport, stack: AsyncExitStack) -> KafkaLease:
    """The one lease, fenced."""
    consumer = await stack.enter_async_context(transport.consumer("g", ["s"]))
    async with asyncio.timeout(WAIT_S_MAX):
        event = await anext(consumer.events())
        assert isinstance(event, Assigned)
        assert isinstance(event.lease, KafkaLease)
        await event.lease.fence()
        return event.lease


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("api", STEPS, ids=lambda api: api.name.lower())
async def test_a_fault_in_a_transaction_leaves_all_or_nothing(
    wire: Wire, far: KafkaTransport, api: Api, fault: Fault
) -> None:
    async with AsyncExitStack() as stack:
        lease = await leased(far, stack)
        await lease.publish_and_commit([Output("out", b"1.0"), Output("out", b"1.1")], Position(1))
        ambush = wire.ambush(api, fault, holding=b"g/s/0")
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                try:
                    await lease.publish_and_commit([Output("out", b"2.0"), Output("out", b"2.1")], Position(2))
                    outcome = "done"
                except OutcomeUnknown:
                    outcome = "unknown"
                except StreamUnavailable:
                    outcome = "not done"
                assert ambush.met.is_set()
                committed = await lease.fence()
                if outcome == "done":
                    assert committed == Position(2)
                if outcome == "not done":
                    assert committed == Position(1)
                # What was held back arrives now, in the middle of the next epoch.
                ambush.release()
                if committed == Position(1):
                    await lease.publish_and_commit([Output("out", b"2.0"), Output("out", b"2.1")], Position(2))
                await lease.publish_and_commit([Output("out", b"3.0")], Position(3))
                assert await lease.fence() == Position(3)
        finally:
            ambush.release()
        assert await content(far, OUT) == [b"1.0", b"1.1", b"2.0", b"2.1", b"3.0"]


@pytest.mark.parametrize("fault", [Fault.HOLD_REQUEST, Fault.CUT_AFTER], ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("api", STEPS[:-1], ids=lambda api: api.name.lower())
async def test_what_was_not_done_may_be_sent_again_without_a_fence(
    wire: Wire, far: KafkaTransport, api: Api, fault: Fault
) -> None:
    async with AsyncExitStack() as stack:
        lease = await leased(far, stack)
        ambush = wire.ambush(api, fault, holding=b"g/s/0")
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                for attempt in range(5):
                    try:
                        await lease.publish_and_commit([Output("out", b"1.0"), Output("out", b"1.1")], Position(1))
                        break
                    except StreamUnavailable:
                        assert attempt < 4, "it never got through"
                        ambush.release()
                assert ambush.met.is_set()
                assert await lease.fence() == Position(1)
        finally:
            ambush.release()
        assert await content(far, OUT) == [b"1.0", b"1.1"]


async def test_only_an_unanswered_commit_is_unknown(wire: Wire, far: KafkaTransport) -> None:
    async with AsyncExitStack() as stack:
        lease = await leased(far, stack)
        ambush = wire.ambush(Api.END_TXN, Fault.CUT_AFTER, holding=b"g/s/0")
        with pytest.raises(OutcomeUnknown):
            await lease.publish_and_commit([Output("out", b"1")], Position(1))
        assert ambush.answered.is_set()
        with pytest.raises(OutcomeUnknown, match="fence first"):
            await lease.publish_and_commit([Output("out", b"1")], Position(1))
        assert await lease.fence() == Position(1)
        assert await content(far, OUT) == [b"1"]


async def test_the_committed_position_after_a_fence_is_never_stale(far: KafkaTransport) -> None:
    async with AsyncExitStack() as stack:
        lease = await leased(far, stack)
        for number in range(1, 60):
            await lease.publish_and_commit([Output("out", b"%d" % number)], Position(number))
            if number % 2:
                assert await lease.fence() == Position(number)
            else:
                assert await lease.committed() == Position(number)
                assert await far.committed("g", Partition("s", "0")) == Position(number)


def rival_of(lease: KafkaLease, far: KafkaTransport) -> KafkaLease:
    """What another process has that believes to own the partition, as after a partition of the network."""
    return KafkaLease(
        far._cluster,
        lease._owner,
        router=far._router,
        group=lease._group,
        place=lease.place,
        partition=lease.partition,
        give_back=lambda _: None,
        fenced=lambda: None,
    )


async def test_owners_wait_for_a_commit_in_flight_and_onlookers_do_not(
    cluster: KafkaCluster, far: KafkaTransport
) -> None:
    """What an owner reads must not change after it; an onlooker is not held up by a transaction that was left open."""
    prefix = far._cluster.settings.prefix
    async with AsyncExitStack() as stack:
        lease = await leased(far, stack)
        await lease.publish_and_commit([Output("out", b"1")], Position(1))
        other = AIOKafkaProducer(
            bootstrap_servers=cluster.bootstrap_servers, transactional_id=f"{prefix}other", enable_idempotence=True
        )
        await other.start()
        stack.push_async_callback(other.stop)
        await other.begin_transaction()
        await other.send_offsets_to_transaction({TopicPartition(f"{prefix}s", 0): 2}, f"{prefix}g")
        # How it says so depends on what the last try came to; a committed position is what may not come.
        with pytest.raises(StreamUnavailable, match=r"UNSTABLE_OFFSET_COMMIT|did not answer in time"):
            await lease.committed()
        assert await far.committed("g", Partition("s", "0")) == Position(1)
        await other.commit_transaction()
        assert await lease.committed() == Position(2)
        assert await far.committed("g", Partition("s", "0")) == Position(2)


async def test_a_later_fence_cuts_nobody_off(far: KafkaTransport) -> None:
    async with AsyncExitStack() as stack:
        lease = await leased(far, stack)
        heir = rival_of(lease, far)
        assert await heir.fence() is None
        # The group still counts this process in; the broker alone knows better.
        with pytest.raises(Fenced):
            await lease.fence()
        await heir.publish_and_commit([Output("out", b"new")], Position(2))
        assert await content(far, OUT) == [b"new"]
        await heir.release()


async def test_a_commit_that_another_owner_cuts_off_is_fenced_for_good(wire: Wire, far: KafkaTransport) -> None:
    async with AsyncExitStack() as stack:
        lease = await leased(far, stack)
        heir = rival_of(lease, far)
        ambush = wire.ambush(Api.END_TXN, Fault.HOLD_REQUEST, holding=b"g/s/0")
        writing = asyncio.create_task(lease.publish_and_commit([Output("out", b"old")], Position(1)))
        async with asyncio.timeout(WAIT_S_MAX):
            await ambush.met.wait()
            assert await heir.fence() is None
            ambush.release()
            with pytest.raises(Fenced):
                await writing
            with pytest.raises(Fenced):
                await lease.fence()
            await heir.publish_and_commit([Output("out", b"new")], Position(2))
            assert await heir.fence() == Position(2)
        assert await content(far, OUT) == [b"new"]
        await heir.release()


async def until_told(told: list[tuple[bool, str]], times: int) -> None:
    """Real time passes."""
    async with asyncio.timeout(WAIT_S_MAX):
        while len(told) < times:  # noqa: ASYNC110  # time must pass
            await asyncio.sleep(0.02)


async def test_a_partition_that_cannot_be_read_for_too_long_is_told(wire: Wire, cluster: KafkaCluster) -> None:
    """The coordinator answers all the while; only the reads do not arrive."""
    url = (
        f"kafka://{cluster.proxied_bootstrap_servers}?prefix=t{uuid4().hex[:12]}-&heartbeat_ms=100"
        "&session_timeout_ms=6000&stuck_ms=6500&call_timeout_ms=1000&commit_timeout_ms=1500&fetch_wait_ms=100"
    )
    told: list[tuple[bool, str]] = []
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(
            open_kafka(url, clock=SystemClock(), metrics=NoMetrics(), tell=lambda ok, why: told.append((ok, why)))
        )
        await far.ensure(StreamConfig("s"))
        await far.publish([Message("s", b"0")])
        lease = await leased(far, stack)
        lease.seek(Position(0))
        for _ in range(10):
            wire.ambush(Api.FETCH, Fault.HOLD_REQUEST)
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                try:
                    batch = await lease.receive(records_max=1, bytes_max=1 << 20, wait_s=0.1)
                    break
                except StreamUnavailable:
                    assert not lease.over
        assert batch.values == [b"0"]
        await until_told(told, 2)
        (bad, why), good = told
        assert not bad
        assert "s/0 can't be read" in why
        assert good == (True, "")


async def test_a_group_that_is_silent_for_too_long_is_told_and_comes_back(wire: Wire, cluster: KafkaCluster) -> None:
    url = (
        f"kafka://{cluster.proxied_bootstrap_servers}?prefix=t{uuid4().hex[:12]}-&heartbeat_ms=100"
        "&session_timeout_ms=6000&stuck_ms=6500&call_timeout_ms=1000&commit_timeout_ms=1500"
    )
    told: list[tuple[bool, str]] = []
    metrics = PrometheusMetrics()
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(
            open_kafka(url, clock=SystemClock(), metrics=metrics, tell=lambda ok, why: told.append((ok, why)))
        )
        group = f"{far._cluster.settings.prefix}g"
        await far.ensure(StreamConfig("s"))
        async with Crew(far) as crew:
            async with asyncio.timeout(WAIT_S_MAX):
                while not crew.held:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            wire.stall()
            began_s = time.monotonic()
            try:
                await until_told(told, 1)
            finally:
                wire.flow()
            assert time.monotonic() - began_s < 30.0
            ((ok, why),) = told
            assert not ok
            assert group in why
            assert metrics.value("cutbank_group_stuck", group=group) == 1
            await until_told(told, 2)
            assert told[1] == (True, "")
            assert metrics.value("cutbank_group_stuck", group=group) == 0
            assert metrics.value("cutbank_retries_total", operation="client_restart") >= 1


async def test_a_restarted_client_serves_the_leases_that_are_there(far: KafkaTransport) -> None:
    async with AsyncExitStack() as stack:
        lease = await leased(far, stack)
        lease.seek(Position(0))
        await lease.publish_and_commit([Output("out", b"1")], Position(1))
        waiting = asyncio.create_task(far.publish([Message("s", b"later")]))
        await far._cluster.restart()
        await asyncio.wait({waiting})
        if (error := waiting.exception()) is not None:
            assert isinstance(error, OutcomeUnknown | StreamUnavailable)
        assert await lease.fence() == Position(1)
        await lease.publish_and_commit([Output("out", b"2")], Position(2))
        batch = await lease.receive(records_max=1, bytes_max=1 << 20, wait_s=WAIT_S_MAX)
        assert batch.values == [b"0"]
        assert await content(far, OUT) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("setting", "value", "rest"),
    [
        ("message.timestamp.type", "CreateTime", {}),
        ("cleanup.policy", "compact", {"message.timestamp.type": "LogAppendTime"}),
        ("cleanup.policy", "compact,delete", {"message.timestamp.type": "LogAppendTime"}),
    ],
)
async def test_a_topic_that_cannot_keep_the_promises_is_refused(
    broker: Broker, setting: str, value: str, rest: dict[str, str]
) -> None:
    topic = f"t{uuid4().hex[:12]}"
    await make(broker.bootstrap_servers, NewTopic(topic, 1, 1, topic_configs={setting: value, **rest}))
    async with open_kafka(broker.url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        with pytest.raises(UsageError, match=setting):
            await transport.ensure(StreamConfig(topic))


async def test_an_unreachable_broker_is_named() -> None:
    transport = open_kafka("kafka://127.0.0.1:1?start_wait_ms=100", clock=SystemClock(), metrics=NoMetrics())
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:1.*start_wait_ms"):
        await transport.__aenter__()
