"""Finds the services by entry point, group `cutbank.services`, and loads one when it is asked for.

The command never imports a service's package by name, so that an image that has one service alone still has a
command. What is missing is one line.
"""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final

import click

from cutbank.errors import MissingExtra

if TYPE_CHECKING:  # pydantic, which it needs, costs `--help` a quarter of a second
    from cutbank.runtime.service import Service

GROUP: Final = "cutbank.services"

SERVICES: Final[Mapping[str, str]] = {
    "produce": "Publish stock trades, some of them anomalous, to a stream.",
    "score": "Score a stream's records and publish the anomalies.",
    "sink": "Write the anomalies to an object store, one object a minute.",
}
"""Our services in the order of a record's way, with their line in the list of commands."""


def load_service(name: str) -> "Service[Any] | None":
    """The service of this name, or None if there is none. Raises MissingExtra: its package can't be imported."""
    found = entry_points(group=GROUP, name=name)
    if not found:
        if name in SERVICES:
            raise MissingExtra(f"cutbank {name} is not installed here: pip install cutbank")
        return None
    return _loaded(next(iter(found)))


def load_services() -> "dict[str, Service[Any]]":
    """All our services, by command, in order. Raises MissingExtra."""
    loaded = {name: load_service(name) for name in SERVICES}
    return {name: service for name, service in loaded.items() if service is not None}


def load_service_command(name: str, environ: Mapping[str, str]) -> click.Command | None:
    """The command that runs the service of this name, or None if there is no such service."""
    service = load_service(name)
    if service is None:
        return None
    from cutbank.runtime.options import service_command

    return service_command(service, environ, name=name)


def _loaded(entry: EntryPoint) -> "Service[Any]":
    from cutbank.runtime.service import Service

    try:
        service = entry.load()
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"cutbank {entry.name} needs the Python package {error.name}, which is not installed: pip install cutbank"
        ) from None
    assert isinstance(service, Service), f"{entry.value} is a Service"
    return service
