"""What happened in one world, in order: the calls that changed something, the faults, and what the services said.

Two runs of a seed have the same history, in any process: `digest` proves it. Kept whole, shown bounded.
One world at a time writes here; the services' log lines find their way by `listening`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import structlog

from cutbank.clock import Clock

WHO: ContextVar[str] = ContextVar("WHO", default="world")
"""The process whose code runs: set where a process is started, inherited by its tasks."""

SHOWN_MAX = 120
"""Lines of a failing seed's history that are shown: the last ones."""


class Entry(NamedTuple):
    """One line."""

    at_s: float
    who: str
    what: str
    weight: int
    """2: an event of the plan, a death, a warning. 1: a change in log or store. 0: a call, an information."""

    def __str__(self) -> str:
        return f"{self.at_s:9.3f}  {self.who:<14} {self.what}"


class History:
    """The lines of one world."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.entries: list[Entry] = []
        self.alarms: list[tuple[str, Mapping[str, Any]]] = []
        """Log lines of level error, with the process that said them."""

    def say(self, who: str, what: str, *, weight: int = 2) -> None:
        """Note a line, now."""
        self.entries.append(Entry(self._clock.monotonic_s(), who, what, weight))

    def digest(self) -> str:
        """SHA-256 of all of it, hex."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(f"{entry}\n".encode())
        return digest.hexdigest()

    def shown(self, *, weight: int = 1, most: int | None = SHOWN_MAX) -> str:
        """The last lines of at least that weight; `most` None: all of them."""
        lines = [str(entry) for entry in self.entries if entry.weight >= weight]
        if most is None or len(lines) <= most:
            return "\n".join(lines)
        return "\n".join([f"… {len(lines) - most} lines before …", *lines[-most:]])


_WEIGHTS = {"warning": 2, "error": 2, "exception": 2, "critical": 2}


class _Listener(structlog.BoundLoggerBase):
    """A structlog logger that writes into a history: without processors, levels or output."""

    history: History

    def _say(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        fields = {**self._context, **fields}
        told = " ".join(f"{name}={value}" for name, value in fields.items() if name not in {"url", "logger"})
        self.history.say(WHO.get(), f"{level}: {event} {told}".rstrip(), weight=_WEIGHTS.get(level, 0))
        if level != "warning":
            self.history.alarms.append((WHO.get(), {"event": event, **fields}))

    def debug(self, event: str, **fields: Any) -> None:
        """Not noted."""

    def info(self, event: str, **fields: Any) -> None:
        """Not noted."""

    def warning(self, event: str, **fields: Any) -> None:
        self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._say("error", event, fields)

    exception = critical = error


class _TalkativeListener(_Listener):
    """The same, informations too: for one seed's whole history."""

    def info(self, event: str, **fields: Any) -> None:
        fields = {**self._context, **fields}
        told = " ".join(f"{name}={value}" for name, value in fields.items() if name not in {"url", "logger"})
        self.history.say(WHO.get(), f"info: {event} {told}".rstrip(), weight=0)


@contextmanager
def listening(history: History, *, whole: bool = False) -> Iterator[None]:
    """Send what the services log into this history, and nowhere else; `whole`: informations too."""
    before = structlog.get_config()
    was_configured = structlog.is_configured()
    kind = type("Listener", (_TalkativeListener if whole else _Listener,), {"history": history})
    structlog.configure(processors=[], wrapper_class=kind, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        if was_configured:
            structlog.configure(**before)
        else:
            structlog.reset_defaults()
