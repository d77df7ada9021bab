"""A whole log in memory: what simulated processes share, with its operator's and its observers' hands.

Owns the broker; a process works on it through a handle, which is a `Transport` like any other and passes the same
contract suite (`testing.transport_contract`). Event-loop only; no I/O, no threads, no tasks but the members' hearts.

    log = MemoryLog(clock=clock)
    async with log.open() as transport:
        await transport.ensure(StreamConfig("trades"))

It does the same in every run: positions, gaps and identities follow from its seed. Records stay until `expire`.
"""

from cutbank.clock import Clock
from cutbank.records import Batch, Partition, Position
from cutbank.testing.memory_broker import Broker, BrokerSettings, OnCommit, OnPublish
from cutbank.testing.memory_groups import Cursor
from cutbank.testing.memory_transport import MemoryTransport
from cutbank.transports.base import RECORD_BYTES_MAX

VALUE_BYTES_MAX = RECORD_BYTES_MAX + (64 << 10)
"""Largest value that the log takes unless told otherwise, bytes: a foreign producer's oversize record gets in."""

__all__ = ["VALUE_BYTES_MAX", "MemoryLog", "OnCommit", "OnPublish"]


class MemoryLog:
    """A log that lives as long as this object. What its methods do, they do at once: they are the operator's.

    `clock` is the broker's own: it stamps arrivals (a jump back is seen in them) and measures members' silence.
    `atomic`: outputs and position are stored in one step, as Kafka and the embedded log do. False: as on Kinesis, the
    outputs are published first, unchecked, and only the commit is refused to a zombie; a process can die in between.
    `heartbeat_s`: pause between a member's heartbeats, on its handle's clock. `session_timeout_s`: a member silent for
    so long, on the broker's clock, loses its partitions to who looks next. `hand_over_s`: time to give a revoked
    partition back. `gap_max`: after each publish 0 to so many positions are left out, as transaction markers do.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        atomic: bool = True,
        heartbeat_s: float = 0.5,
        session_timeout_s: float = 5.0,
        hand_over_s: float = 10.0,
        gap_max: int = 0,
        value_bytes_max: int = VALUE_BYTES_MAX,
        seed: int = 0,
    ) -> None:
        assert 0.0 < heartbeat_s < session_timeout_s, "a session spans heartbeats"
        assert hand_over_s >= 0.0, "hand_over_s: seconds, 0 or more"
        assert gap_max >= 0, "gap_max: positions, 0 or more"
        settings = BrokerSettings(
            atomic=atomic,
            heartbeat_s=heartbeat_s,
            session_timeout_s=session_timeout_s,
            hand_over_s=hand_over_s,
            gap_max=gap_max,
            value_bytes_max=value_bytes_max,
            seed=seed,
        )
        self._broker = Broker(settings, clock=clock)
        self._clock = clock
        self._handles = 0

    @property
    def on_publish(self) -> list[OnPublish]:
        """Called with (partition, positions, values) right after records have become durable; must not raise."""
        return self._broker.on_publish

    @property
    def on_commit(self) -> list[OnCommit]:
        """Called with (group, partition, position) right after an owner's commit; must not raise."""
        return self._broker.on_commit

    def open(self, *, clock: Clock | None = None, client_id: str | None = None) -> MemoryTransport:
        """A handle, as one process has it; enter it with `async with`.

        `clock` is the process's own (else the broker's): its heartbeats and waits run on it, and whatever has an effect
        waits on it first, so a process whose clock stands still is stopped, and one whose clock raises is dead.
        """
        self._handles += 1
        return MemoryTransport(
            self._broker, clock=clock or self._clock, client_id=client_id or f"process-{self._handles}"
        )

    def delete(self, stream: str) -> None:
        """Remove a stream with its records and committed positions; `ensure` then makes another one. StreamMissing."""
        self._broker.delete(stream)

    def expire(self, stream: str, *, keep: int = 0, partition_id: str | None = None) -> None:
        """Let all records of a stream but the last `keep` of each partition pass retention. Raises StreamMissing.

        `partition_id`: only this partition's, as when an operator deletes records.
        """
        assert keep >= 0, "keep: records, 0 or more"
        self._broker.expire(stream, keep=keep, partition_id=partition_id)

    def set_committed(self, group: str, partition: Partition, position: Position | None) -> None:
        """Set a group's committed position under its owner's hands; None loses it. Raises StreamMissing."""
        place = self._broker.shelf(partition).place
        self._broker.group(group).cursors.setdefault(place, Cursor()).committed = position

    def committed(self, group: str, partition: Partition) -> Position | None:
        """A group's committed position. Raises StreamMissing."""
        cursor = self._broker.group(group).cursors.get(self._broker.shelf(partition).place)
        return None if cursor is None else cursor.committed

    def content(self, partition: Partition) -> Batch:
        """All that is retained of a partition. Raises StreamMissing."""
        shelf = self._broker.shelf(partition)
        return shelf.read(shelf.oldest, records_max=len(shelf.values) + 1, bytes_max=1 << 62)
