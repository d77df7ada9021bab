"""Which transport a URL opens. Owns the one visible registry; an opener imports what only it needs.

Values and imports only; a transport does its I/O when it is entered.
"""

from typing import Protocol

from cutbank.clock import Clock
from cutbank.errors import UsageError
from cutbank.metrics import Metrics
from cutbank.transports.base import Transport


class Opener(Protocol):
    """Makes the transport that a URL names, without I/O. Raises UsageError, MissingExtra."""

    def __call__(self, url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None) -> Transport:
        """Called once for each transport."""
        ...


def open_local(url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None) -> Transport:
    """The embedded log: `local:///absolute/path/log.db` or `local://relative/path/log.db`."""
    from cutbank.transports.local import open_local as opener

    return opener(url, clock=clock, metrics=metrics, client_id=client_id)


TRANSPORTS: dict[str, Opener] = {"local": open_local}
"""Openers by the scheme of the URL."""


def open_transport(url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None) -> Transport:
    """Make the transport that `url` names; enter it with `async with`.

    `client_id` names this process to people who look at a group's members. Raises UsageError for a URL of no known
    scheme or with a wrong setting, MissingExtra where an optional dependency is not installed.
    """
    scheme, separator, _ = url.partition("://")
    opener = TRANSPORTS.get(scheme) if separator else None
    if opener is None:
        known = ", ".join(f"{name}://" for name in TRANSPORTS)
        raise UsageError(f"transport URL {url!r}: unknown scheme; known are {known}")
    return opener(url, clock=clock, metrics=metrics, client_id=client_id)
