"""A Kafka cluster as a transport: the plain side, and the door to the group side.

Owns the cluster's connections and this handle's publisher. Event-loop only.
"""

from collections.abc import Sequence
from typing import Self

from cutbank.clock import Clock
from cutbank.metrics import Metrics
from cutbank.records import Batch, Message, Partition, Position
from cutbank.transports.base import Start, StreamConfig, StreamInfo, Tell, tell_nobody
from cutbank.transports.kafka import admin, reading, transaction
from cutbank.transports.kafka.brokers import DOCTOR_ROUNDS, Report, check
from cutbank.transports.kafka.cluster import PLAIN, Cluster
from cutbank.transports.kafka.consumer import KafkaConsumer
from cutbank.transports.kafka.permissions import Needs, lacking
from cutbank.transports.kafka.publishing import Publisher
from cutbank.transports.kafka.routing import Router
from cutbank.transports.kafka.settings import KafkaSettings, parse_url


class KafkaTransport:
    """Topics as streams. Implements `transports.base.Transport`."""

    def __init__(
        self,
        servers: Sequence[str],
        settings: KafkaSettings,
        *,
        clock: Clock,
        metrics: Metrics,
        client_id: str | None = None,
        tell: Tell = tell_nobody,
    ) -> None:
        self._cluster = Cluster(servers, settings, clock, client_id=client_id or "cutbank")
        self._router = Router(self._cluster)
        self._publisher = Publisher(self._cluster, self._router)
        self._metrics = metrics
        self._tell = tell

    async def __aenter__(self) -> Self:
        """Reach a broker. Raises UsageError: credentials, files, or none came within `start_wait_ms`."""
        await self._cluster.open()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._publisher.close()
        await self._cluster.close()

    async def ensure(self, config: StreamConfig) -> StreamInfo:
        """Make the topic unless it exists. Raises UsageError, StreamUnavailable."""
        return await admin.ensure(self._cluster, config)

    async def describe(self, stream: str) -> StreamInfo:
        """Raises StreamMissing, StreamUnavailable, UsageError (the topic can't keep the promises)."""
        return await admin.describe(self._cluster, stream)

    async def too_small(self, stream: str) -> str:
        """Why a stream may refuse the largest line, and what to do; empty if it takes all. Raises as `describe`."""
        return await admin.too_small(self._cluster, stream)

    async def streams(self) -> tuple[str, ...]:
        """Names of all streams, sorted."""
        return tuple(sorted(await self._cluster.look(None)))

    async def publish(self, messages: Sequence[Message]) -> None:
        """All messages in one transaction, in order per partition.

        A message goes to the partition it names, else to its key's as Kafka's clients choose it, else, with all of this
        call that have no key, to the next partition in turn. Raises MessageTooLarge, StreamMissing, StreamUnavailable
        (all: nothing done), OutcomeUnknown.
        """
        if messages:
            await self._publisher.publish(messages)

    async def read(self, partition: Partition, start: Position, *, records_max: int, bytes_max: int) -> Batch:
        """What lies at and after `start`, now. Raises PositionLost, StreamMissing, StreamUnavailable, LogDamaged."""
        return await reading.read(self._cluster, partition, start, records_max=records_max, bytes_max=bytes_max)

    async def position_at(self, partition: Partition, start: Start) -> Position:
        """Resolve a start to a position, now."""
        return await reading.position_at(self._cluster, partition, start)

    async def committed(self, group: str, partition: Partition) -> Position | None:
        """A group's committed position, as an onlooker; a commit in flight is not waited for."""
        number = await self._cluster.number(partition)
        name = self._cluster.settings.prefix + group
        return await transaction.committed(self._cluster, name, partition.stream, number, line=PLAIN, stable=False)

    async def lacking(self, needs: Needs) -> tuple[str, ...]:
        """Permissions that are missing for what a service does, one a text. Raises StreamUnavailable, UsageError."""
        return await lacking(self._cluster, needs)

    async def check_brokers(self, group: str, stream: str | None, *, rounds: int = DOCTOR_ROUNDS) -> Report:
        """What the brokers are; refuses those whose committed positions may be stale after a fence.

        `stream`: one that is there, to try it with where that is needed; None leaves that out. Raises UsageError,
        StreamUnavailable.
        """
        return await check(self._cluster, group=group, stream=stream, rounds=rounds)

    def consumer(self, group: str, streams: Sequence[str]) -> KafkaConsumer:
        """A new member of `group`."""
        return KafkaConsumer(
            self._cluster, router=self._router, group=group, streams=streams, metrics=self._metrics, tell=self._tell
        )


def open_kafka(
    url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None, tell: Tell = tell_nobody
) -> KafkaTransport:
    """The transport that a `kafka://` URL names, not entered yet. Raises UsageError."""
    servers, settings = parse_url(url)
    return KafkaTransport(servers, settings, clock=clock, metrics=metrics, client_id=client_id, tell=tell)
