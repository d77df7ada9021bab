"""What `cutbank doctor` finds on a real broker: topics that can't keep the promises, permissions, no way in."""

import random
from uuid import uuid4

import pytest
import structlog
from aiokafka.admin import NewTopic

from brokers.secured import FULL, LIMITED, Operation, Resource, SecuredKafka
from brokers.topics import make
from cutbank.cli.checks import Finding, check_brokers, check_log, check_permissions, check_sizes
from cutbank.clock import SystemClock
from cutbank.errors import MessageTooLarge
from cutbank.metrics import NoMetrics
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message
from cutbank.transports.base import RECORD_BYTES_MAX, StreamConfig
from cutbank.transports.kafka import open_kafka
from cutbank.transports.kafka.codes import MESSAGE_BYTES

SPEC = PipelineSpec()


@pytest.fixture
def prefix() -> str:
    return f"t{uuid4().hex[:12]}-"


async def made(kafka: SecuredKafka, prefix: str) -> None:
    async with open_kafka(kafka.url(prefix=prefix), clock=SystemClock(), metrics=NoMetrics()) as transport:
        for stream in (SPEC.source, SPEC.destination, SPEC.errors):
            await transport.ensure(StreamConfig(stream))


async def permissions(kafka: SecuredKafka, prefix: str, user: str) -> dict[str, Finding]:
    found = await check_permissions(kafka.sasl_url(user, prefix=prefix), SPEC)
    return {finding.what.removeprefix("permissions to "): finding for finding in found}


async def test_a_cluster_as_it_should_be(secured: SecuredKafka, prefix: str) -> None:
    await made(secured, prefix)
    assert (await check_log(secured.sasl_url(FULL, prefix=prefix), SPEC)).level == "ok"
    (brokers,) = await check_brokers(secured.sasl_url(FULL, prefix=prefix), SPEC)
    assert (brokers.level, brokers.why) == ("ok", "Apache Kafka 4.0 or newer")
    found = await permissions(secured, prefix, FULL)
    assert {service: finding.level for service, finding in found.items()} == dict.fromkeys(
        ("produce", "score", "sink"), "ok"
    )


async def test_a_topic_without_arrival_times_is_found(secured: SecuredKafka, prefix: str) -> None:
    topic = NewTopic(prefix + SPEC.source, 1, 1, topic_configs={"message.timestamp.type": "CreateTime"})
    await make(secured.servers(), topic)
    found = await check_log(secured.url(prefix=prefix), SPEC)
    assert found.level == "FAIL"
    assert "message.timestamp.type=LogAppendTime" in found.why


async def test_a_topic_that_takes_no_large_line_is_found_before_it_refuses_one(
    secured: SecuredKafka, prefix: str
) -> None:
    for stream, settings in (
        (SPEC.destination, {}),
        (SPEC.errors, {"max.message.bytes": str(MESSAGE_BYTES)}),
        (SPEC.scores, {"max.message.bytes": "1000"}),
    ):
        configs = {"message.timestamp.type": "LogAppendTime", **settings}
        await make(secured.servers(), NewTopic(prefix + stream, 1, 1, topic_configs=configs))
    url = secured.url(prefix=prefix)
    (found,) = await check_sizes(url, SPEC)
    assert (found.level, found.what) == ("warn", f"message size of {SPEC.destination}")
    assert "max.message.bytes=1048588" in found.why, "as Kafka makes it by default"
    assert f"set max.message.bytes={MESSAGE_BYTES}" in found.why
    assert len(await check_sizes(url, SPEC, emit_all=True)) == 2
    async with open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        for stream, said in ((SPEC.destination, True), (SPEC.errors, False)):
            with structlog.testing.capture_logs() as logs:
                await transport.ensure(StreamConfig(stream))
            assert [line["log_level"] for line in logs if "max.message.bytes" in line["event"]] == ["warning"] * said
        with pytest.raises(MessageTooLarge, match=f"max.message.bytes to {MESSAGE_BYTES}") as refused:
            await transport.publish([Message(SPEC.scores, random.Random(1).randbytes(2_000))])
        assert refused.value.bytes_max == MESSAGE_BYTES
        await transport.publish([Message(SPEC.errors, random.Random(1).randbytes(RECORD_BYTES_MAX))])


async def test_each_missing_permission_is_found(secured: SecuredKafka, prefix: str) -> None:
    await made(secured, prefix)
    found = await permissions(secured, prefix, LIMITED)
    assert {finding.level for finding in found.values()} == {"FAIL"}
    score = found["score"].why
    for lack in (
        f"Read on topic '{prefix}{SPEC.source}'",
        f"Write on topic '{prefix}{SPEC.destination}'",
        f"Write on topic '{prefix}{SPEC.errors}'",
        f"DescribeConfigs on topic '{prefix}{SPEC.source}'",
        f"Read on group '{prefix}{SPEC.name}.scorer'",
        f"Write on transactional id '{prefix}{SPEC.name}.scorer/",
    ):
        assert lack in score


async def test_topics_that_are_to_be_made_ask_for_create(secured: SecuredKafka, prefix: str) -> None:
    topics = [prefix + stream for stream in (SPEC.source, SPEC.destination, SPEC.errors)]
    for topic in topics:
        await secured.allow(Resource.TOPIC, topic, Operation.DESCRIBE)
    found = await permissions(secured, prefix, LIMITED)
    assert f"Create on topic '{prefix}{SPEC.source}'" in found["produce"].why
    assert f"Create on topic '{prefix}{SPEC.errors}'" in found["score"].why
    assert "Create" not in found["sink"].why, "it makes none"
    url = secured.sasl_url(LIMITED, prefix=prefix)
    for emit_all in (False, True):
        (score,) = [f for f in await check_permissions(url, SPEC, emit_all=emit_all) if f.what.endswith("score")]
        assert (f"topic '{prefix}{SPEC.scores}'" in score.why) == emit_all
    for topic in topics:
        await secured.allow(Resource.TOPIC, topic, Operation.CREATE)
    found = await permissions(secured, prefix, LIMITED)
    assert not any("Create" in finding.why for finding in found.values())
    async with open_kafka(secured.url(prefix=prefix), clock=SystemClock(), metrics=NoMetrics()) as transport:
        assert await transport.streams() == (), "nobody has made them by asking"


async def test_a_user_for_one_service_is_a_warning_about_the_others(secured: SecuredKafka, prefix: str) -> None:
    await made(secured, prefix)
    group = f"{prefix}{SPEC.name}.sink"
    for stream in (SPEC.destination, SPEC.errors):
        await secured.allow(Resource.TOPIC, prefix + stream, Operation.READ, Operation.DESCRIBE_CONFIGS)
    await secured.allow(Resource.TRANSACTIONAL_ID, group, Operation.WRITE, prefixed=True)
    # Enough to be told of the group, not to join it.
    await secured.allow(Resource.GROUP, group, Operation.DESCRIBE)
    found = await permissions(secured, prefix, LIMITED)
    assert (found["sink"].level, found["sink"].why) == ("FAIL", f"missing: Read on group {group!r}; allow them by ACLs")
    await secured.allow(Resource.GROUP, group, Operation.READ)
    found = await permissions(secured, prefix, LIMITED)
    assert [found[service].level for service in ("produce", "score", "sink")] == ["warn", "warn", "ok"]


async def test_no_way_in_is_found(secured: SecuredKafka) -> None:
    found = await check_log(secured.url("SASL", start_wait_ms=300), SPEC)
    assert found.level == "FAIL"
    assert "security" in found.why
