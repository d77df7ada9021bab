"""`cutbank query`: asks the objects of a period by SQL, and prints table definitions for other engines.

Owns the command's words and exit codes: 0 whole, 1 an object's lines are not in the answer, 2 wrong use. Reads only.
"""

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from pydantic import Field

from cutbank.cli.results import Format, print_result
from cutbank.cli.tables import HIDDEN
from cutbank.cli.times import time_ms
from cutbank.cli.verify import open_root
from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.pipeline.querying import (
    Database,
    Limits,
    Period,
    Progress,
    Request,
    Table,
    Taken,
    anomalies_table,
    errors_table,
    take,
)
from cutbank.pipeline.querying.ddl import ENGINES, definition
from cutbank.pipeline.querying.taking import to_its_end
from cutbank.pipeline.spec import PipelineSpec, load_spec
from cutbank.runtime.command import EXIT_FAILED, Command
from cutbank.runtime.options import options
from cutbank.runtime.settings import ServiceSettings

_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SQL_CHARACTERS_MAX: Final = 1 << 20
"""Longest SQL from standard input, characters."""


class QuerySettings(ServiceSettings):
    """Where the objects are."""

    store_url: str = Field(default="file://data/anomalies", min_length=1)
    """The root that the sink writes to: a folder, file://FOLDER or s3://BUCKET/ROOT; it is only read."""


def parse_period(from_text: str | None, to_text: str | None, last: str | None, *, now_ms: int) -> Period:
    """The period that was asked for. Raises UsageError."""
    if last is not None:
        if from_text is not None or to_text is not None:
            raise UsageError("--last is for itself: it ends now; give --from and --to instead")
        match = re.fullmatch(r"(\d{1,9})([smhd])", last)
        if match is None:
            raise UsageError(f"--last {last!r}: give a number and s, m, h or d, such as 90m or 1h")
        return Period(max(0, now_ms - int(match[1]) * _UNITS_MS[match[2]]), None)
    period = Period(_moment("--from", from_text), _moment("--to", to_text))
    if period.from_ms is not None and period.to_ms is not None and period.from_ms >= period.to_ms:
        raise UsageError(f"--from {from_text} is not before --to {to_text}")
    return period


def _moment(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return time_ms(text)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text!r}: give a time such as 2026-11-22T23:00:00Z, or milliseconds since the epoch"
        ) from None


async def _query(
    url: str,
    sql: str,
    spec: PipelineSpec,
    *,
    pipelines: Sequence[str],
    period: Period,
    limits: Limits,
    read_bytes_max: int,
    form: Format,
    rows_max: int,
) -> Taken | None:
    """Run it and print what it gives; what was read, None where the SQL names no table."""
    with (
        tempfile.TemporaryDirectory(prefix="cutbank-query-") as folder,
        Database((anomalies_table(spec), errors_table()), limits=limits, folder=Path(folder)) as database,
    ):
        tables = database.check(sql)
        _say_renamed(tables)
        taken = None
        if tables:
            streams = {"anomalies": spec.destination, "errors": spec.errors}
            request = Request(
                pipelines=tuple(pipelines) or (spec.name,),
                streams=tuple((streams[table.name], table) for table in tables),
                period=period,
                read_bytes_max=read_bytes_max,
            )
            async with open_root(url) as store:
                with _progress() as show:
                    taken = await take(store, database, request, progress=show)
        result = await to_its_end(asyncio.to_thread(database.run, sql), database.interrupt)
        await print_result(
            result.columns,
            lambda: to_its_end(asyncio.to_thread(next, result.rows, None), database.interrupt),
            form=form,
            rows_max=rows_max,
        )
        return taken


def _say_renamed(tables: Sequence[Table]) -> None:
    for table in tables:
        for column in table.renamed:
            click.echo(
                f"column {column.field} is {column.name} here: SQL knows no capitals".translate(HIDDEN), err=True
            )


def _say_troubles(taken: Taken | None, *, period: Period) -> int:
    """On stderr what the answer lacks; the exit code."""
    if taken is None:
        return 0
    if taken.given_up:
        click.echo(f"{taken.given_up:,} object(s) were given up for lost by accept_lost: not in the answer", err=True)
    if not taken.lines and not taken.troubles_count:
        bounded = period.from_ms is not None or period.to_ms is not None
        click.echo(f"no objects{' of this period' if bounded else ''}: the tables are empty", err=True)
    for trouble in taken.troubles:
        click.echo(f"not in the answer: {trouble.key}: {trouble.why}".translate(HIDDEN), err=True)
    left = taken.troubles_count - len(taken.troubles)
    if left:
        click.echo(f"not in the answer: {left:,} more object(s)", err=True)
    return EXIT_FAILED if taken.troubles_count else 0


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]:,} lines"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("looking for claims", total=None, lines=0)

        def show(now: Progress) -> None:
            bars.update(bar, description="reading", completed=now.bytes, total=now.bytes_max, lines=now.lines)

        yield show


