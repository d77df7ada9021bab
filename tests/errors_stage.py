"""A source stream with bad records and an error stream about them, as a scorer leaves them; on any transport."""

from collections.abc import Sequence
from typing import NamedTuple

from cutbank.pipeline.scoring.decode import Fault, Reason
from cutbank.pipeline.scoring.lines import LineWriter
from cutbank.pipeline.scoring.snapshots import Run
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message, Partition, Position, partition_for
from cutbank.transports.base import Start, StreamConfig, Transport

SPEC = PipelineSpec(name="p")
ERROR_MS = 1_790_000_000_000
"""ERROR_TIME of the first error, 2026-09-21T14:13:20Z; each next one is a second later."""


class Bad(NamedTuple):
    """A bad record to be."""

    value: bytes
    reason: Reason = Reason.NULL_FEATURE
    partition: str = "0"
    key: bytes | None = None


async def make_streams(transport: Transport, *, sources: int = 1, errors: int = 1) -> None:
    await transport.ensure(StreamConfig(SPEC.source, partitions=sources))
    await transport.ensure(StreamConfig(SPEC.errors, partitions=errors))


async def report(transport: Transport, bad: Sequence[Bad], *, spec: PipelineSpec = SPEC, first: int = 0) -> None:
    """Publish the records, then their error lines, as the scorer would."""
    source, errors = await transport.describe(spec.source), await transport.describe(spec.errors)
    for number, record in enumerate(bad, start=first):
        partition = Partition(spec.source, record.partition)
        position = await transport.position_at(partition, Start("latest"))
        await transport.publish([Message(spec.source, record.value, record.key, record.partition)])
        run = Run(pipeline=spec.name, partition=partition, identity=source.identity, number=1, spec_hash="")
        fault = Fault(record.reason, f"message {number}")
        line = LineWriter(spec, run).error(record.value, fault, rowtime_ms=ERROR_MS + 1000 * number, position=position)
        await transport.publish(
            [Message(spec.errors, line, partition_id=partition_for(record.partition, errors.partition_ids))]
        )


async def contents(transport: Transport, stream: str, *, after: int = 0) -> dict[str, list[tuple[bytes, bytes | None]]]:
    """Values and keys of each partition, from its record number `after` on."""
    found = {}
    for info in (await transport.describe(stream)).partitions:
        rows: list[tuple[bytes, bytes | None]] = []
        position = info.oldest
        while position < info.end:
            batch = await transport.read(info.partition, position, records_max=1000, bytes_max=1 << 24)
            rows += zip(batch.values, batch.keys, strict=True)
            position = Position(max(batch.end, position + 1))
        found[info.partition.id] = rows[after:]
    return found
