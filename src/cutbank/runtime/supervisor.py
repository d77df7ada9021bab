"""The one supervisor: runs a service in a task group, drains it on a signal, and turns its end into an exit code.

Owns signals, the grace period, the event loop's beat and the last log line. Every task has the group as its parent.
A drain that outlasts the grace period, or a second signal, cancels the service; what ignores even that (a stuck
thread) is ended by a watchdog, since a process that does not exit holds its partitions.
Main thread only.
"""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import types
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import structlog

from cutbank import __version__
from cutbank.clock import SystemClock
from cutbank.errors import CutbankError, UsageError
from cutbank.runtime.endpoints import serving
from cutbank.runtime.health import Health
from cutbank.runtime.logging import configure_logging
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.runtime.service import Runtime, S, Service

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_CUT_OFF: Final = 3
"""The service was cut off: its work is not drained. What was acknowledged is safe; a restart goes on from there."""

CANCEL_S = 3.0
"""How long a cancelled service may take before the watchdog ends the process, seconds."""
BEAT_S = 0.5
"""Between two beats of the event loop, seconds."""
RUNNING_MAX = 20
"""Most tasks that the line about a cut-off names."""

NESTING_MAX = 20
"""Most coroutines of one task that it names."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger()


def supervise(service: Service[S], settings: S) -> int:
    """Run a service to its end; the exit code. See `service.run_service`."""
    configure_logging(log_format=settings.log_format, level=settings.log_level, service=service.name)
    log.debug("starting", version=__version__, settings=settings.model_dump(mode="json"))
    supervisor = _Supervisor(service, settings)
    try:
        asyncio.run(supervisor.main())
    except Exception as failure:  # noqa: BLE001  # every end of a service becomes one log line and an exit code
        code = report(failure)
    else:
        code = EXIT_OK
        if not supervisor.cut_off:
            log.debug("done")
    finally:
        supervisor.disarm()
    return EXIT_CUT_OFF if supervisor.cut_off else code


def report(failure: Exception) -> int:
    """Log how a service failed: our errors as one line, bugs with their traceback. Returns the exit code."""
    leaves = list(_leaves(failure))
    bugs = [leaf for leaf in leaves if not isinstance(leaf, CutbankError)]
    if bugs:
        for bug in bugs:
            log.error("failed by a bug", error=f"{type(bug).__name__}: {bug}", exc_info=bug)
        return EXIT_FAILED
    code = EXIT_USAGE if all(isinstance(leaf, UsageError) for leaf in leaves) else EXIT_FAILED
    messages = dict.fromkeys(" ".join(str(leaf).split()) or type(leaf).__name__ for leaf in leaves)
    log.error("failed", error="; ".join(messages), kind=type(leaves[0]).__name__, exit_code=code)
    return code


def leave(code: int) -> None:
    """End this process now if its service was cut off: its threads may be stuck, and nobody waits for them."""
    if code == EXIT_CUT_OFF:
        _exit_now()


def _leaves(failure: BaseException) -> Iterator[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        for part in failure.exceptions:
            yield from _leaves(part)
    else:
        yield failure


class _Supervisor:
    """One run of one service."""

    def __init__(self, service: Service[Any], settings: Any) -> None:
        self.cut_off = False
        self._service = service
        self._settings = settings
        self._hurry = asyncio.Event()
        self._second = ""
        self._own: set[asyncio.Task[Any]] = set()
        self._watchdog: threading.Timer | None = None
        self._url = "off"
        self._metrics = PrometheusMetrics()
        self._runtime = Runtime(
            clock=SystemClock(), metrics=self._metrics, health=Health(on_change=self._readiness_turned)
        )

    async def main(self) -> None:
        """Serve health, run the service, watch for signals."""
        self._metrics.set("cutbank_build_info", 1.0, service=self._service.name, version=__version__)
        with self._signals():
            if self._settings.http_port is None:
                await self._group()
                return
            host, port = self._settings.http_host, self._settings.http_port
            async with serving(health=self._runtime.health, metrics=self._metrics, host=host, port=port) as url:
                self._url = url
                await self._group()

    def disarm(self) -> None:
        """The service has ended: the watchdog has nothing left to watch."""
        if self._watchdog is not None:
            self._watchdog.cancel()

    async def _group(self) -> None:
        self._own = set(asyncio.all_tasks())
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._work(), name=self._service.name)
            own = (group.create_task(self._beat(), name="beat"), group.create_task(self._guard(work), name="guard"))
            self._own.update(own)
            work.add_done_callback(lambda _: self._worked(own))
        if work.cancelled() and not self.cut_off:
            raise RuntimeError("the service cancelled its own task")

    async def _work(self) -> None:
        await self._service.run(self._settings, self._runtime)

    def _worked(self, own: Iterable[asyncio.Task[None]]) -> None:
        """The service has ended, well or not: nothing else may keep the process."""
        for task in own:
            task.cancel()
        if self._watchdog is None:
            self._arm(self._settings.grace_s + CANCEL_S)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT_S
            await asyncio.sleep(BEAT_S)
            late_s = max(0.0, loop.time() - due)
            self._metrics.observe("cutbank_event_loop_late_seconds", late_s)
            self._runtime.health.beat(late_s)

    async def _guard(self, work: asyncio.Task[None]) -> None:
        """After the first signal: give the service its grace, then cut it off."""
        await self._runtime.stop.wait()
        why = f"the grace period of {self._settings.grace_s:g} s ended"
        try:
            async with asyncio.timeout(self._settings.grace_s):
                await self._hurry.wait()
                why = f"a second signal ({self._second})"
        except TimeoutError:
            pass
        self.cut_off = True
        log.error("cut off", why=why, still_running=_running(self._own), exit_code=EXIT_CUT_OFF)
        self._arm(CANCEL_S)
        work.cancel()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._runtime.stop.is_set():
            self._second = number.name
            self._hurry.set()
            return
        log.info("stopping", signal=number.name, grace_s=self._settings.grace_s)
        self._runtime.stop.set()
        self._runtime.health.ready("running", ok=False, why="stopping")
        self._arm(self._settings.grace_s + CANCEL_S)

    def _arm(self, delay_s: float) -> None:
        self.disarm()
        self._watchdog = threading.Timer(delay_s, self._bite)
        self._watchdog.daemon = True
        self._watchdog.start()

    def _bite(self) -> None:
        log.critical("ended by the watchdog", why="a thread or task ignored its cancellation", exit_code=EXIT_CUT_OFF)
        faulthandler.dump_traceback(all_threads=True)
        _exit_now()

    def _readiness_turned(self, ready: bool, why: str) -> None:  # noqa: FBT001  # Health's callback
        self._metrics.set("cutbank_ready", float(ready))
        if ready:
            log.info("ready", http=self._url)
        elif not self._runtime.stop.is_set():
            log.warning("not ready", why=why)


def _running(own: Container[asyncio.Task[Any]]) -> list[str]:
    """The tasks that are not the supervisor's, and where each one stands."""
    tasks = [task for task in asyncio.all_tasks() if task not in own]
    return [_place(task) for task in sorted(tasks, key=lambda task: task.get_name())[:RUNNING_MAX]]


def _place(task: asyncio.Task[Any]) -> str:
    """A task's name, its chain of coroutines, and the line where the innermost one waits."""
    names: list[str] = []
    frame = None
    awaited: Any = task.get_coro()
    while isinstance(awaited, types.CoroutineType) and len(names) < NESTING_MAX:
        names.append(awaited.__qualname__)
        frame = awaited.cr_frame or frame
        awaited = awaited.cr_await
    where = f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame is not None else ""
    return f"{task.get_name()}: {' > '.join(names)}{where}"


def _exit_now() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CUT_OFF)
