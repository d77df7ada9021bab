"""Keeps one child process running: starts it, starts it again when it dies, stops it when asked. Owns that process.

Invariant: at most one process a child lives, and none after `supervise` has returned or was cancelled. A child that
dies is started again at most once a second and at most `RESTARTS_MAX` times; one that answers that it was set up
wrongly (exit code 2) is not. Logs are added to, bounded by `trim_log`; only what this child wrote is looked at.
Event-loop only; one task supervises, others may call `stop`.
"""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from cutbank.cli.demo import child as child_module
from cutbank.clock import Clock

RESTARTS_MAX = 20
"""How often a child is started again in one demo."""

RESTART_S_MIN = 1.0
"""Least seconds between two starts of a child."""

STOP_S_MAX = 30.0
"""Seconds that a child gets between SIGTERM and SIGKILL: longer than the services' own grace period."""

LOG_BYTES_MAX = 16 << 20
"""Largest log of a child, bytes; a larger one is set aside as `<name>.log.1`, in place of the one before."""

LOG_TAIL_BYTES = 16_000
"""How much of a log's end is looked at for the reason of a failure."""

_COMPLAINT = re.compile(r"\[(?:warning|error|critical) *\] (?P<event>.*\S) +\[[^]]*\].*? why=(?P<why>.+)")
"""A line of a service's log with a reason, as `log_format` console writes it."""

_PARKED = "partition stopped"
"""What a service logs when it gives up on a partition for good."""

EXIT_USAGE = 2
"""A service's exit code for a wrong setting: starting it again would not help."""


class Child:
    """One child process, however often it has to be started."""

    def __init__(
        self,
        name: str,
        module: str,
        *,
        environ: Mapping[str, str],
        log: Path,
        clock: Clock,
        note: Callable[[str], None],
        ends_by_itself: bool = False,
    ) -> None:
        """`note` is told, in one line, of every death; `ends_by_itself`: exit code 0 is its work done."""
        self.name = name
        self.log = log
        self.restarts = 0
        self.failure: str | None = None
        """Why it runs no more, where that was neither asked for nor its work done."""
        self.exit_code: int | None = None
        """Of the last process that ended."""
        self.ended = asyncio.Event()
        """Set when no process runs and none will be started."""
        self._log_start = log.stat().st_size if log.exists() else 0
        self._module = module
        self._environ = environ
        self._clock = clock
        self._note = note
        self._ends_by_itself = ends_by_itself
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None while none runs."""
        return self._process.pid if self._process is not None else None

    async def supervise(self) -> None:
        """Until stopped, done or given up. Cancelled: the process is killed."""
        try:
            while True:
                began_s = self._clock.monotonic_s()
                await self._run_once()
                if self._stopping.is_set() or (self._ends_by_itself and self.exit_code == 0):
                    return
                death = f"{self.name} {_death(self.exit_code)}"
                if self.exit_code == EXIT_USAGE or self.restarts >= RESTARTS_MAX:
                    self.failure = f"{death}: {self._last_words()}"
                    self._note(f"{self.failure}; not started again")
                    return
                await self._pause(began_s + RESTART_S_MIN - self._clock.monotonic_s())
                if self._stopping.is_set():
                    return
                self.restarts += 1
                self._note(f"{death}; started again")
        finally:
            self.ended.set()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after `STOP_S_MAX`; returns when it has ended. Idempotent."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self.ended.wait()
        except TimeoutError:
            self._note(f"{self.name} did not stop within {STOP_S_MAX:.0f} s and was killed")
            self._signal(signal.SIGKILL)
            await self.ended.wait()

    async def _run_once(self) -> None:
        """Start a process and wait for its end."""
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                child_module.__name__,
                str(os.getpid()),
                self._module,
                env=self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which stops its children in order
            )
        self._process = process
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        try:
            self.exit_code = await process.wait()
        except asyncio.CancelledError:
            self._signal(signal.SIGKILL)
            await process.wait()
            raise
        finally:
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _pause(self, delay_s: float) -> None:
        """Sleep, but wake when asked to stop."""
        sleeping = asyncio.ensure_future(self._clock.sleep(delay_s))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stopping.cancel()

    def trim_log(self) -> None:
        """Set a log over `LOG_BYTES_MAX` aside and go on with an empty one; to be called again and again.

        The child only adds to its log, wherever that ends; what it writes in the moment between is lost.
        """
        if not self.log.exists() or self.log.stat().st_size <= LOG_BYTES_MAX:
            return
        with (
            suppress(OSError),
            self.log.open("rb") as log,
            self.log.with_name(f"{self.log.name}.1").open("wb") as aside,
        ):
            log.seek(-LOG_BYTES_MAX, os.SEEK_END)
            shutil.copyfileobj(log, aside)
        os.truncate(self.log, 0)
        self._log_start = 0

    def parked(self) -> str | None:
        """Why it has stopped a partition for good, as its log's end says; None: it has not."""
        return next((why for event, why in self._complaints() if event == _PARKED), None)

    def complaint(self) -> str | None:
        """The last reason that its log gives for anything; None: none."""
        return next((why for _, why in self._complaints()), None)

    def _complaints(self) -> Iterator[tuple[str, str]]:
        """Events and reasons, the newest first."""
        for line in reversed(self._lines()):
            found = _COMPLAINT.search(line)
            if found is not None:
                yield found["event"], found["why"].strip().strip("'\"")

    def _lines(self) -> list[str]:
        """The end of what this child wrote to its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(log.tell() - LOG_TAIL_BYTES, self._log_start))
                return [line.strip() for line in log.read().decode(errors="replace").split("\n") if line.strip()]
        except FileNotFoundError:
            return []

    def _last_words(self) -> str:
        """The last line of its log."""
        return next(reversed(self._lines()), "it said nothing") + f" (see {self.log})"


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}"
