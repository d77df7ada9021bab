"""What travels: positions, partitions, batches, messages. The vocabulary of every transport; no I/O.

Invariant: within a partition, positions strictly increase and are never assumed contiguous (transactions,
aborts and Kinesis leave gaps). A batch says where it began and where the next one begins.
Values only: everything here may be shared between threads.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NewType
from zlib import crc32

Position = NewType("Position", int)
"""An opaque, ordered token: where a record lies in its partition.

Kafka: the offset. Local log: the partition's counter. Kinesis: `sequence number << 64 | subsequence number`.
The end of a batch is a position too. Only transports do arithmetic on it.
"""

POSITION_BITS = 256
"""Width of every position: a Kinesis sequence number has at most 56 digits (187 bits), a subsequence number 64 bits."""

_SUBSEQUENCE_BITS = 64
_SUBSEQUENCE_MASK = (1 << _SUBSEQUENCE_BITS) - 1
_POSITION_MAX = (1 << POSITION_BITS) - 1


def position_text(position: Position) -> str:
    """The decimal form that people read: `"42"`, or `"sequence.subsequence"` where the position has both parts."""
    sequence, subsequence = position >> _SUBSEQUENCE_BITS, position & _SUBSEQUENCE_MASK
    return f"{sequence}.{subsequence}" if sequence else str(subsequence)


def position_from_text(text: str) -> Position:
    """The inverse of `position_text`. Raises ValueError on anything else."""
    sequence, dot, subsequence = text.partition(".")
    if not dot:
        sequence, subsequence = "0", sequence
    if not (sequence.isascii() and sequence.isdigit() and subsequence.isascii() and subsequence.isdigit()):
        raise ValueError(f"not a position: {text!r}")
    low = int(subsequence)
    position = (int(sequence) << _SUBSEQUENCE_BITS) | low
    if low > _SUBSEQUENCE_MASK or position > _POSITION_MAX:
        raise ValueError(f"not a position: {text!r}")
    return Position(position)


def position_inverted(position: Position) -> str:
    """64 upper-case hex digits that sort the newest position first, so that a LIST gives it first.

    Upper case sorts before every lower-case word, so names like `birth` come after all positions.
    """
    return f"{_POSITION_MAX - position:064X}"


def position_from_inverted(text: str) -> Position:
    """The inverse of `position_inverted`. Raises ValueError on anything else."""
    if len(text) != POSITION_BITS // 4 or not set(text) <= set("0123456789ABCDEF"):
        raise ValueError(f"not an inverted position: {text!r}")
    return Position(_POSITION_MAX - int(text, 16))


class Partition(NamedTuple):
    """One ordered part of a stream."""

    stream: str
    id: str
    """Kafka and the local log: the partition's number in decimal. Kinesis: the shard's id."""

    def __str__(self) -> str:
        return f"{self.stream}/{self.id}"


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, in order, as columns of one length; may be empty.

    `start <= positions[0]`, `positions[-1] < end`; reading goes on at `end`.
    """

    partition: Partition
    start: Position
    end: Position
    """The first position that this batch does not cover."""
    positions: Sequence[Position]
    arrivals_ms: Sequence[int]
    """When the broker took each record, milliseconds since the epoch, UTC; as the broker says, not clamped."""
    keys: Sequence[bytes | None]
    values: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.positions)

    def before(self, position: Position) -> "Batch":
        """The part of this batch that lies before `position`."""
        if position >= self.end:
            return self
        cut = bisect_left(self.positions, position)
        return Batch(
            partition=self.partition,
            start=self.start,
            end=max(position, self.start),
            positions=self.positions[:cut],
            arrivals_ms=self.arrivals_ms[:cut],
            keys=self.keys[:cut],
            values=self.values[:cut],
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A record to publish. `key` chooses the partition, as the transport does by its own rule, unless one is named."""

    stream: str
    value: bytes
    key: bytes | None = None
    partition_id: str | None = None


def partition_for(source_id: str, partition_ids: Sequence[str]) -> str:
    """The output partition that a source partition determines: every record of one source takes the same way, always.

    Numbered partitions map by number (partition i of n to i mod n), others by CRC-32 of their id.
    """
    number = int(source_id) if source_id.isascii() and source_id.isdigit() else crc32(source_id.encode())
    return partition_ids[number % len(partition_ids)]
