"""Roots with many claims, made in memory: what a sink would leave, without a log to read from."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from cutbank.metrics import NoMetrics
from cutbank.objects.base import ObjectStore
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.sinking.claims import Birth, ChainId, Claim, Layout, Mark, encode
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Batch, Partition, Position
from cutbank.testing.clock import ManualClock
from cutbank.testing.memory_store import MemoryStore
from sinking_world import CHAIN, FIRST_MINUTE_MS, MINUTE_MS, anomaly

Line = Callable[[int, int], bytes]
"""The line of an anomaly, by its number and its arrival, ms."""


def plain_line(number: int, at_ms: int) -> bytes:
    return anomaly(number, score=1 + number * 7 % 5 / 8, at_ms=at_ms)


def claimed(
    chain: ChainId,
    numbers: Sequence[int],
    *,
    start: int,
    minute: int,
    marks: tuple[Mark, ...] = (),
    layout: Layout | None = None,
    line: Line = plain_line,
) -> tuple[Claim, list[bytes]]:
    """The claim of these anomalies, one at each position from `start` on, and the bodies of its objects."""
    at_ms = FIRST_MINUTE_MS + minute * MINUTE_MS
    layout = layout or Layout()
    stretch = Stretch(
        pipeline=chain.pipeline,
        layout=layout,
        start=Position(start),
        reading=Position(start),
        marks=marks,
        minute_ms=0,
        bytes_max=1 << 40,
        records_max=1 << 40,
    )
    batch = Batch(
        partition=Partition(chain.stream, chain.partition),
        start=Position(start),
        end=Position(start + len(numbers)),
        positions=[Position(start + index) for index in range(len(numbers))],
        arrivals_ms=[at_ms] * len(numbers),
        keys=[None] * len(numbers),
        values=[line(number, at_ms) for number in numbers],
    )
    assert stretch.take(batch, broker_ms=at_ms) == len(numbers)
    return stretch.claim(chain, spec_hash=None)


def chain_of(
    store: MemoryStore,
    count: int,
    *,
    a_claim: int = 3,
    chain: ChainId = CHAIN,
    layout: Layout | None = None,
    line: Line = plain_line,
) -> list[Claim]:
    """A chain of so many claims, a minute each, of so many anomalies each, with their objects."""
    pipeline, stream, partition = chain
    birth = Birth(pipeline=pipeline, stream=stream, partition=partition, start=Position(0), identity="i")
    store.create(birth.key, encode(birth))
    made: list[Claim] = []
    for index in range(count):
        start = index * a_claim
        marks = made[-1].marks_after if made else ()
        numbers = range(start, start + a_claim)
        claim, bodies = claimed(chain, numbers, start=start, minute=index, marks=marks, layout=layout, line=line)
        store.create(claim.key, encode(claim))
        for item, body in zip(claim.objects, bodies, strict=True):
            store.create(item.key, body)
        made.append(claim)
    return made


async def copied(memory: MemoryStore, store: ObjectStore) -> None:
    """Everything, into another store."""
    for key, body in memory.objects.items():
        await store.create(key, body)


def on_disk(memory: MemoryStore, folder: Path) -> None:
    """Everything, into a folder."""
    asyncio.run(copied(memory, FileSystemStore(folder, clock=ManualClock(), metrics=NoMetrics())))
