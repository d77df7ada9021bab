"""What lies in the output stream of a replay: its own lines, told from everybody else's by their keys.

Reads only. Memory: one batch. Event-loop only.
"""

from collections.abc import Collection

from cutbank.errors import CutbankError
from cutbank.records import Batch, Partition, Position
from cutbank.transports.base import Transport

READ_RECORDS_MAX = 4096
"""Lines in memory at a time."""
READ_BYTES_MAX = 4 << 20


class NotOurs(CutbankError):
    """A record that this replay did not write."""


class Present:
    """The lines of one source partition that are there already, in order."""

    def __init__(
        self,
        transport: Transport,
        where: tuple[Partition, Position, Position],
        key: bytes,
        *,
        ours: Collection[bytes],
    ) -> None:
        """`where`: partition, first position, end. `key`: of the lines wanted; other keys of `ours` are passed by."""
        self._transport = transport
        self._partition, self._position, self._end = where
        self._key = key
        self._ours = ours
        self._batch: Batch | None = None
        self._index = 0
        self.over = self._position >= self._end
        """Whether there is none left."""

    async def take(self) -> bytes | None:
        """The next one; None without. Raises NotOurs at a record that no part of this replay wrote."""
        while not self.over:
            batch = self._batch
            if batch is None or self._index >= len(batch):
                await self._read()
                continue
            at, self._index = self._index, self._index + 1
            key = batch.keys[at]
            if key == self._key:
                return batch.values[at]
            if key not in self._ours:
                raise NotOurs
        return None

    async def _read(self) -> None:
        if self._position >= self._end:
            self.over = True
            return
        batch = await self._transport.read(
            self._partition, self._position, records_max=READ_RECORDS_MAX, bytes_max=READ_BYTES_MAX
        )
        if batch.end <= self._position:
            self.over = True  # the rest of the positions has no record
            return
        self._batch, self._index, self._position = batch.before(self._end), 0, batch.end


async def foreign(
    transport: Transport, partition: Partition, start: Position, end: Position, ours: Collection[bytes]
) -> bool:
    """Whether a partition has records whose keys are not ours. Raises PositionLost."""
    position = start
    while position < end:
        batch = await transport.read(partition, position, records_max=READ_RECORDS_MAX, bytes_max=READ_BYTES_MAX)
        if batch.end <= position:
            return False  # the rest of the positions has no record
        if any(key not in ours for key in batch.before(end).keys):
            return True
        position = batch.end
    return False
