"""Fence, then committed position, in a loop: never stale on a broker that is accepted; those that show it are refused.

KAFKA-17507: Apache Kafka before 3.9.1 can show the position before. The first test is part of the contract and runs on
whichever broker the session has; the refusals are shown on one that is old, and on one whose answers were exchanged.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from brokers.fixtures import Broker, NewCluster
from brokers.kafka_server import KafkaCluster
from brokers.wire import Api, Wire
from cutbank.cli.checks import check_brokers
from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Partition, Position
from cutbank.testing.group_contract import Crew
from cutbank.testing.log_under_test import WAIT_S_MAX
from cutbank.transports.base import Lease, Output, StreamConfig
from cutbank.transports.kafka import brokers, open_kafka
from cutbank.transports.kafka.brokers import Verdict
from cutbank.transports.kafka.transport import KafkaTransport

OLD = "3.8.1"
EXIT_USAGE = 2
PARTITIONS = 4
ROUNDS = 40
ENDED_S = 60.0
SPEC = PipelineSpec()


def opened(servers: str, options: str = "") -> KafkaTransport:
    url = f"kafka://{servers}?prefix=t{uuid4().hex[:12]}-&heartbeat_ms=100&session_timeout_ms=6000{options}"
    return open_kafka(url, clock=SystemClock(), metrics=NoMetrics())


async def until_held(crew: Crew, count: int) -> list[Lease]:
    async with asyncio.timeout(WAIT_S_MAX):
        while len(crew.held) < count:  # noqa: ASYNC110  # the broker gives them
            await asyncio.sleep(0.02)
    return list(crew.held.values())


async def test_a_committed_position_after_a_fence_is_never_stale(broker: Broker) -> None:
    async with opened(broker.bootstrap_servers) as transport:
        await transport.ensure(StreamConfig("s", partitions=PARTITIONS))
        await transport.ensure(StreamConfig("out"))

        async def loop(lease: Lease) -> None:
            await lease.fence()
            for number in range(1, ROUNDS + 1):
                await lease.publish_and_commit([Output("out", b"%d" % number)], Position(number))
                assert await lease.fence() == Position(number)
                assert await lease.committed() == Position(number)
                assert await transport.committed("g", lease.partition) == Position(number)

        async with Crew(transport) as crew, asyncio.timeout(WAIT_S_MAX):
            await asyncio.gather(*map(loop, await until_held(crew, PARTITIONS)))


async def test_this_broker_is_accepted(broker: Broker) -> None:
    async with opened(broker.bootstrap_servers) as transport:
        await transport.ensure(StreamConfig("s"))
        report = await transport.check_brokers("p.scorer", "s", rounds=20)
        # 3.9.0 and 3.9.1 can't be told apart, and that is said.
        assert bool(report.warning) == ("Apache Kafka 3.9" in report.names)
        assert {found.verdict for found in report.kinds.values()} <= {Verdict.GOOD, Verdict.OPEN}
        assert (report.rounds == 0) == all(found.verdict is Verdict.GOOD for found in report.kinds.values())


async def test_the_loop_finds_nothing_on_this_broker_and_disturbs_no_other_loop(broker: Broker) -> None:
    async with opened(broker.bootstrap_servers) as transport:
        await transport.ensure(StreamConfig("s"))
        loops = (
            brokers.fence_loop(transport._cluster, group="p.scorer", stream="s", rounds=20, stable=stable)
            for stable in (False, True)
        )
        assert await asyncio.gather(*loops) == [20, 20]
        assert await transport.committed("p.scorer", Partition("s", "0")) is None


async def test_the_loop_ends_in_time_whatever_it_has_done(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "TRY_S_MAX", 0.2)
    async with opened(broker.bootstrap_servers) as transport:
        await transport.ensure(StreamConfig("s"))
        asked = 1 << 20
        async with asyncio.timeout(ENDED_S):  # with all that were asked for it would take hours
            done = await brokers.fence_loop(transport._cluster, group="g", stream="s", rounds=asked, stable=True)
        assert done < asked


@pytest.fixture(scope="module")
def cluster(broker: Broker, new_cluster: NewCluster) -> KafkaCluster:
    """Ours, for the wire before it; nothing here stops it."""
    return broker.cluster or new_cluster()


@pytest.fixture
async def foreign(cluster: KafkaCluster) -> AsyncIterator[tuple[Wire, KafkaTransport]]:
    """A handle through the wire on brokers that are said to be Redpanda's, of which the ranges tell nothing."""
    async with Wire.of(cluster) as wire, opened(cluster.proxied_bootstrap_servers) as transport:
        await transport.ensure(StreamConfig("s"))
        transport._cluster.cluster_id = "redpanda.of-the-tests"
        yield wire, transport


