"""`cutbank tail`: prints a stream's records as lines, read without a group, so that no service notices.

Records of all partitions are merged by arrival time; a partition's own order always holds. At most one batch a
partition is in memory. Event-loop only.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import click

from cutbank.cli.connect import log_option, log_url, open_log
from cutbank.cli.tables import HIDDEN
from cutbank.cli.times import time_ms
from cutbank.clock import Clock, SystemClock
from cutbank.errors import PositionLost, UsageError
from cutbank.records import Batch, Position, position_text
from cutbank.runtime.command import Command
from cutbank.transports.base import PartitionInfo, Start, Transport

BATCH_RECORDS_MAX = 1000
BATCH_BYTES_MAX = 1 << 20
OVERTAKEN_MAX = 5
"""How often in a row retention may overtake a read before it is an error."""
POLL_S = 0.2
"""Between two looks for new records when following, seconds."""


@dataclass(frozen=True, slots=True)
class Line:
    """One record, and where it lies."""

    partition_id: str
    position: Position
    arrival_ms: int
    key: bytes | None
    value: bytes


@dataclass(slots=True)
class _Reader:
    """One partition's way through the stream; `until` None: without end."""

    info: PartitionInfo
    next_position: Position
    until: Position | None
    batch: Batch | None = None
    index: int = 0

    @property
    def done(self) -> bool:
        return self.until is not None and self.next_position >= self.until

    @property
    def waiting(self) -> bool:
        return self.batch is not None and self.index < len(self.batch)

    @property
    def arrival_ms(self) -> int:
        assert self.batch is not None
        return self.batch.arrivals_ms[self.index]

    async def fill(self, transport: Transport) -> None:
        """Read on, past retention if it has overtaken us: the next record is the oldest one kept."""
        partition = self.info.partition
        for attempt in range(1, OVERTAKEN_MAX + 1):
            try:
                batch = await transport.read(
                    partition, self.next_position, records_max=BATCH_RECORDS_MAX, bytes_max=BATCH_BYTES_MAX
                )
                break
            except PositionLost:
                if attempt == OVERTAKEN_MAX:
                    raise
                self.next_position = await transport.position_at(partition, Start("earliest"))
        if self.until is not None:
            batch = batch.before(self.until)
        self.batch, self.index = batch, 0
        self.next_position = batch.end
        if not batch.positions and self.until is not None:
            self.next_position = max(self.until, self.next_position)

    def take(self) -> Line:
        assert self.batch is not None
        batch, index = self.batch, self.index
        self.index += 1
        return Line(
            partition_id=batch.partition.id,
            position=batch.positions[index],
            arrival_ms=batch.arrivals_ms[index],
            key=batch.keys[index],
            value=batch.values[index],
        )


async def lines(
    transport: Transport, stream: str, *, start: Start, follow: bool, clock: Clock
) -> AsyncIterator[list[Line]]:
    """The stream's records from `start`, in portions: what is there now, and if `follow`, what comes, without end."""
    info = await transport.describe(stream)
    readers = [
        _Reader(
            info=part,
            next_position=await transport.position_at(part.partition, start),
            until=None if follow else part.end,
        )
        for part in info.partitions
    ]
    while True:
        for reader in readers:
            if not reader.waiting and not reader.done:
                await reader.fill(transport)
        portion = _merged(readers)
        if portion:
            yield portion
        elif all(reader.done for reader in readers):
            return
        else:
            await clock.sleep(POLL_S)


def _merged(readers: list[_Reader]) -> list[Line]:
    """By arrival, until a partition that may have more has run out: what it has next could come first."""
    portion: list[Line] = []
    waiting = [reader for reader in readers if reader.waiting]
    while waiting:
        first = min(waiting, key=lambda reader: reader.arrival_ms)
        portion.append(first.take())
        if not first.waiting:
            break
    return portion


def parse_start(text: str) -> Start:
    """`earliest`, `latest`, ISO 8601 (UTC unless it names an offset) or ms since the epoch. Raises UsageError."""
    if text in ("earliest", "latest"):
        return Start("earliest" if text == "earliest" else "latest")
    try:
        return Start("timestamp", timestamp_ms=max(0, time_ms(text)))
    except ValueError:
        raise UsageError(
            f"--from {text!r}: give earliest, latest, a time such as 2026-11-22T23:00:00Z, or ms since the epoch"
        ) from None


def render(line: Line, *, stream: str, verbose: bool, terminal: bool) -> bytes:
    """A record's line. On a terminal control characters are shown, not obeyed; elsewhere the value is as it came."""
    value = _shown(line.value) if terminal else line.value
    if not verbose:
        return value + b"\n"
    arrival = datetime.fromtimestamp(line.arrival_ms / 1000, UTC).isoformat(timespec="milliseconds")
    key = b"-" if line.key is None else _shown(line.key)
    where = f"{stream}/{line.partition_id}\t{position_text(line.position)}\t{arrival.replace('+00:00', 'Z')}"
    return b"\t".join((where.encode(), key, value)) + b"\n"


def _shown(raw: bytes) -> bytes:
    """As text without control characters, tabs among them: a tab separates columns."""
    return raw.decode("utf-8", errors="backslashreplace").translate(HIDDEN).encode()


async def _tail(url: str, stream: str, *, start: Start, count: int | None, follow: bool, verbose: bool) -> None:
    out, terminal, left = sys.stdout.buffer, sys.stdout.isatty(), count
    async with open_log(url, may_create=False) as transport:
        async for portion in lines(transport, stream, start=start, follow=follow, clock=SystemClock()):
            shown = list(islice(portion, left))
            out.write(b"".join(render(line, stream=stream, verbose=verbose, terminal=terminal) for line in shown))
            out.flush()
            if left is not None:
                left -= len(shown)
                if left <= 0:
                    return


def _run(
    transport_url: str | None, stream: str, from_text: str, count: int | None, *, follow: bool, verbose: bool
) -> None:
    url = log_url(click.get_current_context().obj, transport_url)
    start = parse_start(from_text)
    asyncio.run(_tail(url, stream, start=start, count=count, follow=follow, verbose=verbose))


tail = Command(
    "tail",
    callback=_run,
    help="""Print a stream's records, one a line, as they are.

    Without --follow it ends where the stream ended when it began; with it, Ctrl-C ends it. Reading takes nothing
    away from the services.""",
    params=[
        click.Argument(["stream"]),
        click.Option(
            ["--from", "from_text"],
            default="earliest",
            show_default=True,
            metavar="earliest|latest|TIME",
            help="Where to begin; TIME is ISO 8601, UTC unless it says otherwise, or milliseconds since the epoch.",
        ),
        click.Option(["--count"], type=click.IntRange(1), help="End after this many records; default: no limit."),
        click.Option(
            ["--follow/--no-follow"], default=False, show_default=True, help="Wait for records that are still to come."
        ),
        click.Option(
            ["--verbose"],
            is_flag=True,
            help="Before each value: stream/partition, position, arrival and key, separated by tabs.",
        ),
        log_option(),
    ],
    examples=(
        "cutbank tail anomalies",
        "cutbank tail anomalies --follow --from latest",
        "cutbank tail errors --count 10 --verbose",
        "cutbank tail trades --from 2026-11-22T23:00:00Z | head",
    ),
)
