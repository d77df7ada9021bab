"""From the options to the exit code: holds the folder, runs the session under signals, then recounts and reports.

The first SIGINT, SIGTERM or SIGHUP drains; a second one stops at once: what was committed is in the log, so the next
demo goes on from there. Main thread only, since it handles signals.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from cutbank.cli.demo import screen
from cutbank.cli.demo.folder import LABELS_STREAM, DemoFolder
from cutbank.cli.demo.origin import STDIN
from cutbank.cli.demo.plan import Asked, Plan, folder_of, make_plan
from cutbank.cli.demo.screens import screen_for
from cutbank.cli.demo.session import Session
from cutbank.clock import Clock, SystemClock
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.audit import recount
from cutbank.pipeline.report import read_scored, require_plotly, write_report
from cutbank.pipeline.spec import PipelineSpec
from cutbank.runtime.command import EXIT_FAILED, EXIT_INTERRUPTED
from cutbank.transports import open_transport
from cutbank.transports.base import Transport

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(asked: Asked, environ: Mapping[str, str], *, report: Path | None, picture: Path | None) -> int:
    """A whole demo; the exit code: 0 it ran and balances, 1 it does not, 130 stopped at once. Raises UsageError."""
    if report is not None:
        check_report(report)
    clock = SystemClock()
    console = Console()
    plan = make_plan(asked, environ)
    try:
        with plan.folder.locked():
            _prepare(asked, plan, console, clock)
            return _until_signalled(lambda stop: _run(plan, console, clock, stop, report=report, picture=picture))
    finally:
        if plan.source is not None:
            plan.source.close()


def recount_only(asked: Asked, *, report: Path | None) -> int:
    """Count what lies in the folder. Raises UsageError, StreamMissing."""
    if report is not None:
        check_report(report)
    folder = folder_of(asked)
    spec = folder.existing_spec()
    with folder.locked():
        return _until_signalled(lambda _stop: _recount_only(folder, spec, Console(), SystemClock(), report))


def check_report(path: Path) -> None:
    """Before a long run, not after it. Raises MissingExtra, UsageError."""
    require_plotly()
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--report {path}: there is no folder {path.parent}")


def _prepare(asked: Asked, plan: Plan, console: Console, clock: Clock) -> None:
    """Make the folder ready, and say what is in it. Raises UsageError."""
    folder = plan.folder
    if asked.fresh:
        when = f"{datetime.fromtimestamp(clock.now_ms() / 1000.0, UTC):%Y%m%dT%H%M%SZ}"
        aside = folder.set_aside(when=when)
        if aside is not None:
            _say(console, f"What an earlier demo left is now in {aside}.")
    if folder.prepare(plan.spec, input_=plan.input):
        again = ", and in the file where it was left"
        if plan.input is None:
            again = ""
        elif plan.input == STDIN:
            again = ", and adds all of standard input"
        _say(console, f"Goes on with the log, model and objects in {folder.path}{again}; --fresh begins anew.")


async def _run(
    plan: Plan, console: Console, clock: Clock, stop: asyncio.Event, *, report: Path | None, picture: Path | None
) -> int:
    async with (
        open_transport(plan.folder.transport_url, clock=clock, metrics=NoMetrics()) as transport,
        open_store(plan.folder.store_url, clock=clock, metrics=NoMetrics()) as store,
    ):
        with screen_for(console) as shown:
            session = Session(plan, transport=transport, store=store, screen=shown, stop=stop, clock=clock)
            faults = await session.run()
        if picture is not None and shown.picture is not None:
            screen.write_picture(picture, shown.picture, title="cutbank demo")
        for fault in faults:
            _say(console, f"✗ {fault}")
        code = await _account(
            plan.folder, plan.spec, console, transport=transport, store=store, labels=plan.labels, report=report
        )
    return code if not faults else EXIT_FAILED


async def _recount_only(
    folder: DemoFolder, spec: PipelineSpec, console: Console, clock: Clock, report: Path | None
) -> int:
    async with (
        open_transport(folder.transport_url, clock=clock, metrics=NoMetrics()) as transport,
        open_store(folder.store_url, clock=clock, metrics=NoMetrics()) as store,
    ):
        labels = LABELS_STREAM if LABELS_STREAM in await transport.streams() else None
        return await _account(folder, spec, console, transport=transport, store=store, labels=labels, report=report)


async def _account(
    folder: DemoFolder,
    spec: PipelineSpec,
    console: Console,
    *,
    transport: Transport,
    store: ObjectStore,
    labels: str | None,
    report: Path | None,
) -> int:
    """Recount, print, draw; the exit code."""
    accounts = await recount(transport, store, spec, labels=labels)
    for part in screen.summary(accounts, objects_root=str(folder.objects)):
        console.print(part, soft_wrap=True)
    if report is not None:
        scored = await read_scored(transport, spec)
        balance = "the accounts balance" if accounts.balanced else "the accounts do NOT balance"
        subtitle = f"{accounts.produced:,} records, {accounts.anomalies:,} anomalies; {balance}."
        await asyncio.to_thread(write_report, report, scored, subtitle=subtitle)
        _say(console, f"Report: {report}")
    return 0 if accounts.balanced else EXIT_FAILED


def _until_signalled(work: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run to the exit code. The first signal sets the event, the next cancels."""

    async def main() -> int:
        stop = asyncio.Event()
        task = asyncio.ensure_future(work(stop))

        def on_signal() -> None:
            if stop.is_set():
                task.cancel()
            stop.set()

        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal)
        try:
            return await task
        except asyncio.CancelledError:
            _say(
                Console(stderr=True), "Stopped at once. What was done is in the log: the next demo goes on from there."
            )
            return EXIT_INTERRUPTED
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    return asyncio.run(main())


def _say(console: Console, text: str) -> None:
    """A line of plain text, never wrapped where there is no terminal."""
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)