def _sql(text: str | None) -> str:
    if text is None:
        raise UsageError('give SQL, such as "SELECT count(*) FROM anomalies", or --ddl')
    if text == "-":
        text = sys.stdin.read(SQL_CHARACTERS_MAX + 1)
        if len(text) > SQL_CHARACTERS_MAX:
            raise UsageError(f"the SQL is longer than {SQL_CHARACTERS_MAX} characters")
    return text


async def _define(url: str, spec: PipelineSpec, pipelines: Sequence[str], engine: str, *, errors: bool) -> str:
    async with open_root(url) as store:
        return await definition(
            store, spec, pipeline=pipelines[0] if pipelines else spec.name, engine=engine, errors=errors
        )


def _run(
    sql: str | None,
    from_text: str | None,
    to_text: str | None,
    last: str | None,
    pipelines: tuple[str, ...],
    output: Format,
    limit: int,
    ddl: str | None,
    memory_bytes_max: int,
    disk_bytes_max: int,
    read_bytes_max: int,
    *,
    errors: bool,
    **given: str | None,
) -> int:
    environ = click.get_current_context().obj or {}
    known = {name: environ[name] for name in map(QuerySettings.environment_name, given) if name in environ}
    settings = QuerySettings.load(known, **given)
    spec = load_spec(settings.spec)
    if ddl is not None:
        if sql is not None or from_text is not None or to_text is not None or last is not None:
            raise UsageError("--ddl defines tables of all objects: give it without SQL, --from, --to and --last")
        if len(pipelines) > 1:
            raise UsageError("--ddl is for one --pipeline at a time")
        click.echo(asyncio.run(_define(settings.store_url, spec, pipelines, ddl, errors=errors)))
        return 0
    if errors:
        raise UsageError("--errors is for --ddl: SQL names the table errors itself")
    period = parse_period(from_text, to_text, last, now_ms=SystemClock().now_ms())
    taken = asyncio.run(
        _query(
            settings.store_url,
            _sql(sql),
            spec,
            pipelines=pipelines,
            period=period,
            limits=Limits(
                memory_bytes_max=memory_bytes_max, disk_bytes_max=disk_bytes_max, threads=os.cpu_count() or 1
            ),
            read_bytes_max=read_bytes_max,
            form=output,
            rows_max=limit,
        )
    )
    return _say_troubles(taken, period=period)


def _bytes_option(name: str, meaning: str, *, default: int, least: int) -> click.Option:
    return click.Option([name], type=click.IntRange(least, 1 << 50), default=default, show_default=True, help=meaning)


query = Command(
    "query",
    callback=_run,
    help="""Ask the objects that a sink has written by SQL: the tables anomalies and errors, of a period.

    A row is in the period when its ROWTIME lies in it (of errors: ERROR_TIME); times are UTC. Columns have the spec's
    types; what does not fit its column is null there and stands in OTHER_FIELDS. One SELECT, by DuckDB (pip install
    'cutbank[query]'), which reaches nothing else. Exit code 1 if an object's lines are not in the answer, which stderr
    says. With --ddl: print the definition of tables over all objects for another engine.""",
    params=[
        click.Argument(["sql"], required=False),
        click.Option(
            ["--from", "from_text"],
            metavar="TIME",
            help="Only rows from here on; ISO 8601, UTC unless it says otherwise, or milliseconds since the epoch.",
        ),
        click.Option(["--to", "to_text"], metavar="TIME", help="Only rows before this time."),
        click.Option(["--last"], metavar="SPAN", help="Only rows of the last 90s, 30m, 1h, 7d."),
        click.Option(
            ["--format", "output"],
            type=click.Choice(["table", "csv", "json"]),
            default="table",
            show_default=True,
            help="table: for people, the first rows. csv: with a header. json: an object a line. These have all rows.",
        ),
        click.Option(
            ["--limit"],
            type=click.IntRange(1, 100_000),
            default=100,
            show_default=True,
            help="With --format table: show so many rows; all are counted.",
        ),
        click.Option(
            ["--pipeline", "pipelines"],
            multiple=True,
            metavar="NAME",
            help="Read this pipeline's objects; may be given more than once.  [default: the spec's]",
        ),
        click.Option(["--ddl"], type=click.Choice(ENGINES), help="Print table definitions for this engine."),
        click.Option(["--errors"], is_flag=True, help="With --ddl: the table of the errors, too."),
        _bytes_option(
            "--memory-bytes-max",
            "Most memory of tables and query; beyond, they go to the temporary folder (TMPDIR).",
            default=1 << 30,
            least=64 << 20,
        ),
        _bytes_option("--disk-bytes-max", "Most that goes there.", default=8 << 30, least=0),
        _bytes_option("--read-bytes-max", "Most bytes of lines that are read.", default=8 << 30, least=1),
        *options(QuerySettings, only={"store_url", "spec"}),
    ],
    examples=(
        'cutbank query "SELECT count(*), max(ANOMALY_SCORE) FROM anomalies" --last 1h',
        'cutbank query "FROM anomalies ORDER BY ANOMALY_SCORE DESC LIMIT 10" --from 2026-11-22 --to 2026-11-23',
        'cutbank query "SELECT * FROM anomalies" --last 1d --format csv --store-url s3://bucket/root',
        "cutbank query --ddl athena --store-url s3://bucket/root",
    ),
)
