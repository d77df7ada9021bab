"""`cutbank doctor`: a line for everything that must be right before the services can run; exit code 1 if one is not.

Reads the same options and environment as the services, so that it checks what they will use.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import click

from cutbank.cli.checks import (
    Finding,
    check_brokers,
    check_detector,
    check_disk,
    check_log,
    check_permissions,
    check_python,
    check_sizes,
    check_store,
    check_variables,
)
from cutbank.cli.connect import local_path
from cutbank.cli.services import SERVICES, load_service
from cutbank.errors import UsageError
from cutbank.pipeline.spec import PipelineSpec, load_spec
from cutbank.runtime.command import EXIT_FAILED, Command
from cutbank.runtime.options import options
from cutbank.runtime.settings import ServiceSettings

STORES: Final = {"store_url": "object store", "state_url": "state store"}
"""Settings that name a store, and what the lines about it are headed."""

_COLOURS: Final = {"ok": "green", "warn": "yellow", "FAIL": "red"}


async def findings(environ: Mapping[str, str], given: Mapping[str, str | None]) -> AsyncIterator[Finding]:
    """Every finding, as it is made. `given` are settings that override the environment."""
    yield check_python(sys.version_info[:2])
    values: dict[str, set[Any]] = {}
    known: set[str] = set()
    for name in SERVICES:
        yield _check_service(name, environ, given, values=values, known=known)
    for finding in check_variables(environ, known):
        yield finding
    spec = PipelineSpec()
    for path in values.get("spec", {None}):
        try:
            spec = load_spec(path)
            yield Finding("ok", "spec", f"{path or 'the defaults'}: pipeline {spec.name}, scores {_features(spec)}")
        except UsageError as error:
            yield Finding("FAIL", "spec", str(error))
    yield check_detector(spec)
    folders: list[Path] = []
    for url in sorted(values.get("transport_url", ())):
        for finding in await _check_url(url, spec, emit_all="all" in values.get("emit", ())):
            yield finding
        folders += _log_folder(url)
    for field, what in STORES.items():
        for url in sorted(values.get(field, ())):
            yield await check_store(url, what, deletes=field == "state_url")
            folders += [Path(unquote(url.removeprefix("file://")))] if url.startswith("file://") else []
    for folder in dict.fromkeys(folders):
        yield check_disk(folder)


async def _check_url(url: str, spec: PipelineSpec, *, emit_all: bool) -> list[Finding]:
    """The log, and if it can be opened what it runs on."""
    log = await check_log(url, spec)
    if log.level != "ok":
        return [log]
    sizes = await check_sizes(url, spec, emit_all=emit_all)
    return [log, *await check_brokers(url, spec), *sizes, *await check_permissions(url, spec, emit_all=emit_all)]


def _check_service(
    name: str,
    environ: Mapping[str, str],
    given: Mapping[str, str | None],
    *,
    values: dict[str, set[Any]],
    known: set[str],
) -> Finding:
    """Load a service and its settings; add its variables to `known` and what it was told to `values`."""
    what = f"service {name}"
    try:
        service = load_service(name)
        assert service is not None, "our own services are found or MissingExtra is raised"
        fields = service.settings.model_fields
        known.update(map(service.settings.environment_name, fields))
        told = service.settings.load(environ, **{field: text for field, text in given.items() if field in fields})
    except UsageError as error:
        return Finding("FAIL", what, str(error))
    for field in ("spec", "transport_url", "emit", *STORES):
        if field in fields:
            values.setdefault(field, set()).add(getattr(told, field))
    return Finding("ok", what, f"installed, {len(fields)} settings valid")


def _features(spec: PipelineSpec) -> str:
    return f"{', '.join(spec.features)} of {spec.source} with {spec.detector.name}"


def _log_folder(url: str) -> list[Path]:
    try:
        path = local_path(url)
    except UsageError:
        return []  # the check of the log has said so
    return [] if path is None else [path.parent]


async def _print(environ: Mapping[str, str], given: Mapping[str, str | None]) -> int:
    failed = 0
    async for finding in findings(environ, given):
        failed += finding.level == "FAIL"
        level, line = finding.level, str(finding)
        click.echo(click.style(line[: len(level)], fg=_COLOURS[level]) + line[len(level) :])
    if failed:
        click.echo(f"{failed} check(s) failed", err=True)
    return EXIT_FAILED if failed else 0


def _run(**given: str | None) -> int:
    return asyncio.run(_print(click.get_current_context().obj, given))


doctor = Command(
    "doctor",
    callback=_run,
    help="""Check Python, services, settings, spec, detector, log, stores and free disk, a line each.

    ok: as it should be. warn: works, look at it. FAIL: a service would not run; the line says what to do. Exit code
    1 if one failed.""",
    params=[
        *options(ServiceSettings, only={"transport_url", "spec"}),
        click.Option(["--store-url"], metavar="TEXT", help="The sink's object store; default: as the sink."),
        click.Option(["--state-url"], metavar="TEXT", help="The scorer's snapshots; default: as the scorer."),
    ],
    examples=(
        "cutbank doctor",
        "cutbank doctor --spec cutbank.toml --store-url file:///var/lib/cutbank/anomalies",
        "cutbank doctor --store-url 's3://my-bucket/anomalies?region=eu-west-1'",
    ),
)
