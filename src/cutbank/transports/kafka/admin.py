"""Makes and describes topics, and refuses those that cannot keep the promises. Owns that judgement. Event-loop only.

Arrival times come from the broker (LogAppendTime), and every record stays until its retention (no compaction): a topic
that is otherwise is refused, with the setting that is wrong.
"""

import asyncio
import sys
from typing import Any

import structlog
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest

from cutbank.errors import StreamMissing, UsageError
from cutbank.records import Partition
from cutbank.transports.base import RECORD_BYTES_MAX, PartitionInfo, StreamConfig, StreamInfo
from cutbank.transports.kafka import reading
from cutbank.transports.kafka.cluster import Cluster, Patience, Topic
from cutbank.transports.kafka.codes import MESSAGE_BYTES, PERMISSIONS, Code, code_name, raise_for

REPLICAS = 3
"""Copies of a topic that is made where there are as many brokers; else one."""

IN_SYNC_MIN = 2
"""Copies that must have a record before it is acknowledged, where there are REPLICAS."""

PARTITIONS_MAX = 10_000
"""Most partitions of a topic that is made here."""

LINE_BYTES = RECORD_BYTES_MAX + (64 << 10)
"""What the largest line needs with its key and what Kafka puts around it: the least max.message.bytes that is well."""

TOPIC_RESOURCE = 2

TIMESTAMP_TYPE = "message.timestamp.type"
CLEANUP = "cleanup.policy"
RETENTION = "retention.ms"
MESSAGE_SIZE = "max.message.bytes"

log = structlog.get_logger(__name__)


async def ensure(cluster: Cluster, config: StreamConfig) -> StreamInfo:
    """Make the topic unless it exists; say it if that takes too little. Raises UsageError, StreamUnavailable."""
    if not 1 <= config.partitions <= PARTITIONS_MAX:
        raise UsageError(f"stream {config.name}: {config.partitions} partitions; 1 to {PARTITIONS_MAX} are possible")
    if config.retention_ms < 1:
        raise UsageError(f"stream {config.name}: retention_ms is {config.retention_ms}; it must be 1 or more")
    try:
        cluster.check_name(config.name)
    except StreamMissing as error:
        raise UsageError(str(error)) from None
    if config.name not in await cluster.look([config.name]):
        await _create(cluster, config)
    elif why := await too_small(cluster, config.name):
        log.warning(why)
    patience = cluster.patience()
    while True:
        try:
            return await describe(cluster, config.name)
        except StreamMissing as error:
            # It is made, but the broker that was asked has not heard of it yet.
            await patience.pause(error)


async def _create(cluster: Cluster, config: StreamConfig) -> None:
    patience = cluster.patience()
    while True:
        code, why = await _ask_to_create(cluster, config, patience, dry_run=False)
        if code in {Code.NONE, Code.TOPIC_ALREADY_EXISTS}:
            return
        if code in PERMISSIONS:
            raise_for(code, f"make topic {cluster.topic_name(config.name)!r}", needs="Create")
        if code not in {Code.NOT_CONTROLLER, Code.REQUEST_TIMED_OUT}:
            raise UsageError(f"stream {config.name!r} can't be made: {why}")
        await patience.pause(StreamMissing(f"stream {config.name!r} is not made: {code_name(code)}"))


async def may_create(cluster: Cluster, stream: str) -> bool:
    """Whether this client is permitted to make that topic, which is not there; asks without making it."""
    code, _ = await _ask_to_create(cluster, StreamConfig(stream), cluster.patience(), dry_run=True)
    return code not in PERMISSIONS


