"""Which transport a URL opens. Owns the one visible registry; an opener imports what only it needs.

Values and imports only; a transport does its I/O when it is entered.
"""

from typing import Protocol

from cutbank.clock import Clock
from cutbank.errors import MissingExtra, UsageError
from cutbank.metrics import Metrics
from cutbank.transports.base import Tell, Transport, tell_nobody


class Opener(Protocol):
    """Makes the transport that a URL names, without I/O. Raises UsageError, MissingExtra."""

    def __call__(
        self, url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None, tell: Tell = tell_nobody
    ) -> Transport:
        """Called once for each transport."""
        ...


def open_local(
    url: str,
    *,
    clock: Clock,
    metrics: Metrics,
    client_id: str | None = None,
    tell: Tell = tell_nobody,  # noqa: ARG001  # its groups live in the file
) -> Transport:
    """The embedded log: `local:///absolute/path/log.db` or `local://relative/path/log.db`."""
    from cutbank.transports.local import open_local as opener

    return opener(url, clock=clock, metrics=metrics, client_id=client_id)


def open_kafka(
    url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None, tell: Tell = tell_nobody
) -> Transport:
    """A Kafka or Redpanda cluster: `kafka://host:9092,host2:9092`."""
    try:
        from cutbank.transports.kafka import open_kafka as opener
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"aiokafka", "cramjam"}:
            raise
        raise MissingExtra(f"{url}: the Kafka client is not installed; pip install 'cutbank[kafka]'") from None

    return opener(url, clock=clock, metrics=metrics, client_id=client_id, tell=tell)


TRANSPORTS: dict[str, Opener] = {"local": open_local, "kafka": open_kafka}
"""Openers by the scheme of the URL."""


def open_transport(
    url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None, tell: Tell = tell_nobody
) -> Transport:
    """Make the transport that `url` names; enter it with `async with`.

    `client_id` names this process to people who look at a group's members. `tell` is told when a group that this
    process is a member of has not answered for too long, and when it answers again: readiness. Raises UsageError for a
    URL of no known scheme or with a wrong setting, MissingExtra where an optional dependency is not installed.
    """
    scheme, separator, _ = url.partition("://")
    opener = TRANSPORTS.get(scheme) if separator else None
    if opener is None:
        known = ", ".join(f"{name}://" for name in TRANSPORTS)
        raise UsageError(f"transport URL {url!r}: unknown scheme; known are {known}")
    return opener(url, clock=clock, metrics=metrics, client_id=client_id, tell=tell)
