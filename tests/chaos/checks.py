"""The promises, checked with handles of our own: positions against durable output, objects against claims, and all
lines against the oracle's.

Reads only; what it reads may grow meanwhile: what is promised to come later is read first. Event-loop only.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import orjson

from chaos.world import World
from cutbank.errors import ObjectMissing
from cutbank.pipeline.accounts import SourceId, source_id
from cutbank.pipeline.audit import read_all
from cutbank.pipeline.oracle import Unproven, undisturbed
from cutbank.pipeline.sinking.claims import ChainId, Claim, DataObject, Layout, decode, link_from_key
from cutbank.pipeline.sinking.inspect import birth, chain_claims, data_objects
from cutbank.pipeline.sinking.rendering import content, is_content_of, lines, render
from cutbank.records import Partition, Position

READS_AT_ONCE = 16
"""Objects of a claim that are read together."""

EXAMPLES_MAX = 3
"""Findings of one kind that are spelled out."""


async def positions_ahead(world: World) -> list[str]:
    """Where a committed position is ahead of what is durable, or an object not what its claim says; none is right."""
    found: list[str] = []
    for info in [info for stream in world.sunk for info in await world.partitions(stream)]:
        # The position first: what it stands for was durable before it.
        committed = await world.committed("sink", info.partition)
        durable = await _durable(world, info.partition, found)
        if committed is not None and committed > durable and await _holds(world, info.partition, durable, committed):
            found.append(f"sink: {info.partition} is committed up to {committed}, durable up to {durable}")
    for info in await world.partitions(world.spec.source):
        snapshots = (await world.state.inventory(info.partition)).snapshots
        committed = await world.committed("scorer", info.partition)
        if snapshots and (committed is None or snapshots[0].next > committed):
            found.append(f"scorer: {info.partition} has a snapshot of {snapshots[0].next}, committed is {committed}")
    return found


async def _holds(world: World, partition: Partition, start: Position, end: int) -> bool:
    """Whether a record lies between; a log may have gaps, such as the markers and records of aborted transactions."""
    while start < end:
        batch = await world.transport.read(partition, start, records_max=1, bytes_max=1)
        if len(batch):
            return batch.positions[0] < end
        if batch.end <= start:
            break
        start = batch.end
    return False


async def _durable(world: World, partition: Partition, found: list[str]) -> Position:
    """Up to where everything of a partition of the anomalies is in objects."""
    chain = ChainId(world.spec.name, partition.stream, partition.id)
    async for info in world.store.list(chain.prefix):
        link = link_from_key(info.key)
        if link is None or link.kind != "claim":
            break
        claim = decode(await world.store.read(info.key), Claim, key=info.key)
        there = await _bodies(world, claim, found)
        return claim.start if None in there else claim.end
    try:
        return (await birth(world.store, chain)).start
    except ObjectMissing:
        return Position(0)


async def _bodies(world: World, claim: Claim, found: list[str]) -> list[bytes | None]:
    """The claim's objects, None where there is none; one that is not as its claim says is a finding."""
    bodies: list[bytes | None] = []
    for at in range(0, len(claim.objects), READS_AT_ONCE):
        some = claim.objects[at : at + READS_AT_ONCE]
        bodies += await asyncio.gather(*(_read(world, item) for item in some))
    for item, body in zip(claim.objects, bodies, strict=True):
        if body is not None and not is_content_of(claim.layout, item, body):
            found.append(f"object {item.key} is there, {len(body)} bytes, and not what its claim says")
    return bodies


async def _read(world: World, item: DataObject) -> bytes | None:
    try:
        return await world.store.read(item.key)
    except ObjectMissing:
        return None


@dataclass
class Lines:
    """Lines found somewhere, against the oracle's."""

    expected: int = 0
    found: int = 0
    lost: int = 0
    """Of the oracle's, not found."""
    repeated: int = 0
    """Found more than once: how often too many."""
    different: int = 0
    """Found with other bytes than the oracle's."""
    foreign: int = 0
    """Found, and not the oracle's."""
    examples: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether each expected line is there once, byte for byte, and nothing else."""
        return not (self.lost or self.repeated or self.different or self.foreign)

    def figures(self) -> dict[str, int]:
        """All but the examples."""
        return {name: value for name, value in asdict(self).items() if name != "examples"}


def compared(expected: Mapping[SourceId, bytes], found: Iterable[bytes], *, pipeline: str) -> Lines:
    """Found lines against expected ones, each by its identity."""
    lines, seen = Lines(expected=len(expected)), Counter[SourceId]()
    for line in found:
        lines.found += 1
        source = _identity(line, pipeline)
        if source is None or source not in expected:
            lines.foreign += 1
            _note(lines, f"foreign: {line[:200]!r}")
            continue
        seen[source] += 1
        if seen[source] > 1:
            lines.repeated += 1
            _note(lines, f"repeated: {source}")
        elif line != expected[source]:
            lines.different += 1
            _note(lines, f"different: {line[:300]!r}, not {expected[source][:300]!r}")
    for source in expected:
        if source not in seen:
            lines.lost += 1
            _note(lines, f"lost: {source}")
    return lines


def _identity(line: bytes, pipeline: str) -> SourceId | None:
    """Whose line it is; None: nobody's."""
    try:
        return source_id(orjson.loads(line), pipeline=pipeline)
    except ValueError:
        return None


