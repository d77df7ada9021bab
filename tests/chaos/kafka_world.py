"""A chaos run's world on Kafka: the same pipeline and the same checks, the log on a real broker.

Owns nothing but names: the broker is started around the run; everything lies below a prefix of this run's own.
Event-loop only.
"""

from dataclasses import dataclass
from uuid import uuid4

from chaos.world import World

SESSION = (
    "heartbeat_ms=200&session_timeout_ms=3000&hand_over_ms=5000&commit_timeout_ms=2500&transaction_timeout_ms=3000"
)
"""A dead owner's partitions pass on after three seconds, and its open transaction is aborted then."""


@dataclass(kw_only=True)
class KafkaWorld(World):
    """One pipeline on one broker or cluster."""

    bootstrap_servers: str

    def __post_init__(self) -> None:
        self._prefix = f"chaos-{uuid4().hex[:12]}-"

    @property
    def transport_url(self) -> str:
        """With topics, groups and transactional ids of this run."""
        return f"kafka://{self.bootstrap_servers}?prefix={self._prefix}&{SESSION}"

    async def lock_is_free(self) -> bool:
        """Always: there is no file that a stopped process could hold."""
        return True
