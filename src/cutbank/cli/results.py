"""Results of queries as they are printed: a table for people, CSV and JSON for programs. Owns how a value is written.

Times are ISO 8601 with a Z, as --from and --to take them. What rows hold is never obeyed by a terminal. Rows come a
portion at a time; only a table keeps any. Event-loop only.
"""

import csv
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

import click
import orjson

from cutbank.cli.tables import HIDDEN

Format = Literal["table", "csv", "json"]
Portion = Sequence[Sequence[Any]]

_WIDTH: Final = 1000
"""Of a table that no terminal shows, characters: nothing in it is folded."""

_NESTED_WIDTH_MIN: Final = 8
"""A nested value's column on a terminal, characters at least, however many columns there are."""

_PLAN: Final = ("explain_key", "explain_value")
"""The columns of an EXPLAIN, whose value is a drawing of lines."""

_INTEGER_END: Final = 1 << 63


async def print_result(
    columns: Sequence[str], rows: Callable[[], Awaitable[Portion | None]], *, form: Format, rows_max: int
) -> None:
    """Print all portions that `rows` gives until None; of a table the first `rows_max` rows, and how many more."""
    if form == "table":
        await _print_table(columns, rows, rows_max)
        return
    write = _csv_writer(columns) if form == "csv" else _json_writer(columns)
    while (portion := await rows()) is not None:
        write(portion)
    sys.stdout.flush()


async def _print_table(columns: Sequence[str], rows: Callable[[], Awaitable[Portion | None]], rows_max: int) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown: list[Sequence[Any]] = []
    count = 0
    while (portion := await rows()) is not None:
        count += len(portion)
        shown += portion[: rows_max - len(shown)]
    if tuple(columns) == _PLAN:
        for _, plan in shown:
            click.echo("\n".join(line.translate(HIDDEN) for line in text(plan).splitlines()))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    cells = [[text(value).translate(HIDDEN) for value in row] for row in shown]
    widths = [
        max(map(cell_len, (name.translate(HIDDEN), *(row[number] for row in cells))))
        for number, name in enumerate(columns)
    ]
    grid = Table(box=None, header_style="bold", pad_edge=False)
    nested = [number for number in range(len(columns)) if any(isinstance(row[number], dict | list) for row in shown)]
    # What the other columns and the gaps leave, shared: a record is one line on a wide terminal, and a few on any.
    left = console.width - 2 * (len(columns) - 1) - sum(widths) + sum(widths[number] for number in nested)
    for number, name in enumerate(columns):
        numeric = all(isinstance(row[number], int | float | Decimal) for row in shown if row[number] is not None)
        grid.add_column(
            Text(name.translate(HIDDEN)),
            justify="right" if shown and numeric else "left",
            overflow="ellipsis" if number in nested else "fold",
            no_wrap=number in nested,
            max_width=max(_NESTED_WIDTH_MIN, left // len(nested)) if number in nested else None,
        )
    for row in cells:
        grid.add_row(*map(Text, row))
    console.print(grid)
    if count > len(shown):
        click.echo(f"… and {count - len(shown):,} more row(s): --limit shows more, --format csv or json all of them")


def _csv_writer(columns: Sequence[str]) -> Callable[[Portion], None]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    hide = {code: shown for code, shown in HIDDEN.items() if chr(code) not in "\r\n\t"} if sys.stdout.isatty() else {}
    writer.writerow(columns)

    def write(portion: Portion) -> None:
        writer.writerows([["" if v is None else text(v).translate(hide) for v in row] for row in portion])

    return write


def _json_writer(columns: Sequence[str]) -> Callable[[Portion], None]:
    names = _unique(columns)

    def write(portion: Portion) -> None:
        lines = [orjson.dumps(dict(zip(names, map(plain, row), strict=True))).decode() for row in portion]
        click.echo("\n".join(lines))

    return write


def _unique(names: Sequence[str]) -> list[str]:
    """No key twice in an object: the second `a` is `a_2`."""
    found: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in found:
            number += 1
            unique = f"{name}_{number}"
        found.append(unique)
    return found


def text(value: Any) -> str:
    """A value in a table or CSV."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value)
    found = plain(value)
    return found if isinstance(found, str) else orjson.dumps(found).decode()


def plain(value: Any) -> Any:
    """A value in JSON: numbers with all their digits, nested values nested, anything else as text."""
    if value is None or isinstance(value, bool | str | float):
        return value
    for kinds, write in _WRITERS:
        if isinstance(value, kinds):
            return write(value)
    return str(value)


def _integer(value: int) -> Any:
    return value if -_INTEGER_END <= value < _INTEGER_END else orjson.Fragment(str(value))


def _decimal(value: Decimal) -> Any:
    return orjson.Fragment(f"{value:f}") if value.is_finite() else None


def _members(value: dict[Any, Any]) -> dict[str, Any]:
    return {name if isinstance(name, str) else text(name): plain(item) for name, item in value.items()}


def _moment(value: datetime) -> str:
    """As ROWTIME is written: milliseconds, more digits only where there are any."""
    moment = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="microseconds" if moment.microsecond % 1000 else "milliseconds") + "Z"


def _span(value: timedelta) -> str:
    """Seconds, with all digits: an interval of weeks is no rarity."""
    whole, rest = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
    digits = f".{rest:06d}".rstrip("0").rstrip(".")
    return f"{'-' if value < timedelta() else ''}{whole}{digits}s"


_WRITERS: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (int, _integer),
    (Decimal, _decimal),
    (datetime, _moment),
    (dict, _members),
    (list | tuple, lambda value: [plain(item) for item in value]),
    (bytes | bytearray | memoryview, lambda value: bytes(value).hex()),
    (date | time, lambda value: value.isoformat()),
    (timedelta, _span),
)
