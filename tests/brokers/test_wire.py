"""Faults on the wire do to the bare client what their names say."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaError

from brokers.fixtures import NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.topics import made_topic, payloads
from brokers.wire import Api, Fault, Wire

_PRODUCER_FENCED = 90
WAIT_S_MAX = 60.0
_FENCED = {InvalidProducerEpoch.errno, _PRODUCER_FENCED}


@pytest.fixture(scope="module")
def cluster(new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster()


@pytest.fixture
async def wire(cluster: KafkaCluster) -> AsyncIterator[Wire]:
    async with Wire.of(cluster) as wire:
        yield wire


@pytest.fixture
async def topic(cluster: KafkaCluster) -> str:
    return await made_topic(cluster.bootstrap_servers)


@pytest.fixture
async def producer(wire: Wire, cluster: KafkaCluster) -> AsyncIterator[AIOKafkaProducer]:
    """Transactional, through the wire."""
    producer = AIOKafkaProducer(
        bootstrap_servers=cluster.proxied_bootstrap_servers,
        transactional_id=f"x-{uuid.uuid4().hex}",
        request_timeout_ms=2000,
        retry_backoff_ms=5,
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(WAIT_S_MAX):
        await event.wait()


async def sent_in_transaction(producer: AIOKafkaProducer, topic: str, payload: bytes) -> None:
    async with asyncio.timeout(30), producer.transaction():
        await producer.send_and_wait(topic, payload, partition=0)


async def test_every_request_passes_and_is_counted(wire: Wire, producer: AIOKafkaProducer, topic: str) -> None:
    for number in range(20):
        await sent_in_transaction(producer, topic, b"%d" % number)
    assert wire.seen[Api.END_TXN] == 20
    assert wire.seen[Api.PRODUCE] == 20


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER])
async def test_a_cut_end_of_a_transaction_is_asked_again(
    wire: Wire, producer: AIOKafkaProducer, cluster: KafkaCluster, topic: str, fault: Fault
) -> None:
    await sent_in_transaction(producer, topic, b"whole")
    ambush = wire.ambush(Api.END_TXN, fault)
    await sent_in_transaction(producer, topic, b"cut")
    assert ambush.answered.is_set() == (fault is Fault.CUT_AFTER)
    assert wire.seen[Api.END_TXN] >= 3, "where the broker is still at it, the client asks once more"
    assert await payloads(cluster.bootstrap_servers, topic, 2) == [b"whole", b"cut"]


@pytest.mark.parametrize("fault", [Fault.HOLD_REQUEST, Fault.HOLD_REPLY])
async def test_a_held_end_of_a_transaction_waits(
    wire: Wire, producer: AIOKafkaProducer, topic: str, fault: Fault
) -> None:
    await sent_in_transaction(producer, topic, b"first")
    ambush = wire.ambush(Api.END_TXN, fault)
    sending = asyncio.create_task(sent_in_transaction(producer, topic, b"second"))
    await soon(ambush.met)
    done, _ = await asyncio.wait([sending], timeout=0.2)
    assert not done
    assert ambush.answered.is_set() == (fault is Fault.HOLD_REPLY)
    ambush.release()
    await sending


async def test_an_ambush_meets_only_its_own(
    wire: Wire, producer: AIOKafkaProducer, cluster: KafkaCluster, topic: str
) -> None:
    other = wire.ambush(Api.END_TXN, Fault.CUT_BEFORE, holding=b"nobody's id")
    own = wire.ambush(Api.END_TXN, Fault.CUT_BEFORE, holding=producer._txn_manager.transactional_id.encode())
    await sent_in_transaction(producer, topic, b"one")
    assert own.met.is_set()
    assert not other.met.is_set()


async def test_a_late_end_of_a_transaction_arrives_after_its_client_is_gone(
    wire: Wire, cluster: KafkaCluster, topic: str
) -> None:
    """The worst EndTxn: the transaction was fenced and so aborted; the old commit comes then, and is refused."""
    name = f"x-{uuid.uuid4().hex}"
    ambush = wire.ambush(Api.END_TXN, Fault.HOLD_REQUEST)
    old = AIOKafkaProducer(
        bootstrap_servers=cluster.proxied_bootstrap_servers, transactional_id=name, request_timeout_ms=60_000
    )
    await old.start()
    await old.begin_transaction()
    await old.send_and_wait(topic, b"old", partition=0)
    committing = asyncio.create_task(old.commit_transaction())
    try:
        await soon(ambush.met)
        async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap_servers, transactional_id=name) as new:
            await sent_in_transaction(new, topic, b"new")
            await old.client.close()
            ambush.release()
            await soon(ambush.answered)
    finally:
        committing.cancel()
        await old._sender.close()
        old._closed = True
    assert error_of_end(ambush.reply) in _FENCED
    assert await payloads(cluster.bootstrap_servers, topic, 1) == [b"new"]


async def test_the_client_asks_again_behind_a_late_end_which_then_ends_the_next_transaction(
    wire: Wire, producer: AIOKafkaProducer, cluster: KafkaCluster, topic: str
) -> None:
    """Why no transaction may begin on a client whose EndTxn met a lost connection (request version 0, one epoch).

    aiokafka repeats it on a new connection and reports success; the first, still on its way, commits what the next
    transaction has sent by then.
    """
    ambush = wire.ambush(Api.END_TXN, Fault.HOLD_REQUEST)
    committing = asyncio.create_task(sent_in_transaction(producer, topic, b"first"))
    await soon(ambush.met)
    wire.cut_clients()
    await committing
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"half", partition=0)
    ambush.release()
    await soon(ambush.answered)
    assert error_of_end(ambush.reply) == 0
    assert await payloads(cluster.bootstrap_servers, topic, 2) == [b"first", b"half"]
    with pytest.raises(KafkaError):  # for the broker it has ended
        await producer.abort_transaction()


def error_of_end(reply: bytes) -> int:
    """EndTxn 0's answer is the correlation id, a throttle time and the error."""
    return int.from_bytes(reply[8:10], "big", signed=True)