async def _ask_to_create(
    cluster: Cluster, config: StreamConfig, patience: Patience, *, dry_run: bool
) -> tuple[int, str]:
    """One request; the answer's code, and what it says."""
    replicated = len(cluster.brokers) >= REPLICAS
    settings = {
        TIMESTAMP_TYPE: "LogAppendTime",
        CLEANUP: "delete",
        RETENTION: str(config.retention_ms),
        MESSAGE_SIZE: str(MESSAGE_BYTES),
        "min.insync.replicas": str(IN_SYNC_MIN if replicated else 1),
    }
    topic: tuple[Any, ...] = (
        cluster.topic_name(config.name),
        config.partitions,
        REPLICAS if replicated else 1,
        [],
        list(settings.items()),
    )
    request = CreateTopicsRequest([topic], cluster.settings.call_timeout_ms, dry_run)
    answer = await cluster.send_controller(request, patience=patience)
    ((_, code, *message),) = answer.topic_errors
    return int(code), (message[0] if message else None) or code_name(code)


async def settings_of(cluster: Cluster, stream: str, names: list[str]) -> dict[str, str]:
    """A topic's settings. Raises StreamMissing, StreamUnavailable, UsageError."""
    request = DescribeConfigsRequest([(TOPIC_RESOURCE, cluster.topic_name(stream), names)])
    answer: Any = await cluster.send_any(request)
    ((code, _, _, _, entries),) = answer.resources
    if code:
        raise_for(code, f"topic {cluster.topic_name(stream)!r}", stream=stream, needs="DescribeConfigs")
    return {name: value or "" for name, value, *_ in entries}


async def check(cluster: Cluster, stream: str) -> dict[str, str]:
    """The settings that the promises hang on. Raises UsageError, StreamMissing, StreamUnavailable."""
    settings = await settings_of(cluster, stream, [TIMESTAMP_TYPE, CLEANUP, RETENTION])
    _judge(stream, cluster.topic_name(stream), settings)
    return settings


async def too_small(cluster: Cluster, stream: str) -> str:
    """Why a topic that is written to may refuse a line, and what to do; empty if it takes all. Raises as `check`."""
    settings = await settings_of(cluster, stream, [MESSAGE_SIZE])
    bytes_max = int(settings.get(MESSAGE_SIZE) or LINE_BYTES)
    if bytes_max >= LINE_BYTES:
        return ""
    topic = cluster.topic_name(stream)
    return (
        f"topic {topic!r} has {MESSAGE_SIZE}={bytes_max}, and a line may need {LINE_BYTES}: one that is refused "
        f"stops the scoring of its partition; set {MESSAGE_SIZE}={MESSAGE_BYTES} on the topic"
    )


async def describe(cluster: Cluster, stream: str) -> StreamInfo:
    """The stream as it is. Raises StreamMissing, StreamUnavailable, UsageError (it can't keep the promises)."""
    topic = await cluster.topic(stream, fresh=True)
    settings = await check(cluster, stream)
    partitions = [Partition(stream, str(number)) for number in range(len(topic.leaders))]
    found = await asyncio.gather(
        *(reading.bounds(cluster, partition, number) for number, partition in enumerate(partitions))
    )
    retention_ms = int(settings.get(RETENTION) or -1)
    return StreamInfo(
        name=stream,
        identity=identity(cluster, topic),
        retention_ms=retention_ms if retention_ms >= 0 else sys.maxsize,
        partitions=tuple(
            PartitionInfo(partition, oldest, end) for partition, (oldest, end) in zip(partitions, found, strict=True)
        ),
    )


def identity(cluster: Cluster, topic: Topic) -> str:
    """The topic's id, or cluster and name where the broker gives none (then a topic made again looks the same)."""
    return topic.id or f"{cluster.cluster_id}/{cluster.topic_name(topic.name)}"


def _judge(stream: str, topic: str, settings: dict[str, str]) -> None:
    """Raises UsageError."""
    if settings.get(TIMESTAMP_TYPE) != "LogAppendTime":
        raise UsageError(
            f"stream {stream!r}: its topic has {TIMESTAMP_TYPE}={settings.get(TIMESTAMP_TYPE) or '?'}, so records tell "
            f"no arrival time; set {TIMESTAMP_TYPE}=LogAppendTime on topic {topic!r}"
        )
    if "compact" in settings.get(CLEANUP, ""):
        raise UsageError(
            f"stream {stream!r}: its topic has {CLEANUP}={settings[CLEANUP]}, which removes records before their "
            f"retention; set {CLEANUP}=delete on topic {topic!r}"
        )
