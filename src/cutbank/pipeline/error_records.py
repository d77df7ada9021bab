"""Reads the lines of an error stream, and finds the records that they are about. Owns what a line means.

An original is taken from the source stream where that is still the same stream and retains it, whole and with its
key; else from the error line, which holds its first bytes. What is not whole is never passed off as the original.
Event-loop only.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson

from cutbank.errors import PositionLost
from cutbank.pipeline.scoring.lines import stream_text
from cutbank.records import Batch, Partition, Position, position_from_text, position_text
from cutbank.transports.base import StreamInfo, Transport

READ_RECORDS_MAX = 500
"""Error lines in memory at a time; each holds up to 64 KiB of its record, in hex."""
READ_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """A line of the error stream."""

    partition_id: str
    """Where the line itself lies in the error stream."""
    position: Position
    time: str
    """ERROR_TIME: the record's ROWTIME, as text; such texts sort by time."""
    reason: str
    message: str
    pipeline: str
    stream: str
    """The source stream as SOURCE names it: `trades@1f2e3d4c`."""
    run: int
    source_partition: str
    source_position: Position
    head: bytes
    """The record's first bytes."""
    size_bytes: int
    """Of the whole record."""

    @property
    def place(self) -> str:
        """Where the line lies, as `errors show` takes it: `0/17`."""
        return f"{self.partition_id}/{position_text(self.position)}"

    @property
    def source(self) -> Partition:
        """The partition that the record came from."""
        return Partition(self.stream.rpartition("@")[0], self.source_partition)

    @property
    def source_place(self) -> str:
        """Where the record lies or lay: `trades/0/123`."""
        return f"{self.source}/{position_text(self.source_position)}"

    @property
    def whole(self) -> bool:
        """Whether `head` is all of the record."""
        return len(self.head) == self.size_bytes


def error_record(partition_id: str, position: Position, line: bytes) -> ErrorRecord | None:
    """A line of an error stream, understood; None for what no scorer wrote."""
    try:
        row = orjson.loads(line)
        source = row["SOURCE"]
        record = ErrorRecord(
            partition_id=partition_id,
            position=position,
            time=_text(row["ERROR_TIME"]),
            reason=_text(row["ERROR_NAME"]),
            message=_text(row["MESSAGE"]),
            pipeline=_text(source["pipeline"]),
            stream=_text(source["stream"]),
            run=_number(source["run"]),
            source_partition=_text(source["partition"]),
            source_position=position_from_text(_text(source["position"])),
            head=bytes.fromhex(_text(row["DATA_ROW"])),
            size_bytes=_number(row["DATA_BYTES"]),
        )
    except (ValueError, KeyError, TypeError):  # orjson's own error is a ValueError
        return None
    return record if record.source.stream and len(record.head) <= record.size_bytes else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a string is wanted, not {value!r}")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a whole number is wanted, not {value!r}")
    return value


async def batches(transport: Transport, partition: Partition, start: Position, end: Position) -> AsyncIterator[Batch]:
    """What a partition retains from `start` up to `end`, a batch in memory. Raises PositionLost."""
    position = start
    while position < end:
        batch = await transport.read(partition, position, records_max=READ_RECORDS_MAX, bytes_max=READ_BYTES_MAX)
        if batch.end <= position:
            return  # the rest of the positions up to `end` has no records
        yield batch.before(end)
        position = batch.end


@dataclass(frozen=True, slots=True)
class Original:
    """A bad record, whole, as it was sent."""

    value: bytes
    key: bytes | None
    """None where it had none, and where only the error line is left, which does not hold it."""
    retained: bool
    """Whether it was read from the source stream."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Why there is no original, or nowhere to send it; for people."""

    why: str


class Originals:
    """Finds originals. Remembers what the source streams are, so one of these serves one command, not a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._streams: dict[str, StreamInfo] = {}

    async def find(self, error: ErrorRecord) -> Original | Gone:
        """The whole record. Raises StreamMissing where the source stream is not there at all."""
        name = error.source.stream
        if name not in self._streams:
            self._streams[name] = await self._transport.describe(name)
        info = self._streams[name]
        if stream_text(name, info.identity) != error.stream:
            return Gone(f"it is of another stream that had the name {name} before")
        if error.source.id not in info.partition_ids:
            return Gone(f"stream {name} has no partition {error.source.id} any more")
        found = await self._retained(error)
        if found is not None:
            return found
        if error.whole:
            return Original(error.head, None, retained=False)
        return Gone(
            f"it is no longer in {name}, and the error line has only the first {len(error.head)} of its "
            f"{error.size_bytes} bytes"
        )

    async def _retained(self, error: ErrorRecord) -> Original | None:
        """The record as the source stream has it, if that is what the error line is about."""
        try:
            batch = await self._transport.read(error.source, error.source_position, records_max=1, bytes_max=1)
        except PositionLost:
            return None
        if not len(batch) or batch.positions[0] != error.source_position:
            return None
        value = batch.values[0]
        same = len(value) == error.size_bytes and value.startswith(error.head)
        return Original(value, batch.keys[0], retained=True) if same else None