async def test_what_stalls_arrives_when_it_flows_again(wire: Wire, producer: AIOKafkaProducer, topic: str) -> None:
    await sent_in_transaction(producer, topic, b"first")
    wire.stall()
    sending = asyncio.create_task(sent_in_transaction(producer, topic, b"second"))
    done, _ = await asyncio.wait([sending], timeout=0.2)
    assert not done
    wire.flow()
    await sending


async def test_a_wire_that_is_down_refuses(wire: Wire, producer: AIOKafkaProducer, topic: str) -> None:
    await sent_in_transaction(producer, topic, b"first")
    wire.down()
    sending = asyncio.create_task(sent_in_transaction(producer, topic, b"second"))
    done, _ = await asyncio.wait([sending], timeout=0.2)
    assert not done
    await wire.up()
    await sending


async def test_every_connection_is_cut_and_the_client_comes_back(
    wire: Wire, producer: AIOKafkaProducer, cluster: KafkaCluster, topic: str
) -> None:
    for number in range(20):
        sending = asyncio.create_task(sent_in_transaction(producer, topic, b"%d" % number))
        for _ in range(number):
            await asyncio.sleep(0)
        wire.cut()
        await sending
    assert await payloads(cluster.bootstrap_servers, topic, 20) == [b"%d" % number for number in range(20)]


async def test_a_slow_wire_delays_each_way(wire: Wire, producer: AIOKafkaProducer, topic: str) -> None:
    await sent_in_transaction(producer, topic, b"first")
    loop = asyncio.get_running_loop()
    wire.delay_s = 0.05
    began = loop.time()
    await producer.client.force_metadata_update()
    assert loop.time() - began >= 0.1
