"""What a replay is to do, found out before anything is written. Owns the request, its plan and what is refused.

Reads only. Event-loop only.
"""

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

from cutbank.errors import StreamMissing, UsageError
from cutbank.pipeline.replaying.origins import Origin, Origins, Stretch, stretches
from cutbank.pipeline.replaying.output import foreign
from cutbank.pipeline.scoring.model import DetectorSource, Emit, registered
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.spec import NAME_PATTERN, PipelineSpec
from cutbank.transports.base import Start, StreamInfo, Transport

WARM_UP_RECORDS_MAX: Final = 1_000_000_000
"""Most records that an empty model learns before the first score."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    output: str
    """The stream that takes the lines; not one of the pipeline's own."""
    start: Start
    """Of the first record that is scored."""
    to_ms: int | None = None
    """Only records that arrived before this; None: all that is there now."""
    warm_up: int | None = None
    """Records learnt before the first one scored, from an empty model; None: begin where the live model did, else
    empty at the first record."""
    emit: Emit = "anomalies"
    """anomalies: lines of records over the threshold. all: of every record that has a score."""


@dataclass(frozen=True, slots=True)
class Part:
    """One partition that has records to score."""

    stretch: Stretch
    origin: Origin
    key: bytes
    """Of each of its lines in the output stream."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A replay that may begin."""

    spec: PipelineSpec
    request: Request
    info: StreamInfo
    parts: tuple[Part, ...]
    """In the order of the source's partitions; those without a record to score are left out."""
    origins: Origins
    source: DetectorSource

    @property
    def keys(self) -> frozenset[bytes]:
        """All keys that are ours."""
        return frozenset(part.key for part in self.parts)


async def prepare(
    transport: Transport,
    state: StateRoom | None,
    spec: PipelineSpec,
    request: Request,
    *,
    detectors: DetectorSource | None = None,
) -> Plan:
    """Look at everything, change nothing.

    Raises UsageError (a name, an empty stretch, an output stream that holds something else), StreamMissing (the
    source), DetectorMismatch.
    """
    _check_output(spec, request.output)
    source = detectors or registered(spec)
    await asyncio.to_thread(source.model_bytes)
    await asyncio.to_thread(source.self_check)
    info = await transport.describe(spec.source)
    origins = Origins(transport, state, spec, source, info, warm_up=request.warm_up, emit=request.emit)
    parts = []
    for stretch in await stretches(transport, info, request.start, request.to_ms):
        if not stretch.empty:
            origin = await origins.find(stretch)
            spec_hash = spec.hash(algorithm_version=source.algorithm_version)
            parts.append(Part(stretch, origin, _key(stretch, origin, spec_hash, request.emit)))
    if not parts:
        raise UsageError(
            f"stream {spec.source!r} has no record of that time; `cutbank tail {spec.source} --verbose` shows when its "
            "records arrived"
        )
    plan = Plan(spec, request, info, tuple(parts), origins, source)
    await _check_content(transport, plan)
    return plan


def _check_output(spec: PipelineSpec, output: str) -> None:
    if not re.fullmatch(NAME_PATTERN, output):
        raise UsageError(f"output stream {output!r}: 1 to 100 letters, digits, _ . or -, first a letter or digit")
    if output in (spec.source, spec.destination, spec.errors, spec.scores):
        raise UsageError(f"output stream {output!r} is the live pipeline's own; name a new one")


def _key(stretch: Stretch, origin: Origin, spec_hash: str, emit: Emit) -> bytes:
    """Differs wherever lines could differ; not by where the stretch ends, so that a longer one may go on."""
    partition = stretch.partition
    meaning = [partition.stream, partition.id, origin.run.identity, spec_hash, stretch.first, origin.mark, emit]
    return b"replay " + hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:16].encode()


async def _check_content(transport: Transport, plan: Plan) -> None:
    """Refuse a stream that holds anything else, wherever in it."""
    try:
        there = await transport.describe(plan.request.output)
    except StreamMissing:
        return
    for bounds in there.partitions:
        if await foreign(transport, bounds.partition, bounds.oldest, bounds.end, plan.keys):
            raise UsageError(mixed(plan.request.output))


def mixed(output: str) -> str:
    """What is said of an output stream that holds anything else."""
    return (
        f"output stream {output!r} holds records of another replay (another spec, --from, --warm-up or --emit, or its "
        "first records are past retention by now) or of something else; name a new one"
    )
