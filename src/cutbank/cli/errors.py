"""`cutbank errors`: lists the bad records, shows one whole, sends them again after a fix. Owns what these print.

Only `redrive` changes anything. What records hold is never obeyed by the terminal: control characters are shown.
"""

import asyncio
import random
import sys
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import click
import orjson

from cutbank.cli.error_views import by_reason, head, opened, told
from cutbank.cli.tables import HIDDEN, print_table
from cutbank.cli.tail import lines, parse_start
from cutbank.clock import SystemClock
from cutbank.errors import CutbankError, StreamError, StreamMissing, UsageError
from cutbank.pipeline.error_records import ErrorRecord, Gone, Original, Originals, error_record
from cutbank.pipeline.redriving import REASONS_BY_DEFAULT, Account, Found, redrive, waiting
from cutbank.pipeline.scoring.decode import Reason
from cutbank.pipeline.scoring.lines import rowtime_text
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Partition, Position, position_from_text
from cutbank.runtime.command import EXIT_FAILED, Command, Group
from cutbank.runtime.options import options
from cutbank.runtime.settings import ServiceSettings
from cutbank.transports.base import Start, Transport

LIMIT_MAX: Final = 1000
"""Most errors that are listed: each may hold 64 KiB of its record in memory."""
_HEX_ROW_BYTES: Final = 16

