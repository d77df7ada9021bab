"""`cutbank replay`: scores a stretch of the retained source again into another stream. Owns what the command says.

What it found out is said before the first record is scored, what it did after the last one. The live pipeline's group
and state store are only read.
"""

import asyncio
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import click
from pydantic import Field

from cutbank.cli.connect import open_log
from cutbank.cli.error_views import by_reason
from cutbank.cli.tables import HIDDEN
from cutbank.cli.times import time_ms
from cutbank.clock import Clock, SystemClock
from cutbank.errors import CutbankError, StoreUnavailable, StreamError, UsageError
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.replaying import WARM_UP_RECORDS_MAX, Account, Plan, Request, prepare, replay
from cutbank.pipeline.scoring.model import Emit
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.spec import PipelineSpec, load_spec
from cutbank.runtime.command import Command
from cutbank.runtime.options import options
from cutbank.runtime.settings import ServiceSettings
from cutbank.transports.base import Start


class ReplaySettings(ServiceSettings):
    """Where the live pipeline keeps what it knows."""

    state_url: str = Field(default="file://data/state", min_length=1)
    """The scorer's object store of births and snapshots, only read: file://FOLDER."""


_TOLD: Final = ("transport_url", "spec", "state_url")

LINES_S = 30.0
"""Seconds between two lines about how far it is, where stderr is no terminal."""


def _moment(option: str, text: str) -> int:
    try:
        return max(0, time_ms(text))
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text!r}: give a time such as 2026-11-22T23:00:00Z, or ms since the epoch"
        ) from None


def _request(*, from_text: str, to_text: str | None, output: str, warm_up: int | None, emit: Emit) -> Request:
    """What was asked for. Raises UsageError."""
    start = Start("earliest") if from_text == "earliest" else Start("timestamp", _moment("--from", from_text))
    to_ms = None if to_text is None else _moment("--to", to_text)
    if to_ms is not None and start.at == "timestamp" and start.timestamp_ms >= to_ms:
        raise UsageError(f"--from {from_text} is not before --to {to_text}")
    return Request(output=output, start=start, to_ms=to_ms, warm_up=warm_up, emit=emit)


async def _state(url: str, spec: PipelineSpec, stack: AsyncExitStack, *, named: bool) -> StateRoom | None:
    """The live pipeline's state; None where nobody named one and the default is not there. Makes none."""
    path = Path(unquote(url.removeprefix("file://"))) if url.startswith("file://") else None
    if path is not None and not path.is_dir():
        if named:
            raise UsageError(f"--state-url {url}: no such folder; it is the one that `cutbank score` writes to")
        return None
    store = await stack.enter_async_context(open_store(url, clock=SystemClock(), metrics=NoMetrics()))
    return StateRoom(store, pipeline=spec.name, stream=spec.source)


async def _replay(url: str, state_url: str, spec: PipelineSpec, request: Request, *, state_named: bool) -> Account:
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(open_log(url, may_create=False))
        state = await _state(state_url, spec, stack, named=state_named)
        plan = await prepare(transport, state, spec, request)
        _say_plan(plan)
        account = Account()
        try:
            with _progress(account) as show:
                await replay(
                    transport,
                    plan,
                    account=account,
                    clock=SystemClock(),
                    rng=random.Random(),
                    threads=min(len(plan.parts), os.cpu_count() or 1),
                    on_step=show,
                )
        except (StreamError, StoreUnavailable) as error:
            raise CutbankError(f"{error} (the same command goes on there and repeats nothing)") from error
        finally:
            _say(plan, account)
        return account


def _say_plan(plan: Plan) -> None:
    for part in plan.parts:
        origin, partition = part.origin, part.stretch.partition
        click.echo(f"{partition} {origin}".translate(HIDDEN))
        if origin.short:
            click.echo(f"{partition} has {origin.short:,} record(s) fewer before --from than --warm-up asks for")


