"""Reads partitions: fetches, bounds, starts. Owns what one fetch brought until it is taken.

Invariant: only committed records are seen, and the reading position never passes one that is still undecided: every
fetch and bound is asked for with read_committed, so the "end" is the last stable offset. Event-loop only.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from aiokafka.protocol.offset import OffsetRequest

from cutbank.errors import AnotherStream, LogDamaged, PositionLost, StreamUnavailable
from cutbank.records import Batch, Partition, Position
from cutbank.transports.base import Start
from cutbank.transports.kafka import wire
from cutbank.transports.kafka.batches import Columns, Contents
from cutbank.transports.kafka.cluster import PLAIN, Cluster, Patience
from cutbank.transports.kafka.codes import OTHER_TOPIC, Code, code_name, raise_for

LATEST = -1
EARLIEST = -2


class Shelf:
    """What one fetch brought and nobody has taken yet.

    It lies there as the log has it, packed: bounded by the fetch's limit. What is taken apart is what the next batch
    needs, and the rest of one batch of the log, which may unpack to a hundred times its size.
    """

    def __init__(self, partition: Partition, contents: Contents, *, start: Position) -> None:
        self._partition = partition
        self._contents = contents
        self._columns = Columns([], [], [], [])
        self._next = 0
        self.position = start
        """Where `take` goes on."""

    @property
    def records(self) -> int:
        """How many are left."""
        return self._apart + self._contents.records

    @property
    def next_fetch(self) -> Position:
        """Where the next fetch begins."""
        return Position(self._contents.end)

    def any(self) -> bool:
        """Whether there is a committed record left. Raises LogDamaged."""
        self._take_apart(1, 1)
        return self._apart > 0

    def take(self, *, records_max: int, bytes_max: int) -> Batch:
        """The next records within the limits, one at least if there is one; then with all that lies behind them.

        Raises LogDamaged.
        """
        self._take_apart(records_max, bytes_max)
        columns, first = self._columns, self._next
        stop = min(len(columns.positions), first + records_max)
        sizes = list(accumulate(map(len, columns.values[first:stop])))
        if sizes and sizes[-1] > bytes_max:
            stop = first + max(1, sum(size <= bytes_max for size in sizes))
        whole = stop == len(columns.positions) and not self._contents.records
        end = self.next_fetch if whole else Position(columns.positions[stop - 1] + 1)
        start, self.position, self._next = self.position, end, stop
        part = slice(first, stop)
        return Batch(
            partition=self._partition,
            start=start,
            end=end,
            positions=columns.positions[part],
            arrivals_ms=columns.arrivals_ms[part],
            keys=columns.keys[part],
            values=columns.values[part],
        )

    @property
    def _apart(self) -> int:
        """Records that are taken apart and not taken."""
        return len(self._columns.positions) - self._next

    def _take_apart(self, records_max: int, bytes_max: int) -> None:
        """Until there are so many records or bytes, or no more."""
        if self._next:
            positions, arrivals_ms, keys, values = self._columns
            rest = slice(self._next, None)
            self._columns = Columns(positions[rest], arrivals_ms[rest], keys[rest], values[rest])
            self._next = 0
        size, counted = 0, 0
        while len(self._columns.values) < records_max:
            size += sum(map(len, self._columns.values[counted:]))
            counted = len(self._columns.values)
            if size >= bytes_max or not self._contents.more(self._columns):
                return


def _only(answer: Any) -> Any:
    """The one partition of an answer."""
    ((_, (part,), *_),) = answer.topics
    return part


def _fetched(answer: Any) -> int:
    return int(answer.error_code) or int(_only(answer)[1])


async def fetch(
    cluster: Cluster,
    partition: Partition,
    number: int,
    start: Position,
    *,
    wait_ms: int,
    bytes_max: int,
    patience: Patience,
    line: str = PLAIN,
    topic_id: str = "",
) -> Contents:
    """One fetch; with a `topic_id` from that topic only, as far as the broker can tell topics by their ids.

    Raises PositionLost, AnotherStream (the name is another topic's now), StreamMissing, StreamUnavailable, LogDamaged.
    """
    bytes_min = cluster.settings.fetch_bytes_min
    ask = wire.Fetching(cluster.topic_name(partition.stream), number, start, wait_ms, bytes_max, bytes_min)
    request = wire.FetchByIdRequest(ask, topic_id) if topic_id else wire.FetchByNameRequest(ask)
    while True:
        answer, code = await cluster.ask_leader(
            partition.stream, number, request, code_of=_fetched, patience=patience, line=line, held_s=wait_ms / 1000
        )
        if code not in OTHER_TOPIC:
            break
        await _check_same(cluster, partition, topic_id)
        await patience.pause(StreamUnavailable(f"{partition}: the broker answers {code_name(code)}"))
    if code == Code.OFFSET_OUT_OF_RANGE:
        await _out_of_range(cluster, partition, number, start)
    if code:
        raise_for(code, str(partition), stream=partition.stream, needs="Read")
    _, _, _, _, _, transactions, _, records, *_ = _only(answer)
    body = records or b""
    aborted = [(producer_id, first) for producer_id, first, *_ in transactions or ()]
    contents = Contents(partition, body, start=start, aborted=aborted)
    if body and not contents.whole:
        raise LogDamaged(f"{partition}: the broker gives half a batch at position {start}")
    return contents


async def _check_same(cluster: Cluster, partition: Partition, topic_id: str) -> None:
    """Raises AnotherStream, StreamMissing, StreamUnavailable."""
    now = (await cluster.topic(partition.stream, fresh=True)).id
    if now != topic_id:
        raise AnotherStream(
            f"{partition}: topic {cluster.topic_name(partition.stream)!r} was deleted and made anew ({now}, before "
            f"{topic_id}); its records are another stream's. Start again to be told how to go on"
        )


async def _out_of_range(cluster: Cluster, partition: Partition, number: int, start: Position) -> None:
    oldest, end = await bounds(cluster, partition, number)
    if start < oldest:
        raise PositionLost(
            f"{partition}: position {start} is past retention, the oldest record retained is {oldest}; "
            "records between were removed unread"
        )
    if start > end:
        raise PositionLost(
            f"{partition}: position {start} lies behind the end {end}; the topic was made again or lost records"
        )
    # It came back into range between the two questions: the caller asks again.


async def offset_at(cluster: Cluster, partition: Partition, number: int, timestamp: int) -> int:
    """The first offset at that time or later, LATEST or EARLIEST; -1 if no record is that late."""
    request = OffsetRequest(-1, wire.READ_COMMITTED, [(cluster.topic_name(partition.stream), [(number, timestamp)])])
    answer, code = await cluster.ask_leader(
        partition.stream, number, request, code_of=lambda answer: _only(answer)[1], patience=cluster.patience()
    )
    if code:
        raise_for(code, str(partition), stream=partition.stream)
    return int(_only(answer)[3])


async def bounds(cluster: Cluster, partition: Partition, number: int) -> tuple[Position, Position]:
    """The oldest position retained, and the end."""
    oldest = await offset_at(cluster, partition, number, EARLIEST)
    return Position(oldest), Position(max(oldest, await offset_at(cluster, partition, number, LATEST)))


async def position_at(cluster: Cluster, partition: Partition, start: Start) -> Position:
    """Resolve a start, now. Raises StreamMissing, StreamUnavailable."""
    number = await cluster.number(partition)
    if start.at == "earliest":
        return Position(await offset_at(cluster, partition, number, EARLIEST))
    if start.at == "timestamp":
        found = await offset_at(cluster, partition, number, start.timestamp_ms)
        if found >= 0:
            return Position(found)
    return (await bounds(cluster, partition, number))[1]


async def read(cluster: Cluster, partition: Partition, start: Position, *, records_max: int, bytes_max: int) -> Batch:
    """What lies at and after `start`, now; one record at least if there is one."""
    assert records_max >= 1, "a read asks for one record at least"
    number = await cluster.number(partition)
    parts: list[Batch] = []
    position, records_left, bytes_left = start, records_max, bytes_max
    while records_left > 0 and (bytes_left > 0 or not parts):
        fetched = await fetch(
            cluster,
            partition,
            number,
            position,
            wait_ms=0,
            bytes_max=cluster.settings.fetch_bytes_max,
            patience=cluster.patience(),
        )
        shelf = Shelf(partition, fetched, start=position)
        if shelf.next_fetch == position:
            break
        part = shelf.take(records_max=records_left, bytes_max=bytes_left)
        if parts and sum(map(len, part.values)) > bytes_left:
            break  # The next record alone is over what is left.
        position = part.end
        if len(part):
            parts.append(part)
            records_left -= len(part)
            bytes_left -= sum(map(len, part.values))
    return join(partition, start, position, parts)


def join(partition: Partition, start: Position, end: Position, parts: Sequence[Batch]) -> Batch:
    """Batches that follow each other, as one."""
    return Batch(
        partition=partition,
        start=start,
        end=end,
        positions=[position for part in parts for position in part.positions],
        arrivals_ms=[arrival_ms for part in parts for arrival_ms in part.arrivals_ms],
        keys=[key for part in parts for key in part.keys],
        values=[value for part in parts for value in part.values],
    )