async def test_a_good_broker_of_another_make_is_tried_and_accepted(foreign: tuple[Wire, KafkaTransport]) -> None:
    _, transport = foreign
    report = await transport.check_brokers("p.scorer", "s", rounds=20)
    assert (report.names, report.rounds, report.warning) == ("Redpanda", 20, "")


async def test_one_that_shows_a_position_of_before_is_refused(foreign: tuple[Wire, KafkaTransport]) -> None:
    wire, transport = foreign
    wire.repeat(Api.OFFSET_FETCH)
    with pytest.raises(UsageError, match=r"stale committed position, in round 2\b.*KAFKA-17507"):
        await transport.check_brokers("p.scorer", "s", rounds=20)


@pytest.fixture(scope="module")
def old(new_cluster: NewCluster) -> KafkaCluster:
    return new_cluster(version=OLD)


async def test_an_old_broker_is_refused_before_a_group_is_joined(old: KafkaCluster) -> None:
    async with opened(old.bootstrap_servers) as transport:
        await transport.ensure(StreamConfig("s"))
        with pytest.raises(UsageError, match=r"Kafka 3\.8 .*KAFKA-17507.*old_brokers=accept") as refused:
            async with transport.consumer("g", ["s"]):
                pass
        assert f"1 (127.0.0.1:{old.server(1).address.client_port})" in str(refused.value)
        assert "\n" not in str(refused.value)


async def test_an_old_broker_fails_the_doctor(old: KafkaCluster) -> None:
    (finding,) = await check_brokers(f"kafka://{old.bootstrap_servers}", SPEC)
    assert (finding.level, finding.what) == ("FAIL", "brokers")
    for word in ("Apache Kafka 3.8", "KAFKA-17507", "3.9.1", "old_brokers=accept"):
        assert word in finding.why


async def test_a_scorer_on_an_old_broker_ends_at_its_start(old: KafkaCluster, tmp_path: Path) -> None:
    async with opened(old.bootstrap_servers) as transport:
        await transport.ensure(StreamConfig(SPEC.source))
        url = f"kafka://{old.bootstrap_servers}?prefix={transport._cluster.settings.prefix}"
    command = ["-m", "cutbank_scorer", "--transport-url", url, "--log-format", "json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == EXIT_USAGE
    (failed,) = [line for line in map(json.loads, said.splitlines()) if line["level"] == "error"]
    assert "KAFKA-17507" in failed["error"]


async def test_an_old_broker_is_taken_where_somebody_answers_for_it(old: KafkaCluster) -> None:
    async with opened(old.bootstrap_servers, "&old_brokers=accept") as transport:
        await transport.ensure(StreamConfig("s"))
        await transport.ensure(StreamConfig("out"))
        async with Crew(transport) as crew:
            (lease,) = await until_held(crew, 1)
            await lease.fence()
            await lease.publish_and_commit([Output("out", b"1")], Position(1))
            assert await lease.committed() == Position(1)
    (finding,) = await check_brokers(f"kafka://{old.bootstrap_servers}?old_brokers=accept", SPEC)
    assert (finding.level, "old_brokers=accept" in finding.why) == ("warn", True)