_HIDDEN_IN_TEXT = {code: shown for code, shown in HIDDEN.items() if chr(code) not in "\n\t"}


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which errors are asked for."""

    pipeline: str
    reasons: frozenset[str]
    """Empty: all."""
    first: str
    """ERROR_TIME at or after this; both as text."""
    last: str
    """ERROR_TIME before this; empty: no end."""

    def has(self, error: ErrorRecord) -> bool:
        if error.pipeline != self.pipeline or (self.reasons and error.reason not in self.reasons):
            return False
        return self.first <= error.time and (not self.last or error.time < self.last)


@dataclass(slots=True)
class _Listing:
    """What a list found."""

    newest: deque[tuple[ErrorRecord, bytes]]
    reasons: Counter[str] = field(default_factory=Counter)
    others: int = 0
    """Lines of other pipelines, or of no scorer."""


async def _find(transport: Transport, spec: PipelineSpec, choice: _Choice, limit: int) -> _Listing:
    found = _Listing(newest=deque(maxlen=limit))
    async for portion in lines(transport, spec.errors, start=Start("earliest"), follow=False, clock=SystemClock()):
        for line in portion:
            error = error_record(line.partition_id, line.position, line.value)
            if error is None or error.pipeline != choice.pipeline:
                found.others += 1
            elif choice.has(error):
                found.newest.append((error, line.value))
                found.reasons[error.reason] += 1
    return found


async def _list(url: str, spec: PipelineSpec, choice: _Choice, limit: int) -> _Listing:
    async with opened(url, spec) as transport:
        return await _find(transport, spec, choice, limit)


def _moment(text: str, option: str) -> str:
    """A time as ERROR_TIME writes it. Raises UsageError."""
    try:
        start = parse_start(text)
    except UsageError:
        start = Start("latest")
    if start.at != "timestamp":
        raise UsageError(f"{option} {text!r}: give a time such as 2026-11-22T23:00:00Z, or ms since the epoch")
    return rowtime_text(start.timestamp_ms)


def _run_list(
    reasons: tuple[str, ...],
    from_text: str | None,
    to_text: str | None,
    limit: int,
    *,
    as_json: bool,
    **given: str | None,
) -> None:
    url, spec = told(given)
    choice = _Choice(
        pipeline=spec.name,
        reasons=frozenset(reasons),
        first="" if from_text is None else _moment(from_text, "--from"),
        last="" if to_text is None else _moment(to_text, "--to"),
    )
    found = asyncio.run(_list(url, spec, choice, limit))
    if as_json:
        for error, line in found.newest:
            click.echo(orjson.dumps({"POSITION": error.place, **orjson.loads(line)}))
        return
    if found.newest:
        header = ("error", "time", "reason", "source", "record", "message")
        print_table(header, ((e.place, e.time, e.reason, e.source_place, head(e), e.message) for e, _ in found.newest))
    total, shown = found.reasons.total(), len(found.newest)
    note = f"; the newest {shown} are shown" if shown < total else ""
    click.echo(f"{total} error(s){': ' * bool(total)}{by_reason(found.reasons)}{note}")
    if found.others:
        click.echo(f"{found.others} line(s) not of pipeline {spec.name} are left out; --spec names another")


async def _show(url: str, spec: PipelineSpec, place: str) -> tuple[ErrorRecord, Original | Gone]:
    async with opened(url, spec) as transport:
        error = await _error_at(transport, spec, place)
        try:
            return error, await Originals(transport).find(error)
        except StreamMissing as missing:
            return error, Gone(str(missing))


async def _error_at(transport: Transport, spec: PipelineSpec, place: str) -> ErrorRecord:
    """The error at `0/17`; `17` where the stream has one partition. Raises UsageError, PositionLost."""
    partitions = {info.partition.id: info for info in (await transport.describe(spec.errors)).partitions}
    partition_id, slash, text = place.rpartition("/")
    if not slash and len(partitions) == 1:
        partition_id = next(iter(partitions))
    try:
        position = position_from_text(text)
        info = partitions[partition_id]
    except (ValueError, KeyError):
        raise UsageError(
            f"{place!r}: give PARTITION/POSITION as `cutbank errors list` shows it, such as 0/17; "
            f"{spec.errors} has the partition(s) {', '.join(partitions)}"
        ) from None
    if position >= info.end:
        raise UsageError(f"{place}: {spec.errors} ends before it; `cutbank errors list` shows what is there")
    error = await _read_error(transport, info.partition, position)
    if error is None:
        raise UsageError(f"{place}: no error line of a scorer is there")
    return error


async def _read_error(transport: Transport, partition: Partition, position: Position) -> ErrorRecord | None:
    batch = await transport.read(partition, position, records_max=1, bytes_max=1)
    if not len(batch) or batch.positions[0] != position:
        return None
    return error_record(partition.id, position, batch.values[0])


def _run_show(place: str, *, raw: bool, **given: str | None) -> None:
    url, spec = told(given)
    error, original = asyncio.run(_show(url, spec, place))
    if raw:
        value = error.head if error.whole else original.value if isinstance(original, Original) else None
        if value is None:
            assert isinstance(original, Gone)
            raise CutbankError(f"{error.place}: the record is not whole: {original.why}")
        sys.stdout.buffer.write(value + b"\n")
        sys.stdout.buffer.flush()
        return
    for name, text in _facts(error, original):
        click.echo(f"{name + ':':10} {text.translate(HIDDEN)}")
    click.echo("")
    click.echo(_payload(original.value if isinstance(original, Original) else error.head))


def _facts(error: ErrorRecord, original: Original | Gone) -> Iterable[tuple[str, str]]:
    yield "error", error.place
    yield "time", error.time
    yield "reason", error.reason
    yield "message", error.message
    yield "pipeline", f"{error.pipeline}, run {error.run}"
    yield "source", f"{error.source_place} of {error.stream}"
    yield "bytes", str(error.size_bytes)
    if isinstance(original, Original):
        key = "no key" if original.key is None else f"key {original.key.decode('utf-8', errors='backslashreplace')}"
        yield "record", f"whole, from the stream, {key}" if original.retained else "whole, from the error line"
    else:
        part = (
            "whole, from the error line" if error.whole else f"the first {len(error.head)} bytes, from the error line"
        )
        yield "record", f"{part}; {original.why}"


def _payload(value: bytes) -> str:
    """As text where it is text, else as hex and ASCII."""
    try:
        return value.decode().translate(_HIDDEN_IN_TEXT)
    except UnicodeDecodeError:
        return "\n".join(map(_hex_row, range(0, len(value), _HEX_ROW_BYTES), _rows(value)))


def _rows(value: bytes) -> Iterable[bytes]:
    return (value[first : first + _HEX_ROW_BYTES] for first in range(0, len(value), _HEX_ROW_BYTES))


def _hex_row(first: int, row: bytes) -> str:
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
    return f"{first:08x}  {row.hex(' '):{3 * _HEX_ROW_BYTES - 1}}  {text}"


def _asked(reasons: tuple[str, ...]) -> frozenset[str]:
    return frozenset(reasons) or REASONS_BY_DEFAULT


def _run_redrive(reasons: tuple[str, ...], *, dry_run: bool, limit: int, **given: str | None) -> int:
    url, spec = told(given)
    account = asyncio.run(_would(url, spec, _asked(reasons), limit) if dry_run else _send(url, spec, _asked(reasons)))
    return EXIT_FAILED if account.gone else 0


async def _send(url: str, spec: PipelineSpec, reasons: frozenset[str]) -> Account:
    account = Account()
    async with opened(url, spec) as transport:
        try:
            await redrive(
                transport,
                spec,
                reasons=reasons,
                account=account,
                clock=SystemClock(),
                rng=random.Random(),
                on_gone=lambda error, why: click.echo(f"{error.place}: not sent: {why}".translate(HIDDEN), err=True),
            )
        except StreamError as error:
            so_far = f"sent before that: {account.sent.total()}; the same command goes on there and repeats nothing"
            raise CutbankError(f"{error} ({so_far})") from error
        finally:
            _say(account, "sent", "can't be sent and are passed by")
    return account


async def _would(url: str, spec: PipelineSpec, reasons: frozenset[str], limit: int) -> Account:
    """The same account, of what a run would do."""
    account, first = Account(), list[Found]()
    async with opened(url, spec) as transport:
        async for found in waiting(transport, spec, reasons=reasons):
            counts = account.gone if isinstance(found.original, Gone) else account.sent
            counts[found.error.reason] += 1
            if len(first) < limit:
                first.append(found)
    if first:
        print_table(("error", "time", "reason", "to", "record", "note"), map(_would_row, first))
    _say(account, "would be sent", "can't be sent and would be passed by")
    if len(first) < account.sent.total() + account.gone.total():
        click.echo(f"the first {len(first)} are shown")
    return account


def _would_row(found: Found) -> tuple[str, ...]:
    error, original = found.error, found.original
    note = original.why if isinstance(original, Gone) else "" if original.retained else "from the error line, no key"
    return error.place, error.time, error.reason, str(error.source), head(error), note


def _say(account: Account, sent: str, gone: str) -> None:
    total = account.sent.total()
    click.echo(f"{total} record(s) {sent}{': ' * bool(total)}{by_reason(account.sent)}")
    if account.gone:
        click.echo(f"{account.gone.total()} record(s) {gone}: {by_reason(account.gone)}")


def _reason_option(meaning: str) -> click.Option:
    choice = click.Choice([reason.value for reason in Reason])
    return click.Option(["--reason", "reasons"], type=choice, multiple=True, metavar="REASON", help=meaning)


def _common() -> list[click.Parameter]:
    return options(ServiceSettings, only={"transport_url", "spec"})


def _limit(meaning: str) -> click.Option:
    return click.Option(["--limit"], type=click.IntRange(1, LIMIT_MAX), default=20, show_default=True, help=meaning)


listing = Command(
    "list",
    callback=_run_list,
    short_help="List the newest bad records, count all by reason.",
    help="""List the newest bad records of the pipeline, the newest last, and count all of them by reason.

    The column `error` is what `cutbank errors show` takes.""",
    params=[
        _reason_option("Only errors with this ERROR_NAME; may be given more than once."),
        click.Option(["--from", "from_text"], metavar="TIME", help="Only of this ERROR_TIME or later; ISO 8601 or ms."),
        click.Option(["--to", "to_text"], metavar="TIME", help="Only of an ERROR_TIME before this."),
        _limit("Show so many, the newest; all are counted."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print each error line with its POSITION, one a line."),
        *_common(),
    ],
    examples=(
        "cutbank errors list",
        "cutbank errors list --reason null_feature --from 2026-11-22T23:00:00Z",
        "cutbank errors list --json --limit 1000 | jq -r .MESSAGE | sort | uniq -c",
    ),
)

show = Command(
    "show",
    callback=_run_show,
    short_help="Show one bad record, whole.",
    help="""Show one bad record: everything about it, and the record itself, as text or as hex.

    A record of which the error line has only the first 64 KiB is read from the source stream, as long as that is
    still the same stream and retains it.""",
    params=[
        click.Argument(["place"], metavar="POSITION"),
        click.Option(["--raw"], is_flag=True, help="Print the record's bytes and a line feed, nothing else; or fail."),
        *_common(),
    ],
    examples=(
        "cutbank errors show 0/17",
        "cutbank errors show 0/17 --raw | sed s/NaN/0/ | cutbank produce --input - --input-format ndjson",
    ),
)

redriving = Command(
    "redrive",
    callback=_run_redrive,
    short_help="Send bad records again after a fix, each once.",
    help="""Send bad records again as they were, each to the partition it came from, after a fix of the spec.

    Each error is sent once, whatever is killed: the next run goes on where the last ended. Errors of other reasons
    than asked for stay for a later run. What fails again is a new error, for the next run. Records that are no
    longer whole anywhere are said, passed by, and make the exit code 1. Without --reason, all reasons but
    anomaly_too_large, whose records the model has learnt already.""",
    params=[
        _reason_option("Only errors with this ERROR_NAME; may be given more than once."),
        click.Option(["--dry-run"], is_flag=True, help="Only show what would be sent."),
        _limit("With --dry-run: show so many, the first; all are counted."),
        *_common(),
    ],
    examples=(
        "cutbank errors redrive --dry-run",
        "cutbank errors redrive --reason missing_feature --spec cutbank.toml",
    ),
)

errors = Group(
    "errors",
    help="List and show bad records, and send them again after a fix.",
    commands=[listing, show, redriving],
    examples=("cutbank errors list", "cutbank errors show 0/17", "cutbank errors redrive --dry-run"),
)
