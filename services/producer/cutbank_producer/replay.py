"""Replays an input: its records as messages, in the file's order, at its own pace where that is asked for.

Reads in a thread, never ahead: about PORTION_BYTES_MAX of records are in memory. Nothing is
dropped: what is no good record goes out as it stands and lands in the error stream. Event-loop only, but for the reads.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from cutbank.errors import UsageError
from cutbank.pipeline.inputs import Input, InputRecord
from cutbank.records import Message
from cutbank_producer.portions import Portion, round_robin
from cutbank_producer.settings import PARTITION_BY_TICKER, PARTITION_ROUND_ROBIN, ProducerSettings

T = TypeVar("T")

PORTION_BYTES_MAX = 4 << 20
"""Values published at once, bytes; one record may pass it."""

SKIP_RECORDS = 10_000
"""Records read at a time while those that the stream has are passed over."""

TOGETHER_S = 0.02
"""Records whose own times lie so close go out together, when the last is due: none early, none this much late."""

KEY_BYTES_MAX = 256
"""Bytes of a column's value that count as the key, as many as Kinesis takes: equal values still go together."""

TICKER_COLUMN = "tickerSymbol"


def open_source(settings: ProducerSettings) -> Input:
    """The input that the settings name, open but not yet read. Raises UsageError."""
    assert settings.input is not None, "a replay has an input"
    return Input(
        settings.input,
        input_format=settings.input_format,
        delimiter=settings.delimiter,
        key_column=key_column(settings),
        timestamp_column=settings.timestamp_column if settings.pace == "file" else None,
    )


def key_column(settings: ProducerSettings) -> str | None:
    """The column that a replay's keys come from; None: records go to the partitions in turn."""
    if settings.partition_by == PARTITION_ROUND_ROBIN:
        return None
    return TICKER_COLUMN if settings.partition_by == PARTITION_BY_TICKER else settings.partition_by


class Replay:
    """A `Source` that ends with its input. `skip` records are passed over first."""

    def __init__(
        self,
        source: Input,
        *,
        stream: str,
        partition_ids: Sequence[str],
        paced: bool,
        speed: float,
        skip: int = 0,
    ) -> None:
        self._input = source
        self._stream = stream
        self._turns = round_robin(partition_ids)
        self._paced = paced
        self._speed = speed
        self._skip = skip
        self._waiting: deque[InputRecord] = deque()
        self._time_s: float | None = None
        self.skipped = 0
        """Records passed over."""

    @property
    def name(self) -> str:
        """The input's name."""
        return self._input.name

    async def next(self, records_max: int) -> Portion | None:
        """The next records; with the input's own pace only those that are due together."""
        while self._skip:
            passed = await self._read(min(self._skip, SKIP_RECORDS))
            self._skip = self._skip - len(passed) if passed else 0
            self.skipped += len(passed)
        if not self._waiting:
            self._waiting.extend(await self._read(records_max))
        if not self._waiting:
            return None
        taken, offset_s = self._together(records_max) if self._paced else (self._take(records_max), None)
        return Portion(
            messages=[self._message(record) for record in taken],
            records=len(taken),
            offset_s=offset_s,
            lines=[record.line for record in taken],
        )

    async def _read(self, records_max: int) -> list[InputRecord]:
        return await _in_thread(
            lambda: self._input.records(records_max=records_max, bytes_max=PORTION_BYTES_MAX), self._input.stop
        )

    def _take(self, records_max: int) -> list[InputRecord]:
        return [self._waiting.popleft() for _ in range(min(records_max, len(self._waiting)))]

    def _together(self, records_max: int) -> tuple[list[InputRecord], float | None]:
        """Records due within TOGETHER_S of the first, and when the last is due; None: at once.

        Times that go back are due at once, since the order is the file's. A record without a time goes with the one
        before it; those before the first time go with that.
        """
        taken: list[InputRecord] = []
        first_s: float | None = None
        while self._waiting and len(taken) < records_max:
            time_s, last_s = self._waiting[0].time_s, self._time_s
            due_s = last_s if time_s is None else time_s if last_s is None else max(time_s, last_s)
            if due_s is not None:
                first_s = due_s if first_s is None else first_s
                if (due_s - first_s) / self._speed > TOGETHER_S:
                    break
                self._time_s = due_s
            taken.append(self._waiting.popleft())
        return taken, None if self._time_s is None else self._time_s / self._speed

    def _message(self, record: InputRecord) -> Message:
        if record.key is not None:
            return Message(self._stream, record.value, record.key[:KEY_BYTES_MAX])
        return Message(self._stream, record.value, partition_id=next(self._turns))


async def prepare(source: Input, settings: ProducerSettings) -> None:
    """Look at the input's beginning, in a thread, and check what the settings say of it.

    Cancelling ends a wait for a pipe. Raises UsageError.
    """
    await _in_thread(source.prepare, source.stop)
    names, key = source.column_names, key_column(settings)
    if names is not None and key is not None and key not in names and "partition_by" in settings.model_fields_set:
        raise UsageError(
            f"{source.name}: no column {key!r} for PARTITION_BY={settings.partition_by}; "
            f"its columns are {', '.join(names)}"
        )


async def _in_thread(call: Callable[[], T], stop: Callable[[], None]) -> T:
    """Run a blocking read; when cancelled, it is stopped and waited for, since its file must not be closed under it."""
    reading = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait({reading})
        raise
