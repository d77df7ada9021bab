"""Opens the log that a tool was told of: option first, then environment, then the default of every service.

Tools that only read never make a log file: a missing one is a mistyped path or a service that never ran, and says so.
"""

from collections.abc import Mapping
from pathlib import Path

import click

from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.runtime.options import options
from cutbank.runtime.settings import ServiceSettings
from cutbank.transports.base import Transport

KAFKA_WAIT_MS = 5_000
"""How long a tool waits for a Kafka broker, unless its URL sets start_wait_ms."""


def log_option() -> click.Parameter:
    """`--transport-url`, as every service has it."""
    (option,) = options(ServiceSettings, only={"transport_url"})
    return option


def log_url(environ: Mapping[str, str], given: str | None) -> str:
    """The log's URL; the environment's other variables are not looked at. Raises UsageError."""
    variable = ServiceSettings.environment_name("transport_url")
    environ = {variable: environ[variable]} if variable in environ else {}
    return ServiceSettings.load(environ, transport_url=given).transport_url


def open_log(url: str, *, may_create: bool, named_with: str = "--transport-url or CUTBANK_TRANSPORT_URL") -> Transport:
    """The transport of this URL, to be entered. Raises UsageError: unknown kind, or nothing there yet.

    `named_with`: how the command is told of the log.
    """
    from cutbank.transports import open_transport

    path = local_path(url)
    if path is not None and not may_create and not path.exists():
        raise UsageError(
            f"no log at {path}: start a service or `cutbank streams create` first, or name the log with {named_with}"
        )
    return open_transport(_impatient(url), clock=SystemClock(), metrics=NoMetrics())


def _impatient(url: str) -> str:
    """A person waits at a tool: a cluster is not waited for as long as a service does, unless the URL says so."""
    if not url.startswith("kafka://") or "start_wait_ms=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}start_wait_ms={KAFKA_WAIT_MS}"


def local_path(url: str) -> Path | None:
    """The file of an embedded log; None for every other transport."""
    from cutbank.transports.local.settings import SCHEME, parse_url

    return parse_url(url)[0] if url.startswith(f"{SCHEME}://") else None
