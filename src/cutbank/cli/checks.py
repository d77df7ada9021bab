"""What `cutbank doctor` looks at: one function a thing, each giving findings and never raising for the world's faults.

A check does what a service would do (open the log, race for a create-only key, score the fixed input), because a
check that only looks tells less. Nothing is left behind but a store's empty folders; a missing log stays missing.
"""

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cutbank.cli.connect import local_path, open_log
from cutbank.clock import SystemClock
from cutbank.errors import CutbankError, StoreUnavailable
from cutbank.metrics import NoMetrics
from cutbank.pipeline.spec import PipelineSpec
from cutbank.runtime.secrets import mask_secrets
from cutbank.settings import ENVIRONMENT_PREFIX

if TYPE_CHECKING:
    from cutbank.transports.kafka import KafkaTransport

PYTHON_OLDEST: Final = (3, 11)
PYTHON_NEWEST: Final = (3, 14)
FREE_BYTES_FAIL: Final = 64 << 20
"""Less free disk than this fails: one stretch of a sink may not fit."""
FREE_BYTES_WARN: Final = 1 << 30
"""Less free disk than this is a warning: hours of a busy log may not fit."""

Level = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor."""

    level: Level
    what: str
    why: str
    """What was found; what to do, where something is to be done."""

    def __str__(self) -> str:
        return f"{self.level:4}  {self.what}: {mask_secrets(' '.join(self.why.split()))}"


def check_python(version: tuple[int, int]) -> Finding:
    """The interpreter's version, (major, minor)."""
    text = ".".join(map(str, version))
    if version < PYTHON_OLDEST:
        return Finding("FAIL", "python", f"{text} is too old; use 3.11 to 3.14")
    if version > PYTHON_NEWEST:
        return Finding("warn", "python", f"{text} is newer than any that was tested; use 3.11 to 3.14 if it misbehaves")
    return Finding("ok", "python", f"{text} at {sys.executable}")


def check_variables(environ: Mapping[str, str], known: Iterable[str]) -> Iterator[Finding]:
    """A variable that begins like ours and is none: most likely a slip of the pen, and without effect."""
    names = sorted(set(known))
    unknown = sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX) and name not in names)
    # Compared without what all have in common, which would make any two alike.
    short = {name.removeprefix(ENVIRONMENT_PREFIX): name for name in names}
    for name in unknown:
        near = get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX), short, n=1)
        advice = f"did you mean {short[near[0]]}?" if near else "`cutbank settings` lists all; unset it"
        yield Finding("warn", f"environment {name}", f"no setting has this variable, so it does nothing; {advice}")
    if not unknown:
        given = sum(name in environ for name in names)
        yield Finding("ok", "environment", f"{given} of {len(names)} variables set, none unknown")


async def check_log(url: str, spec: PipelineSpec) -> Finding:
    """Opens the log and looks for the spec's streams."""
    try:
        path = local_path(url)
        if path is not None and not path.exists():
            return _log_to_be(path)
        if path is not None and not os.access(path, os.R_OK | os.W_OK):
            return Finding("FAIL", "log", f"no permission to read and write {path}; run as its owner or grant it")
        async with open_log(url, may_create=False) as transport:
            names = await transport.streams()
            wanted = (spec.source, spec.destination, spec.errors)
            for name in wanted:
                if name in names:
                    await transport.describe(name)
    except (CutbankError, OSError) as error:
        return Finding("FAIL", "log", _why(error))
    missing = [name for name in wanted if name not in names]
    note = f"; {', '.join(missing)} not made yet, services make them when they start" if missing else ""
    return Finding("ok", "log", f"{url}: {len(names)} stream(s){note}")


@asynccontextmanager
async def _kafka(url: str) -> "AsyncIterator[KafkaTransport]":
    from cutbank.transports.kafka import KafkaTransport

    async with open_log(url, may_create=False) as transport:
        assert isinstance(transport, KafkaTransport), "the scheme says so"
        yield transport


def _is_kafka(url: str) -> bool:
    return url.startswith("kafka://")


async def check_brokers(url: str, spec: PipelineSpec) -> tuple[Finding, ...]:
    """On Kafka: what the brokers are, and whether a committed position after a fence can be relied on there."""
    if not _is_kafka(url):
        return ()
    try:
        async with _kafka(url) as transport:
            stream = spec.source if spec.source in await transport.streams() else None
            report = await transport.check_brokers(f"{spec.name}.scorer", stream)
    except CutbankError as error:
        return (Finding("FAIL", "brokers", _why(error)),)
    if report.warning:
        return (Finding("warn", "brokers", report.warning),)
    tried = f"; {report.rounds} fences tried, none showed a stale position" if report.rounds else ""
    return (Finding("ok", "brokers", f"{report.names}{tried}"),)


