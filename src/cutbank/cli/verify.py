"""`cutbank verify`: audits a root of objects, and with a log beside it, proves that no anomaly is missing.

Owns the command's words: its table, its exit code. Reads only, so it may run beside the services.
"""

import asyncio
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import click

from cutbank.cli.connect import open_log
from cutbank.cli.tables import HIDDEN, Cell, print_table
from cutbank.cli.times import time_ms, time_text
from cutbank.clock import SystemClock
from cutbank.errors import SnapshotUnusable, UsageError
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.objects.base import ObjectStore
from cutbank.objects.patient import PatientStore
from cutbank.pipeline.findings import Finding
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.spec import PipelineSpec, load_spec
from cutbank.pipeline.verifying import ChainAccount, Fault, Log, Progress, Proof, Scope, Verdict, is_root
from cutbank.pipeline.verifying import verify as verify_root
from cutbank.pipeline.verifying.contents import CLOCKS_APART_MS
from cutbank.runtime.command import EXIT_FAILED, Command
from cutbank.runtime.settings import ServiceSettings

CLAIMS_FOLDER: Final = "_cutbank/"

THREAD_SWITCH_S: Final = 0.0005
"""How long a thread that checks may keep the others waiting, seconds; Python's own 5 ms is a socket's every wait."""


def open_root(text: str) -> ObjectStore:
    """The store that a folder or a URL names, which has to be there already. Raises UsageError."""
    path = None if "://" in text else Path(text)
    if text.startswith("file://"):
        path = Path(unquote(text.removeprefix("file://")))
    if path is not None and not path.is_dir():
        raise UsageError(f"{text}: no such folder")
    url = text if "://" in text else f"file://{quote(text)}"
    clock = SystemClock()
    return PatientStore(open_store(url, clock=clock, metrics=NoMetrics()), clock=clock, rng=random.Random())


def parse_scope(from_text: str | None, to_text: str | None) -> Scope:
    """The span of time to audit. Raises UsageError."""
    bounds = []
    for option, text in (("--from", from_text), ("--to", to_text)):
        try:
            bounds.append(None if text is None else time_ms(text))
        except (ValueError, OverflowError):
            raise UsageError(
                f"{option} {text!r}: give a time such as 2026-11-22T23:00:00Z, or milliseconds since the epoch"
            ) from None
    if bounds[0] is not None and bounds[1] is not None and bounds[0] >= bounds[1]:
        raise UsageError(f"--from {from_text} is not before --to {to_text}")
    return Scope(*bounds)


async def _verify(
    root: str,
    scope: Scope,
    *,
    stream: str | None,
    state: str | None,
    spec: PipelineSpec,
    clocks_apart_ms: int,
    show: Callable[[Progress], None],
) -> Verdict:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_root(root))
        if not await is_root(store):
            raise UsageError(f"{store.url}: no {CLAIMS_FOLDER} in it: give the root that a sink writes to")
        log = None
        if stream is not None:
            transport = await stack.enter_async_context(open_log(stream, may_create=False, named_with="--stream"))
            room = None
            if state is not None:
                state_store = await stack.enter_async_context(open_root(state))
                room = await _room(state_store, spec)
            log = Log(transport, spec, room)
        return await verify_root(store, scope=scope, log=log, clocks_apart_ms=clocks_apart_ms, progress=show)


async def _room(store: ObjectStore, spec: PipelineSpec) -> StateRoom:
    """The state store, which has to know the pipeline: with a wrong one everything would be beyond proof."""
    room = StateRoom(store, pipeline=spec.name, stream=spec.source)
    try:
        known = await room.stream_birth()
    except SnapshotUnusable as error:
        raise UsageError(f"{store.url}: {error}") from None
    if known is None:
        raise UsageError(f"{store.url}: no births of pipeline {spec.name!r} on stream {spec.source!r}; see --spec")
    return room


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), rate)
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        listed = bars.add_task("claims listed", total=None, rate="")
        claims = bars.add_task("claims", total=None, visible=False, start=False, rate="")
        files = bars.add_task("files", total=None, visible=False, rate="")
        replay = bars.add_task("anomalies replayed", total=None, visible=False, rate="")

        def show(now: Progress) -> None:
            bars.update(listed, completed=now.listed, visible=not now.claims_max)
            if now.claims_max:
                bars.start_task(claims)
                elapsed_s = bars.tasks[claims].elapsed or 0.0
                said = f"{now.lines:,} lines, {now.lines / elapsed_s:,.0f}/s" if elapsed_s else ""
                bars.update(claims, completed=now.claims, total=now.claims_max, visible=True, rate=said)
            bars.update(files, completed=now.files, visible=now.files > 0)
            bars.update(replay, completed=now.foretold, visible=now.foretold > 0)

        yield show


