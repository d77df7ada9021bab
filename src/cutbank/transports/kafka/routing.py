"""Decides which partition a record goes to, and refuses what no topic takes. Owns the turns of records without a key.

Invariant: nothing is sent of a call one of whose records is refused. Event-loop only.
"""

from collections.abc import Sequence

from aiokafka.partitioner import murmur2

from cutbank.errors import MessageTooLarge
from cutbank.records import Message, Partition, partition_for
from cutbank.transports.base import RECORD_BYTES_MAX, Output
from cutbank.transports.kafka.cluster import Cluster

VALUE_BYTES_MAX = RECORD_BYTES_MAX + (64 << 10)
"""Largest value, bytes: an input of the largest size still fits with what the pipeline adds around it."""

KEY_BYTES_MAX = 1 << 16
"""Largest key, bytes."""

Routed = dict[tuple[str, int], list[tuple[bytes | None, bytes]]]
"""(key, value) pairs by stream and partition number, in order."""


def _check(stream: str, key: bytes | None, value: bytes) -> None:
    if len(value) > VALUE_BYTES_MAX:
        raise MessageTooLarge(
            f"stream {stream!r}: a value of {len(value)} bytes; at most {VALUE_BYTES_MAX} are possible",
            bytes_max=VALUE_BYTES_MAX,
        )
    if key is not None and len(key) > KEY_BYTES_MAX:
        raise MessageTooLarge(
            f"stream {stream!r}: a key of {len(key)} bytes; at most {KEY_BYTES_MAX} are possible",
            bytes_max=KEY_BYTES_MAX,
        )


def by_key(key: bytes, partitions: int) -> int:
    """The partition of a key, as Kafka's own clients choose it."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class Router:
    """Where the records of one handle go."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._turns: dict[str, int] = {}

    async def messages(self, messages: Sequence[Message]) -> Routed:
        """To the partition named, else by the key, else all of this call to the next partition in turn.

        Raises MessageTooLarge, StreamMissing, StreamUnavailable.
        """
        routed: Routed = {}
        turns: dict[str, int] = {}
        for message in messages:
            _check(message.stream, message.key, message.value)
            partitions = len((await self._cluster.topic(message.stream)).leaders)
            if message.partition_id is not None:
                number = await self._cluster.number(Partition(message.stream, message.partition_id))
            elif message.key is not None:
                number = by_key(message.key, partitions)
            else:
                if message.stream not in turns:
                    turns[message.stream] = self._turns.get(message.stream, -1) + 1
                number = turns[message.stream] % partitions
            routed.setdefault((message.stream, number), []).append((message.key, message.value))
        self._turns.update(turns)
        return routed

    async def outputs(self, outputs: Sequence[Output], *, source_id: str) -> Routed:
        """To the partition that the source determines, unless another is named. Raises as `messages`."""
        routed: Routed = {}
        for output in outputs:
            _check(output.stream, output.key, output.value)
            id_ = output.partition_id
            if id_ is None:
                partitions = len((await self._cluster.topic(output.stream)).leaders)
                id_ = partition_for(source_id, [str(number) for number in range(partitions)])
            number = await self._cluster.number(Partition(output.stream, id_))
            routed.setdefault((output.stream, number), []).append((output.key, output.value))
        return routed