async def check_sizes(url: str, spec: PipelineSpec, *, emit_all: bool = False) -> tuple[Finding, ...]:
    """On Kafka: whether the topics that the scorer writes to take its largest line; nothing where they all do.

    `emit_all`: the scorer is to publish every record's score.
    """
    if not _is_kafka(url):
        return ()
    try:
        async with _kafka(url) as transport:
            there = set(await transport.streams())
            wanted = [name for name in _outputs(spec, emit_all=emit_all) if name in there]
            found = [(name, await transport.too_small(name)) for name in wanted]
    except CutbankError as error:
        return (Finding("FAIL", "message sizes", _why(error)),)
    return tuple(Finding("warn", f"message size of {name}", why) for name, why in found if why)


async def check_permissions(url: str, spec: PipelineSpec, *, emit_all: bool = False) -> tuple[Finding, ...]:
    """On Kafka: which services the user of this URL may run. Fails if none; each may have a user of its own.

    `emit_all`: the scorer is to publish every record's score.
    """
    if not _is_kafka(url):
        return ()
    try:
        found = await _lacking(url, spec, emit_all=emit_all)
    except CutbankError as error:
        return (Finding("FAIL", "permissions", _why(error)),)
    level: Level = "warn" if any(not lacks for lacks in found.values()) else "FAIL"
    return tuple(
        Finding(level, f"permissions to {service}", f"missing: {', '.join(lacks)}; allow them by ACLs")
        if lacks
        else Finding("ok", f"permissions to {service}", "nothing is missing")
        for service, lacks in found.items()
    )


def _outputs(spec: PipelineSpec, *, emit_all: bool) -> list[str]:
    """Streams that the scorer writes."""
    return [spec.destination, spec.errors, *([spec.scores] if emit_all else [])]


async def _lacking(url: str, spec: PipelineSpec, *, emit_all: bool) -> dict[str, tuple[str, ...]]:
    from cutbank.transports.kafka import Needs

    outputs = _outputs(spec, emit_all=emit_all)
    roles = {
        "produce": Needs(writes=[spec.source], makes=[spec.source]),
        "score": Needs(reads=[spec.source], writes=outputs, makes=outputs, group=f"{spec.name}.scorer"),
        "sink": Needs(reads=[spec.destination, spec.errors], group=f"{spec.name}.sink"),
    }
    async with _kafka(url) as transport:
        return {service: await transport.lacking(needs) for service, needs in roles.items()}


def _log_to_be(path: Path) -> Finding:
    folder = nearest_folder(path.parent)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return Finding("FAIL", "log", f"{path} is not there and can't be made: no permission to write in {folder}")
    return Finding("ok", "log", f"{path} is not there yet; the first service makes it")


async def check_store(url: str, what: str, *, deletes: bool = False) -> Finding:
    """Probes the store with concurrent creators, as the services do at start; `deletes`: as the scorer does."""
    from cutbank.objects import open_store

    try:
        async with open_store(url, clock=SystemClock(), metrics=NoMetrics()) as store:
            await store.probe(deletes=deletes)
            deletions = ", deletions too" if deletes else ""
            return Finding("ok", what, f"{store.url}: create-only puts, reads and listings work{deletions}")
    except StoreUnavailable as error:
        advice = "; check endpoint=… and region=… in the URL, AWS_ENDPOINT_URL_S3, and the network"
        return Finding("FAIL", what, f"{_why(error)}{advice if url.startswith('s3://') else ''}")
    except (CutbankError, OSError) as error:
        return Finding("FAIL", what, _why(error))


def check_detector(spec: PipelineSpec) -> Finding:
    """Computes the model's size, scores the fixed input and compares the digest."""
    try:
        from cutbank.pipeline.scoring.model import registered

        source = registered(spec)
        size = source.model_bytes()
        source.self_check()
    except (CutbankError, ImportError) as error:
        return Finding("FAIL", "detector", _why(error))
    return Finding(
        "ok",
        "detector",
        f"{spec.detector.name}: the fixed input scores as it should on this machine; a partition's model takes "
        f"{size / 1e6:.1f} MB",
    )


def check_disk(folder: Path) -> Finding:
    """Free space where a log or a store lies, or will."""
    there = nearest_folder(folder)
    what = f"disk of {folder}"
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("FAIL", what, _why(error))
    text = f"{free / (1 << 30):.1f} GiB free"
    if free < FREE_BYTES_FAIL:
        return Finding("FAIL", what, f"{text}; make room: services stop writing when it is full")
    if free < FREE_BYTES_WARN:
        return Finding("warn", what, f"{text}; make room before a long run")
    return Finding("ok", what, text)


def nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest one above it that is there."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())


def _why(error: Any) -> str:
    return str(error) or type(error).__name__
