"""The brokers of the tests do what tests of faults need of them."""

import asyncio
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from brokers.fixtures import Broker, NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.topics import made_topic, payloads, sent


async def test_the_shared_broker_takes_and_gives(broker: Broker) -> None:
    topic = await made_topic(broker.bootstrap_servers)
    assert await sent(broker.bootstrap_servers, topic, b"one") == 0
    assert await payloads(broker.bootstrap_servers, topic, 1) == [b"one"]


@pytest.fixture(scope="module")
def own_cluster(new_cluster: NewCluster) -> KafkaCluster:
    """A broker that tests may stop; each leaves it running."""
    return new_cluster()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_broker_comes_back_at_its_address_with_its_data(own_cluster: KafkaCluster, how: str) -> None:
    topic = await made_topic(own_cluster.bootstrap_servers)
    await sent(own_cluster.bootstrap_servers, topic, b"before")
    server = own_cluster.server(1)
    getattr(server, how)()
    assert server.process_id is None
    server.start()
    await own_cluster.ready()
    assert await sent(own_cluster.bootstrap_servers, topic, b"after") == 1
    assert await payloads(own_cluster.bootstrap_servers, topic, 2) == [b"before", b"after"]


async def test_a_frozen_broker_answers_nothing_and_then_what_was_asked(own_cluster: KafkaCluster) -> None:
    topic = await made_topic(own_cluster.bootstrap_servers)
    async with AIOKafkaProducer(bootstrap_servers=own_cluster.bootstrap_servers, acks="all") as producer:
        await producer.send_and_wait(topic, b"first", partition=0)
        own_cluster.server(1).freeze()
        try:
            waiting = await producer.send(topic, b"second", partition=0)
            done, _ = await asyncio.wait([waiting], timeout=0.5)
            assert not done
        finally:
            own_cluster.server(1).thaw()
        assert (await waiting).offset == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num.io.threads": "none"}, r"broker 1 has no data folder(?s:.*)num\.io\.threads"),
        ({"authorizer.class.name": "no.such.Class"}, r"broker 1 ended with 1(?s:.*)no\.such\.Class"),
    ],
)
def test_a_broker_that_can_not_start_says_why(new_cluster: NewCluster, wrong: dict[str, str], says: str) -> None:
    with pytest.raises(RuntimeError, match=says):
        new_cluster(properties=wrong)


@pytest.mark.usefixtures("new_cluster")  # skips it where there is no Kafka
def test_a_broker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also when that is killed and cleans nothing up."""
    starter = (
        "import pathlib, sys\n"
        "from brokers.kafka_server import KafkaCluster\n"
        "cluster = KafkaCluster(pathlib.Path(sys.argv[1]))\n"
        "cluster.start()\n"
        "print(cluster.server(1).process_id, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", starter, str(tmp_path / "kafka")]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        broker = int(process.stdout.readline())
        handle = os.pidfd_open(broker)
        try:
            process.kill()
            ended, _, _ = select.select([handle], [], [], 30)  # readable when it has ended
            assert ended
        finally:
            os.close(handle)
