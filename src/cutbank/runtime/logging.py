"""Structured logs on stderr: an object a line for machines, or lines for people. Owns the process's logging set-up.

structlog's loggers and the standard library's take the same way, so a library's warning has the same shape as ours.
Secrets are masked last, after exceptions became text. Configured once, by the supervisor; a call later replaces it.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from cutbank.runtime.secrets import MASK, mask_secrets, names_secret

LogFormat = Literal["auto", "json", "console"]

QUIET: Final = ("numba", "asyncio", "aiohttp.access")
"""Libraries whose debug and info lines drown ours: only their warnings are logged."""

_DEPTH_MAX = 5


def configure_logging(
    *, log_format: LogFormat = "auto", level: str = "info", stream: TextIO | None = None, **always: str
) -> None:
    """Send every log line to `stream` (stderr). `always` is part of each line, such as service="scorer"."""
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    for_people = log_format == "console" or (log_format == "auto" and terminal)
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _adding(always),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        mask_event,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal, timestamp_key="time") if for_people else _json_line
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:3], structlog.stdlib.ExtraAdder(), *shared[3:]],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(least)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(least, logging.WARNING))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def mask_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask what names or holds a secret, in the event and every field."""
    return {key: _masked(key, value, 0) for key, value in event.items()}


def _masked(key: str, value: Any, depth: int) -> Any:
    if names_secret(key):
        return MASK
    if isinstance(value, str):
        return mask_secrets(value)
    if depth < _DEPTH_MAX:
        if isinstance(value, Mapping):
            return {str(name): _masked(str(name), item, depth + 1) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_masked("", item, depth + 1) for item in value]
    return value if isinstance(value, bool | int | float | None) else mask_secrets(str(value))


def _adding(always: Mapping[str, str]) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**always, **event}

    return add


def _json_line(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
    first = {key: event[key] for key in ("time", "level", "event") if key in event}
    line = {**first, **event}
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # an integer beyond 64 bits, or half a surrogate pair: a log line must not be lost to either
        return json.dumps(line, default=str)
