"""A cluster's answers without a cluster: what stands in place of aiokafka's client, below everything of ours.

`Answers` is the client; a test says what each kind of request is answered with. One topic, one node. Event-loop only.
"""

import struct
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from cutbank.clock import Clock, SystemClock
from cutbank.records import Partition
from cutbank.transports.kafka import batches, wire
from cutbank.transports.kafka.cluster import Cluster
from cutbank.transports.kafka.lease import KafkaLease
from cutbank.transports.kafka.routing import Router
from cutbank.transports.kafka.settings import KafkaSettings

TOPIC_ID = UUID(int=7)
NODE = 1

Answer = Callable[[Any], Any | Awaitable[Any]]


class Answers:
    """aiokafka's client, as far as our code asks it. `asked` has the kinds of all requests, in order."""

    def __init__(self, topic: str) -> None:
        self.cluster = SimpleNamespace(broker_metadata=lambda _: None)
        self._conns: dict[Any, Any] = {}
        self.asked: list[str] = []
        self._by_kind: dict[str, Answer] = {
            "Topics": lambda _: metadata(topic),
            "FindCoordinator": lambda _: SimpleNamespace(error_code=0, coordinator_id=NODE),
        }

    def set(self, kind: str, answer: Answer) -> None:
        """What requests of a kind get: `Fetch`, `EndTxn`, as their classes are called."""
        self._by_kind[kind] = answer

    def get_random_node(self) -> int:
        return NODE

    async def send(self, node: int, request: Any, *, group: str) -> Any:
        kind = type(request).__name__.removesuffix("Request")
        self.asked.append(kind)
        found = self._by_kind[kind](request)
        return await found if isinstance(found, Awaitable) else found

    async def close(self) -> None:
        pass


def metadata(topic: str) -> Any:
    partition: tuple[Any, ...] = (0, 0, NODE, 0, [NODE], [NODE], [], {})
    return SimpleNamespace(
        API_VERSION=wire.MetadataResponseV12.API_VERSION,
        brokers=[(NODE, "host", 9092, None, {})],
        cluster_id="c",
        controller_id=NODE,
        topics=[(0, topic, TOPIC_ID, False, [partition], 0, {})],
    )


def fetched(body: bytes, *, end: int) -> Any:
    """The answer to a fetch, with these batches."""
    return SimpleNamespace(error_code=0, topics=[(TOPIC_ID, [(0, 0, end, end, 0, [], -1, body)])])


def batch(first: int, values: Sequence[bytes], *, codec: int = 0) -> bytes:
    """Records as a broker has them in its log."""
    built = batches.build([(None, value) for value in values], codec=codec, producer=(-1, -1), sequence=0, now_ms=1)
    return struct.pack(">q", first) + built[8:]


def damaged(body: bytes) -> bytes:
    """The same with one bit that is another."""
    return body[:-1] + bytes([body[-1] ^ 1])


def cluster_of(answers: Answers, *, clock: Clock | None = None, **settings: int) -> Cluster:
    """A cluster that is answered so."""
    cluster = Cluster(["host:9092"], KafkaSettings(**settings), clock or SystemClock(), client_id="test")
    cluster._client = answers
    return cluster


class _Counted:
    """A consumer whose group counts it in, as `Owner` says."""

    held = 1

    async def confirm(self, *, always: bool) -> None:
        pass


def lease_of(cluster: Cluster, partition: Partition) -> KafkaLease:
    """A lease that may read; nothing has been fenced."""
    return KafkaLease(
        cluster,
        _Counted(),
        router=Router(cluster),
        group="g",
        place=(partition.stream, int(partition.id)),
        partition=partition,
        give_back=lambda _: None,
        fenced=lambda: None,
    )