@contextmanager
def _threads_by_turns() -> Iterator[None]:
    """Reading waits for the interpreter while lines are checked in a thread: not for long."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(THREAD_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


_CHAIN_HEADER: Final = ("chain", "from", "to", "claims", "objects", "lines", "bytes", "given up", "nobody's lines")
_FINDING_HEADER: Final = ("fault", "what", "where", "count")


def _chain_row(account: ChainAccount) -> tuple[Cell, ...]:
    first, last = account.minute_first_ms, account.minute_last_ms
    return (
        str(account.chain),
        "-" if first is None else time_text(first),
        "-" if last is None else time_text(last),
        account.claims,
        account.objects,
        account.lines,
        account.bytes,
        account.given_up,
        account.unidentified,
    )


def _finding_row(finding: Finding[Fault]) -> tuple[Cell, ...]:
    left = finding.count - len(finding.examples)
    where = (*finding.examples, f"… and {left:,} more") if left else finding.examples
    return finding.kind.label, finding.kind.meaning, where, finding.count


def _proofs(verdict: Verdict) -> Iterator[tuple[Proof, str]]:
    if verdict.proof is not None:
        yield verdict.proof, "anomalies"
        if verdict.proof.errors is not None:
            yield verdict.proof.errors, "error records"


def _say_proof(proof: Proof, what: str) -> Iterator[str]:
    if not proof.sunk:
        if proof.foretold:
            yield f"{proof.pipeline}: {proof.foretold:,} {what} of an undisturbed run: no sink puts them here"
        return
    yield (
        f"{proof.pipeline}: {proof.met:,} of {proof.foretold:,} {what} of an undisturbed run are in the objects, "
        "byte for byte"
    )
    counts = (
        (proof.unscored, "not scored yet: the scorer lags"),
        (proof.unsunk, "published and not in an object yet: the sink lags"),
        (proof.given_up, "in stretches that were given up for lost"),
        (proof.unsure, "in no object, of records that another run may have scored, or from before a sink began here"),
    )
    yield from (f"  {count:,} {what}" for count, what in counts if count)
    if proof.beyond:
        yield f"  {proof.beyond:,} lines are beyond proof"
    yield from (f"  not provable: {what.translate(HIDDEN)}" for what in proof.unproven)


def _say(verdict: Verdict) -> int:
    """Print a verdict; the exit code."""
    if verdict.chains:
        print_table(_CHAIN_HEADER, map(_chain_row, verdict.chains))
    given_up = sum(account.given_up for account in verdict.chains)
    if given_up:
        click.echo(f"{given_up:,} stretch(es) were given up for lost by accept_lost: no fault, and not there")
    if verdict.unaudited:
        click.echo(f"{verdict.unaudited:,} object(s) of other minutes in the same folders were not looked into")
    for proof, what in _proofs(verdict):
        for line in _say_proof(proof, what):
            click.echo(line)
    if verdict.clean and not any(account.claims for account in verdict.chains):
        click.echo("nothing to audit: no claim is there, or none of this span of time; nothing is foreign")
        return 0
    if verdict.clean:
        far = " as far as can be proven" if any(proof.unproven for proof, _ in _proofs(verdict)) else ""
        click.echo(f"clean{far}: every object is as its claim says, nothing is there twice, nothing is foreign")
        if verdict.proof is not None and verdict.proof.beyond and not verdict.proof.foretold:
            click.echo("not one line could be proven: is --spec the one that they were scored with?", err=True)
            return EXIT_FAILED
        return 0
    print_table(_FINDING_HEADER, map(_finding_row, verdict.findings))
    click.echo(f"{sum(finding.count for finding in verdict.findings):,} fault(s) found", err=True)
    return EXIT_FAILED


def _run(
    root: str,
    from_text: str | None,
    to_text: str | None,
    stream: str | None,
    spec_path: str | None,
    state: str | None,
    clocks_apart_s: int,
) -> int:
    scope = parse_scope(from_text, to_text)
    if stream is None and (spec_path is not None or state is not None):
        raise UsageError("--spec and --state are for the replay: give --stream too")
    environ = click.get_current_context().obj or {}
    chosen = spec_path if spec_path is not None else environ.get(ServiceSettings.environment_name("spec"))
    spec = load_spec(Path(chosen) if chosen and stream is not None else None)
    with _progress() as show, _threads_by_turns():
        verdict = asyncio.run(
            _verify(
                root,
                scope,
                stream=stream,
                state=state,
                spec=spec,
                clocks_apart_ms=clocks_apart_s * 1000,
                show=show,
            )
        )
    return _say(verdict)


verify = Command(
    "verify",
    callback=_run,
    help="""Audit the objects under ROOT, a folder or URL that a sink writes to, from its claims and their content.

    Chains are whole, no anomaly is there twice, counts, hashes, order and minutes are right, no file is foreign. With
    --stream the source is scored again, and every anomaly has to be there, byte for byte. Reads only. Exit code 1 if
    anything is wrong.""",
    params=[
        click.Argument(["root"]),
        click.Option(
            ["--from", "from_text"],
            metavar="TIME",
            help="Only minutes from here on; ISO 8601, UTC unless it says otherwise, or milliseconds since the epoch.",
        ),
        click.Option(["--to", "to_text"], metavar="TIME", help="Only minutes before this time."),
        click.Option(
            ["--stream"],
            metavar="URL",
            help="Also score the source again; the log that holds the streams: local://PATH.",
        ),
        click.Option(
            ["--spec", "spec_path"],
            metavar="PATH",
            help="With --stream: the pipeline's spec.  [CUTBANK_SPEC; default: the stock trades of the demo]",
        ),
        click.Option(
            ["--state"],
            metavar="URL",
            help="With --stream: the scorer's state store, which knows where each run began; without it, one run from "
            "the oldest record retained is taken for granted.",
        ),
        click.Option(
            ["--clocks-apart-s"],
            type=click.IntRange(0),
            default=CLOCKS_APART_MS // 1000,
            show_default=True,
            help="Seconds that a line's ROWTIME may lie past its object's minute: brokers' clocks differ, and one may "
            "have been set back.",
        ),
    ],
    examples=(
        "cutbank verify data/anomalies",
        "cutbank verify data/anomalies --from 2026-11-22T23:00:00Z --to 2026-11-23T00:00:00Z",
        "cutbank verify data/anomalies --stream local://data/log.db --state data/state --spec cutbank.toml",
    ),
)