def _note(lines: Lines, example: str) -> None:
    if len(lines.examples) < EXAMPLES_MAX:
        lines.examples.append(example)


@dataclass
class Verdict:
    """What came of everything, after the pipeline has stopped."""

    records: int
    """In the source stream."""
    published: Lines
    """The anomalies stream against the oracle."""
    written: Lines
    """The objects against the oracle."""
    refused: Lines
    """The error stream against the oracle."""
    kept: Lines
    """The objects of the error stream against the oracle."""
    objects: int
    lag: int
    """Of scorer and sink together."""
    findings: list[str]
    """Everything else that is wrong."""

    @property
    def right(self) -> bool:
        """Whether all promises were kept."""
        return all(lines.right for lines in self.lines) and not (self.lag or self.findings)

    @property
    def lines(self) -> tuple[Lines, ...]:
        """All that was compared."""
        return self.published, self.written, self.refused, self.kept

    @property
    def examples(self) -> list[str]:
        """Of what is wrong with lines and lag, for people."""
        places = zip(("stream", "objects", "errors", "objects of errors"), self.lines, strict=True)
        found = [f"{where}: {example}" for where, lines in places for example in lines.examples]
        return found + ([f"lag {self.lag}"] if self.lag else [])


async def judge(world: World) -> Verdict:
    """Compare everything, with all services stopped."""
    spec, findings = world.spec, await positions_ahead(world)
    expected: dict[SourceId, bytes] = {}
    bad: dict[SourceId, bytes] = {}
    async for item in undisturbed(world.transport, world.state, spec):
        if isinstance(item, Unproven) or not item.certain:
            findings.append(f"the oracle says: {item}")
            continue
        (expected if item.output.stream == spec.destination else bad)[item.source] = item.output.value
    written = await _sunk(world, spec.destination, expected, findings)
    kept = await _sunk(world, spec.errors, bad, findings)
    objects = [info.key async for info in data_objects(world.store)]
    findings += [f"object {key} has no claim" for key in objects if key not in written.keys | kept.keys]
    if not expected:
        findings.append("no anomaly at all: nothing was tested")
    return Verdict(
        records=await _count(world, spec.source),
        published=compared(expected, await _values(world, spec.destination), pipeline=spec.name),
        written=compared(expected, written.lines, pipeline=spec.name),
        refused=compared(bad, await _values(world, spec.errors), pipeline=spec.name),
        kept=compared(bad, kept.lines, pipeline=spec.name),
        objects=len(objects),
        lag=await world.lag("scorer", spec.source) + sum([await world.lag("sink", stream) for stream in world.sunk]),
        findings=findings,
    )


async def _count(world: World, stream: str) -> int:
    """Records in a stream; positions tell less, since a log may have gaps."""
    info = await world.transport.describe(stream)
    return sum([len(batch) async for batch in read_all(world.transport, info)])


async def _values(world: World, stream: str) -> list[bytes]:
    """Everything in a stream."""
    info = await world.transport.describe(stream)
    return [value async for batch in read_all(world.transport, info) for value in batch.values]


@dataclass
class _Sunk:
    """What the objects of a stream hold."""

    keys: set[str] = field(default_factory=set)
    """Of all objects that claims name."""
    lines: list[bytes] = field(default_factory=list)


async def _sunk(world: World, stream: str, expected: Mapping[SourceId, bytes], findings: list[str]) -> _Sunk:
    """Every line that the claims of a stream name; chains must be whole, and each object there."""
    sunk = _Sunk()
    for info in await world.partitions(stream):
        chain = ChainId(world.spec.name, info.partition.stream, info.partition.id)
        end: int | None = None
        async for claim in chain_claims(world.store, chain):
            if end is not None and claim.start != end:
                findings.append(f"{chain}: a claim starts at {claim.start}, the one before it ends at {end}")
            end = claim.end
            bodies = await _bodies(world, claim, findings)
            for item, body in zip(claim.objects, bodies, strict=True):
                sunk.keys.add(item.key)
                if body is None:
                    findings.append(f"object {item.key} is missing")
                    continue
                sunk.lines += as_published(
                    claim.layout, content(claim.layout, body), expected, pipeline=world.spec.name
                )
    return sunk


def as_published(layout: Layout, body: bytes, expected: Mapping[SourceId, bytes], *, pipeline: str) -> Sequence[bytes]:
    """The lines of an object's content as they were before they were laid out.

    Where a format does not keep a line's bytes, the expected line counts as found if laying it out gives this one.
    """
    found = lines(layout, body)
    if layout.format == "ndjson":
        return found
    sources = [_identity(line, pipeline) for line in found]
    wanted = [expected.get(source, line) if source else line for source, line in zip(sources, found, strict=True)]
    again = lines(layout, content(layout, render(layout, wanted).body))
    return [one if line == here else line for one, line, here in zip(wanted, found, again, strict=True)]
