"""`cutbank streams`: makes, lists and describes streams. Owns their output, as a table or as JSON."""

import asyncio
import math
import re
import sys
from typing import Any

import click
import orjson

from cutbank.cli.connect import log_option, log_url, open_log
from cutbank.errors import UsageError
from cutbank.pipeline.spec import NAME_PATTERN
from cutbank.records import Position, position_text
from cutbank.runtime.command import Command, Group
from cutbank.transports.base import DAY_MS, PartitionInfo, StreamConfig, StreamInfo, Transport

HOUR_MS = 3_600_000
PARTITIONS_MAX = 1000
"""Most partitions of a stream that this command makes."""
RETENTION_HOURS_MAX = 8760
"""Longest retention that this command gives, hours: a year, as in Kinesis."""

_TEXTS = ("name",)
_WIDTH = 1000
"""Of a table that no terminal shows, characters: nothing in it is folded."""

_json = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of a table.")
_name = click.Argument(["name"])


async def _create(url: str, config: StreamConfig) -> tuple[StreamInfo, bool]:
    async with open_log(url, may_create=True) as transport:
        there = config.name in await transport.streams()
        return await transport.ensure(config), not there


async def _list(url: str) -> list[StreamInfo]:
    async with open_log(url, may_create=False) as transport:
        return [await transport.describe(name) for name in await transport.streams()]


async def _describe(url: str, name: str, group: str | None) -> dict[str, Any]:
    async with open_log(url, may_create=False) as transport:
        info = await transport.describe(name)
        return {**_stream(info), "partitions": [await _partition(transport, part, group) for part in info.partitions]}


async def _partition(transport: Transport, info: PartitionInfo, group: str | None) -> dict[str, Any]:
    row = {
        "partition": info.partition.id,
        "oldest": position_text(info.oldest),
        "end": position_text(info.end),
        "positions": _between(info.oldest, info.end),
    }
    if group is not None:
        committed = await transport.committed(group, info.partition)
        row["committed"] = None if committed is None else position_text(committed)
        row["lag"] = _between(info.oldest if committed is None else max(committed, info.oldest), info.end)
    return row


def _stream(info: StreamInfo) -> dict[str, Any]:
    return {"name": info.name, "identity": info.identity, "retention_hours": info.retention_ms / HOUR_MS}


def _summary(info: StreamInfo) -> dict[str, Any]:
    spans = [_between(part.oldest, part.end) for part in info.partitions]
    positions = None if None in spans else sum(span for span in spans if span is not None)
    return {**_stream(info), "partitions": len(info.partitions), "positions": positions}


def _between(start: Position, end: Position) -> int | None:
    """How many positions from `start` up to `end`, where they are plain counters; None where they are not (Kinesis)."""
    texts = position_text(start), position_text(end)
    return None if any("." in text for text in texts) else int(texts[1]) - int(texts[0])


def _print(rows: list[dict[str, Any]], *, empty: str) -> None:
    if not rows:
        click.echo(empty)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name in _TEXTS else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(table)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _print_json(value: Any) -> None:
    click.echo(orjson.dumps(value).decode())


def _run_create(transport_url: str | None, name: str, partitions: int, retention_hours: float) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"stream name {name!r}: 1 to 100 letters, digits, _ . or -, beginning with a letter or digit")
    if math.isnan(retention_hours):
        raise UsageError("--retention-hours nan: give a number of hours")
    url = log_url(click.get_current_context().obj, transport_url)
    config = StreamConfig(name=name, partitions=partitions, retention_ms=round(retention_hours * HOUR_MS))
    info, made = asyncio.run(_create(url, config))
    what = f"{info.name}: {len(info.partitions)} partition(s), {info.retention_ms / HOUR_MS:g} h retention"
    if made:
        click.echo(f"created {what}")
    elif (len(info.partitions), info.retention_ms) == (partitions, config.retention_ms):
        click.echo(f"exists already: {what}")
    else:
        raise UsageError(f"stream exists and is never changed; it has another shape: {what}")


def _run_list(transport_url: str | None, *, as_json: bool) -> None:
    found = asyncio.run(_list(log_url(click.get_current_context().obj, transport_url)))
    rows = [_summary(info) for info in found]
    if as_json:
        _print_json(rows)
    else:
        table = [{name: value for name, value in row.items() if name != "identity"} for row in rows]
        _print(table, empty="no streams yet: services make theirs when they start, or `cutbank streams create NAME`")


def _run_describe(transport_url: str | None, name: str, group: str | None, *, as_json: bool) -> None:
    found = asyncio.run(_describe(log_url(click.get_current_context().obj, transport_url), name, group))
    if as_json:
        _print_json(found)
        return
    click.echo(f"{found['name']}: retention {found['retention_hours']:g} h, identity {found['identity']}")
    _print(found["partitions"], empty="no partitions")


create = Command(
    "create",
    callback=_run_create,
    help="Make a stream. One that exists is left as it is; another shape than asked for is an error.",
    params=[
        _name,
        click.Option(
            ["--partitions"],
            type=click.IntRange(1, PARTITIONS_MAX),
            default=1,
            show_default=True,
            help="How many ordered parts it has.",
        ),
        click.Option(
            ["--retention-hours"],
            type=click.FloatRange(0, RETENTION_HOURS_MAX, min_open=True),
            default=DAY_MS / HOUR_MS,
            show_default=True,
            help="How long records are kept after their arrival, hours.",
        ),
        log_option(),
    ],
    examples=(
        "cutbank streams create trades",
        "cutbank streams create trades --partitions 4 --retention-hours 48",
    ),
)

listing = Command(
    "list",
    callback=_run_list,
    help="List all streams. `positions` counts records, and gaps where the transport has them.",
    params=[_json, log_option()],
    examples=(
        "cutbank streams list",
        "cutbank streams list --json",
        "cutbank streams list --transport-url local:///var/lib/cutbank/log.db",
    ),
)

describe = Command(
    "describe",
    callback=_run_describe,
    help="Show a stream's partitions: the oldest position kept, the end, and with --group how far a group has come.",
    params=[
        _name,
        click.Option(
            ["--group"],
            metavar="TEXT",
            help="Show this group's committed position and lag; groups are named PIPELINE.scorer and PIPELINE.sink.",
        ),
        _json,
        log_option(),
    ],
    examples=(
        "cutbank streams describe trades",
        "cutbank streams describe trades --group anomaly-extractor.scorer",
    ),
)

streams = Group(
    "streams",
    help="Create, list and describe streams.",
    commands=[create, listing, describe],
    examples=("cutbank streams list", "cutbank streams create trades --partitions 4"),
)
