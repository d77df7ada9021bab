"""A chaos run's world on Kafka: the same pipeline and the same checks, the log on real brokers behind a wire of ours.

Owns names: everything lies below a prefix of this world's own, so that one cluster serves a world after the other. The
services come through the wire (brokers.wire), the run's own handles don't. Event-loop only.
"""

from dataclasses import dataclass, field
from typing import Self
from uuid import uuid4

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from brokers.kafka_server import KafkaCluster
from chaos.world import World
from cutbank.clock import SystemClock
from cutbank.transports.kafka.admin import settings_of
from cutbank.transports.kafka.cluster import Cluster
from cutbank.transports.kafka.settings import parse_url
from cutbank.transports.kafka.transaction import GROUP, TRANSACTION

SESSION_MS = TRANSACTION_MS = 3_000
"""A dead owner's partitions pass on after so long, and its open transaction is aborted then."""

COMMIT_MS = 2_500
"""Deadline of a publish with its commit."""

SESSION = (
    f"heartbeat_ms=200&session_timeout_ms={SESSION_MS}&hand_over_ms=5000&commit_timeout_ms={COMMIT_MS}"
    f"&transaction_timeout_ms={TRANSACTION_MS}"
)

_KEPT = ["message.timestamp.type", "cleanup.policy", "retention.ms", "min.insync.replicas", "max.message.bytes"]
"""A topic's settings: whoever alters one without naming the others sets those back."""


@dataclass(kw_only=True)
class KafkaWorld(World):
    """One pipeline on one broker or cluster."""

    kafka: KafkaCluster
    brokers: Cluster = field(init=False)
    """To ask who leads what."""

    def __post_init__(self) -> None:
        self._prefix = f"chaos-{uuid4().hex[:12]}-"

    async def __aenter__(self) -> Self:
        servers, settings = parse_url(self.own_url)
        self.brokers = Cluster(servers, settings, SystemClock(), client_id="chaos")
        self._stack.push_async_callback(self.brokers.close)
        await self.brokers.open()
        return await super().__aenter__()

    @property
    def transport_url(self) -> str:
        """With topics, groups and transactional ids of this world."""
        return f"kafka://{self.kafka.proxied_bootstrap_servers}?prefix={self._prefix}&{SESSION}"

    @property
    def own_url(self) -> str:
        """The same, past the wire."""
        return f"kafka://{self.kafka.bootstrap_servers}?prefix={self._prefix}&{SESSION}"

    async def lock_is_free(self) -> bool:
        """Always: there is no file that a stopped process could hold."""
        return True

    def transactional_id(self, role: str, partition: str = "") -> str:
        """Of the owner of a partition (`trades/0`), or what those of the role begin with."""
        if role == "producer":
            return f"{self._prefix}cutbank.publisher/"
        return f"{self._prefix}{self.spec.name}.{role}/{partition}"

    async def leader(self, stream: str, number: int) -> int:
        """The node that leads a partition now."""
        return (await self.brokers.topic(stream, fresh=True)).leaders[number]

    async def coordinator(self, role: str, partition: str | None = None) -> int:
        """The node that coordinates the transactions of a partition's owner, or the role's group, now."""
        key = f"{self._prefix}{self.spec.name}.{role}" if partition is None else self.transactional_id(role, partition)
        kind = GROUP if partition is None else TRANSACTION
        self.brokers.forget_coordinator(kind, key)
        return await self.brokers.coordinator(kind, key)

    async def limit_messages(self, stream: str, bytes_max: int) -> int:
        """Set a topic's max.message.bytes, under the services; what it was."""
        settings = await settings_of(self.brokers, stream, _KEPT)
        before = int(settings["max.message.bytes"])
        changed = {**settings, "max.message.bytes": str(bytes_max)}
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers)
        await admin.start()
        try:
            topic = ConfigResource(ConfigResourceType.TOPIC, self.brokers.topic_name(stream), configs=changed)
            await admin.alter_configs([topic])
        finally:
            await admin.close()
        return before