def _say(plan: Plan, account: Account) -> None:
    total = account.total
    click.echo(f"{total('learnt'):,} record(s) learnt before --from, {total('scored'):,} scored")
    there = total("lines") - total("published")
    before = f", {there:,} were there already" if there else ""
    what = "score(s)" if plan.request.emit == "all" else "anomalies"
    click.echo(f"{total('published'):,} {what} published to {plan.request.output}{before}")
    errors = account.errors
    if errors:
        click.echo(f"{errors.total():,} bad record(s), which have no line: {by_reason(errors)}")


@contextmanager
def _progress(account: Account) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines(account, SystemClock()).show
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("waiting for the partitions", total=1.0, records=0)

        def show() -> None:
            what, records = _doing(account)
            bars.update(bar, description=what, completed=account.share, records=records)

        yield show


def _doing(account: Account) -> tuple[str, int]:
    """What it is at, and how many records it has gone through."""
    scored = account.total("scored") + account.errors.total()
    return ("scoring" if scored else "learning"), account.total("learnt") + scored


class _Lines:
    """Says on stderr how far it is, every `LINES_S`: for logs and pipes."""

    def __init__(self, account: Account, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        self._due_s = clock.monotonic_s() + LINES_S

    def show(self) -> None:
        """After each step."""
        if (now_s := self._clock.monotonic_s()) >= self._due_s:
            self._due_s = now_s + LINES_S
            what, records = _doing(self._account)
            click.echo(f"{what}: {self._account.share:.0%}, {records:,} records", err=True)


def _run(
    from_text: str, to_text: str | None, output: str, warm_up: int | None, emit: Emit, **given: str | None
) -> None:
    request = _request(from_text=from_text, to_text=to_text, output=output, warm_up=warm_up, emit=emit)
    environ: Mapping[str, str] = click.get_current_context().obj or {}
    names = {name: ReplaySettings.environment_name(name) for name in _TOLD}
    known = {variable: environ[variable] for variable in names.values() if variable in environ}
    told = ReplaySettings.load(known, **given)
    named = given["state_url"] is not None or names["state_url"] in environ
    asyncio.run(_replay(told.transport_url, told.state_url, load_spec(told.spec), request, state_named=named))


replaying = Command(
    "replay",
    callback=_run,
    short_help="Score a stretch of the source again, into another stream.",
    help="""Score a stretch of the retained source again, with the same or another spec, into another stream.

    Says of each partition whether the model begins where the live one did. With the live spec and state it does, from
    the newest snapshot before --from or from the run's birth, and scores are bit-identical to the live ones; else, and
    with --warm-up, it begins empty. The live pipeline is not touched. Killed and run again, it adds what is missing,
    without repeats; an output stream that holds anything else is refused. Bad records are counted.""",
    params=[
        click.Option(
            ["--from", "from_text"],
            metavar="TIME",
            required=True,
            help="Records that arrived from here on: ISO 8601, UTC unless it says otherwise, ms since the epoch, or "
            "earliest.",
        ),
        click.Option(
            ["--to", "to_text"], metavar="TIME", help="Only records that arrived before this.  [default: all now there]"
        ),
        click.Option(["--output"], metavar="STREAM", required=True, help="The stream for the lines; made if need be."),
        click.Option(
            ["--warm-up"],
            type=click.IntRange(0, WARM_UP_RECORDS_MAX),
            help="Begin with an empty model that learns so many records before --from, of each partition, without "
            "output.",
        ),
        click.Option(
            ["--emit"],
            type=click.Choice(["anomalies", "all"]),
            default="anomalies",
            show_default=True,
            help="all: a line for every record that has a score.",
        ),
        *options(ReplaySettings, only=set(_TOLD)),
    ],
    examples=(
        "cutbank replay --from 2026-11-22T23:00:00Z --to 2026-11-23T00:00:00Z --output last-night",
        "cutbank replay --from earliest --spec stricter.toml --warm-up 5000 --output stricter",
    ),
)
