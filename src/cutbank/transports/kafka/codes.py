"""Kafka's error codes by the reaction that is right for them. Owns that table; no I/O, no state.

Source: https://kafka.apache.org/41/design/protocol/#protocol_error_codes.
"""

from enum import IntEnum
from typing import Never

from aiokafka.errors import for_code

from cutbank.errors import CutbankError, Fenced, MessageTooLarge, StreamMissing, StreamUnavailable, UsageError
from cutbank.transports.base import RECORD_BYTES_MAX


class NotPermitted(UsageError):
    """An ACL is missing; the message names it."""


class Code(IntEnum):
    """The codes that something here reacts to, by the protocol's names."""

    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    MESSAGE_TOO_LARGE = 10
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    ILLEGAL_GENERATION = 22
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    TOPIC_ALREADY_EXISTS = 36
    INVALID_REPLICATION_FACTOR = 38
    NOT_CONTROLLER = 41
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    LISTENER_NOT_FOUND = 72
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    OFFSET_NOT_AVAILABLE = 78
    MEMBER_ID_REQUIRED = 79
    FENCED_INSTANCE_ID = 82
    UNSTABLE_OFFSET_COMMIT = 88
    PRODUCER_FENCED = 90
    UNKNOWN_TOPIC_ID = 100
    INCONSISTENT_TOPIC_ID = 103


COORDINATOR_MOVED = frozenset({Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR})
"""Ask again who the coordinator is. Nothing was done, except perhaps an EndTxn: a coordinator that can't replicate it
in time answers so too, and the next one may find it in its log."""

COORDINATOR_BUSY = frozenset(
    {Code.COORDINATOR_LOAD_IN_PROGRESS, Code.CONCURRENT_TRANSACTIONS, Code.UNSTABLE_OFFSET_COMMIT}
)
"""Nothing was done; ask the same one again."""

LEADER_MOVED = frozenset(
    {
        Code.LEADER_NOT_AVAILABLE,
        Code.NOT_LEADER_OR_FOLLOWER,
        Code.KAFKA_STORAGE_ERROR,
        Code.LISTENER_NOT_FOUND,
        Code.FENCED_LEADER_EPOCH,
        Code.UNKNOWN_LEADER_EPOCH,
        Code.OFFSET_NOT_AVAILABLE,
    }
)
"""Nothing was done; ask again who leads the partition."""

OTHER_TOPIC = frozenset({Code.UNKNOWN_TOPIC_ID, Code.INCONSISTENT_TOPIC_ID})
"""No topic has this id: the broker has not heard of it yet, or the topic was deleted, and perhaps made again."""

LEADER_BUSY = frozenset({Code.NOT_ENOUGH_REPLICAS, Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND, Code.REQUEST_TIMED_OUT})
"""Not durable yet; an idempotent batch may be sent again."""

TOO_LARGE = frozenset({Code.MESSAGE_TOO_LARGE, Code.RECORD_LIST_TOO_LARGE})
"""The topic takes no batch of that size; nothing of it was taken."""

MESSAGE_BYTES = 2 * RECORD_BYTES_MAX
"""The max.message.bytes that is enough for all that is ever published: the largest record with key and frame, or a
whole batch. Kafka's own default is RECORD_BYTES_MAX and 12 bytes, less than the largest line with its frame."""

FENCED = frozenset({Code.INVALID_PRODUCER_EPOCH, Code.PRODUCER_FENCED, Code.INVALID_PRODUCER_ID_MAPPING})
"""Another producer has taken the transactional id."""

PERMISSIONS = {
    Code.TOPIC_AUTHORIZATION_FAILED: ("topic", "Describe and DescribeConfigs, Read to read it, Write to write it"),
    Code.GROUP_AUTHORIZATION_FAILED: ("group", "Read"),
    Code.CLUSTER_AUTHORIZATION_FAILED: ("cluster", "Create"),
    Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: ("transactional id", "Write"),
}
"""What the permission that is missing is about, and which operations Cutbank needs there."""


def code_name(code: int) -> str:
    """What people call it: aiokafka does not know all that are handled here."""
    known = {int(item): item.name for item in Code}
    return f"{known.get(code) or for_code(code).__name__} ({code})"


def missing(stream: str) -> StreamMissing:
    """The error for a stream that is not there."""
    return StreamMissing(f"stream {stream!r} does not exist; make it with: cutbank streams create {stream}")


def error_for(code: int, what: str, *, stream: str | None = None, needs: str = "") -> CutbankError:
    """The error that carries the right reaction to a code that was not handled where it came up.

    `needs`: the operation that was to be allowed, by the name that ACLs have for it.
    """
    if code in PERMISSIONS:
        resource, operations = PERMISSIONS[Code(code)]
        return NotPermitted(
            f"{what}: the user of the transport URL lacks permission {needs or operations} on this {resource}; "
            "allow it by an ACL"
        )
    if code in FENCED:
        return Fenced(f"{what}: the right to it has passed to somebody else ({code_name(code)})")
    if code == Code.UNKNOWN_TOPIC_OR_PARTITION and stream is not None:
        return missing(stream)
    if code in TOO_LARGE:
        return MessageTooLarge(
            f"{what}: larger than the topic takes; raise its max.message.bytes to {MESSAGE_BYTES}",
            bytes_max=MESSAGE_BYTES,
        )
    return StreamUnavailable(f"{what}: the broker answers {code_name(code)}")


def raise_for(code: int, what: str, *, stream: str | None = None, needs: str = "") -> Never:
    """Raise `error_for`."""
    raise error_for(code, what, stream=stream, needs=needs)
