"""Kafka requests in versions that aiokafka does not bring along; formats only, after the protocol's message schemas.

- Metadata v12 tells a topic's id (KIP-516), its identity over the life of its name.
- Fetch v13 asks for a topic by its id, so that one made again under its name is never read in its place.
- InitProducerId v3 takes the producer's id and epoch (KIP-360): the broker refuses it when somebody else has fenced
  since, so a zombie cannot cut off the rightful owner by fencing again.
- OffsetFetch v7 can ask for stable offsets only (KIP-447): no position from before a commit in flight.

Source: https://github.com/apache/kafka/tree/4.1/clients/src/main/resources/common/message (MetadataRequest.json, …).
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any
from uuid import UUID

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.fetch import FetchRequest_v11
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

NO_TOPIC_ID = UUID(int=0)
"""What a broker that knows no topic ids gives; also what a request by name carries."""

NO_PRODUCER = (-1, -1)
"""Producer id and epoch of a producer that has none yet."""

_TEXT = CompactString("utf-8")
_TAGS: tuple[str, Any] = ("tags", TaggedFields)


class TopicId(AbstractType):  # type: ignore[misc]  # aiokafka is not typed
    """16 bytes."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        """As the wire has it."""
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        """The inverse of `encode`."""
        return UUID(bytes=data.read(16))


class MetadataResponseV12(Response):  # type: ignore[misc]
    """Brokers, topics, their partitions and leaders."""

    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS),
        ),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                ("topic_id", TopicId),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class MetadataRequestV12(RequestStruct):  # type: ignore[misc]
    """By name."""

    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = MetadataResponseV12
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", TopicId), ("name", _TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class TopicsRequest(Request[MetadataRequest_v5 | MetadataRequestV12]):  # type: ignore[misc]
    """Metadata of topics, never making one; `names=None` asks for all. Falls back to v5, which has no topic ids."""

    API_KEY = 3

    def __init__(self, names: list[str] | None, *, operations: bool = False) -> None:
        """`operations`: also what this client may do with each topic; v5 can't tell."""
        self._names = names
        self._operations = operations

    def build(self, request_struct_class: type[Any]) -> Any:
        """The request in the version that the broker takes."""
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(self._names, False)
        topics: list[tuple[Any, ...]] | None = (
            None if self._names is None else [(NO_TOPIC_ID, name, {}) for name in self._names]
        )
        return MetadataRequestV12(topics, False, self._operations, {})


class FetchResponseV13(Response):  # type: ignore[misc]
    """Records by topic id."""

    API_KEY = 1
    API_VERSION = 13
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("session_id", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", TopicId),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("highwater_offset", Int64),
                        ("last_stable_offset", Int64),
                        ("log_start_offset", Int64),
                        ("aborted_transactions", CompactArray(("producer_id", Int64), ("first_offset", Int64), _TAGS)),
                        ("preferred_read_replica", Int32),
                        ("records", CompactBytes),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class FetchRequestV13(RequestStruct):  # type: ignore[misc]
    """By topic id."""

    API_KEY = 1
    API_VERSION = 13
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = FetchResponseV13
    SCHEMA = Schema(
        ("replica_id", Int32),
        ("max_wait_ms", Int32),
        ("min_bytes", Int32),
        ("max_bytes", Int32),
        ("isolation_level", Int8),
        ("session_id", Int32),
        ("session_epoch", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", TopicId),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("current_leader_epoch", Int32),
                        ("fetch_offset", Int64),
                        ("last_fetched_epoch", Int32),
                        ("log_start_offset", Int64),
                        ("partition_max_bytes", Int32),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("forgotten_topics", CompactArray(("topic_id", TopicId), ("partitions", CompactArray(Int32)), _TAGS)),
        ("rack_id", _TEXT),
        _TAGS,
    )


@dataclass(frozen=True, slots=True)
class Fetching:
    """What a fetch of one partition asks for."""

    topic: str
    number: int
    start: int
    wait_ms: int
    bytes_max: int
    bytes_min: int = 1


READ_COMMITTED = 1
NO_SESSION = (0, -1)
"""Session id and epoch of a fetch that stands alone."""


class FetchByNameRequest(Request[FetchRequest_v11]):  # type: ignore[misc]
    """From whatever topic has the name now."""

    API_KEY = 1

    def __init__(self, fetching: Fetching) -> None:
        self._fetching = fetching

    def build(self, request_struct_class: type[Any]) -> Any:
        """The request."""
        ask = self._fetching
        places = [(ask.topic, [(ask.number, -1, ask.start, -1, ask.bytes_max)])]
        limits = (-1, ask.wait_ms, ask.bytes_min, ask.bytes_max, READ_COMMITTED)
        return request_struct_class(*limits, *NO_SESSION, places, [], "")


class FetchByIdRequest(Request[FetchRequest_v11 | FetchRequestV13]):  # type: ignore[misc]
    """From the topic of this id only; from the one of that name where the broker is from before Kafka 3.1."""

    API_KEY = 1

    def __init__(self, fetching: Fetching, topic_id: str) -> None:
        self._fetching = fetching
        self._id = UUID(topic_id)

    def build(self, request_struct_class: type[Any]) -> Any:
        """The request in the version that the broker takes."""
        if request_struct_class is FetchRequest_v11:
            return FetchByNameRequest(self._fetching).build(request_struct_class)
        ask = self._fetching
        places: list[tuple[Any, ...]] = [(self._id, [(ask.number, -1, ask.start, -1, -1, ask.bytes_max, {})], {})]
        limits = (-1, ask.wait_ms, ask.bytes_min, ask.bytes_max, READ_COMMITTED)
        return request_struct_class(*limits, *NO_SESSION, places, [], "", {})


class InitProducerIdResponseV3(Response):  # type: ignore[misc]
    """The producer's id and its new epoch."""

    API_KEY = 22
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        _TAGS,
    )


class InitProducerIdRequestV3(RequestStruct):  # type: ignore[misc]
    """Fence, as far as the id and epoch given are still the newest."""

    API_KEY = 22
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = InitProducerIdResponseV3
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        _TAGS,
    )


class InitProducerRequest(Request[InitProducerIdRequestV3]):  # type: ignore[misc]
    """Begin a new epoch of a transactional id; with an id and epoch only if nobody else has since."""

    API_KEY = 22

    def __init__(self, transactional_id: str, timeout_ms: int, producer: tuple[int, int]) -> None:
        self._fields: tuple[Any, ...] = (transactional_id, timeout_ms, *producer, {})

    def build(self, request_struct_class: type[Any]) -> Any:
        """The request."""
        return request_struct_class(*self._fields)


class OffsetFetchResponseV7(Response):  # type: ignore[misc]
    """Committed offsets; -1 where there is none."""

    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("error_code", Int16),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("error_code", Int16),
        _TAGS,
    )


class OffsetFetchRequestV7(RequestStruct):  # type: ignore[misc]
    """With `require_stable`."""

    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetFetchResponseV7
    SCHEMA = Schema(
        ("group", _TEXT),
        ("topics", CompactArray(("name", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)),
        ("require_stable", Boolean),
        _TAGS,
    )


class CommittedRequest(Request[OffsetFetchRequestV7]):  # type: ignore[misc]
    """A group's committed offset of one partition; `stable`: no older than the last commit that has begun."""

    API_KEY = 9

    def __init__(self, group: str, topic: str, partition: int, *, stable: bool) -> None:
        self._fields: tuple[Any, ...] = (group, [(topic, [partition], {})], stable, {})

    def build(self, request_struct_class: type[Any]) -> Any:
        """The request."""
        return request_struct_class(*self._fields)
