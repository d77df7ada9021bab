"""Malformed records through the real scorer on a real log: every bad one once in the error stream, no neighbour moved.

    make bad-input RECORDS=1000000 ARGS="--seed 1 --result bad-input.json"

Publishes records of `cutbank.testing.bad_records`, runs `run_scorer` over them, then makes the same records again from
the seed and holds each against what came out: a bad record has one error line with its reason, SOURCE and payload; a
good one has the line, byte for byte, that a model gives which never met a bad record. Memory is a few batches.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import structlog

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.scoring.config import ScorerConfig
from cutbank.pipeline.scoring.decode import Reason
from cutbank.pipeline.scoring.lines import ERROR_PAYLOAD_BYTES_MAX, rowtime_text
from cutbank.pipeline.scoring.model import DetectorSource, PartitionModel, registered
from cutbank.pipeline.scoring.scorer import group_name, run_scorer
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.spec import DetectorSpec, PipelineSpec
from cutbank.records import Batch, Message, Partition, Position, position_text
from cutbank.testing.bad_records import LARGE_SHARE, Case, RecordMaker, bad_records
from cutbank.testing.detectors import chain_detectors
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig, Transport
from long_runs import at_least, save

PORTION = 2000
"""Records published, or held against the output, at a time."""
PORTION_BYTES_MAX = 64 << 20
ALL_KINDS_RECORDS = 500_000
"""So many records must have had one of every kind."""


@dataclass(frozen=True)
class Plan:
    """What is sent, and by what it is scored."""

    records: int
    seed: int
    odd_share: float = 0.5
    large_share: float = LARGE_SHARE
    detector: str = "chain"
    batch_records_max: int = 4096

    @property
    def spec(self) -> PipelineSpec:
        # Every record with a score is an anomaly and is published twice: so every line is made and has a limit to meet.
        name = "ensemble" if self.detector == "chain" else self.detector
        return PipelineSpec(name="bad-input", threshold=0.0, detector=DetectorSpec.model_validate({"name": name}))

    @property
    def detectors(self) -> DetectorSource:
        spec = self.spec
        return chain_detectors(dimensions=len(spec.features)) if self.detector == "chain" else registered(spec)

    def cases(self) -> Iterator[Case]:
        """The records, the same each time."""
        endless = bad_records(self.spec, seed=self.seed, odd_share=self.odd_share, large_share=self.large_share)
        return islice(endless, self.records)


@dataclass
class Tally:
    """What was found."""

    records: int = 0
    scored: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    publish_s: float = 0.0
    score_s: float = 0.0
    compare_s: float = 0.0

    def as_json(self, plan: Plan) -> dict[str, Any]:
        """For the page of results."""
        return {
            "what": "bad input through the scorer",
            "records": self.records,
            "scored": self.scored,
            "bad": self.bad.total(),
            "bad_by_reason": dict(sorted(self.bad.items())),
            "kinds": len(self.kinds),
            "lost": 0,  # any other number has ended the run
            "repeated": 0,
            "different": 0,
            "detector": plan.detector,
            "seed": plan.seed,
            "seconds": round(self.publish_s + self.score_s + self.compare_s, 1),
        }


class _Countdown(NoMetrics):
    """Stops the scorer when so many records have their line."""

    def __init__(self, records: int, stop: asyncio.Event) -> None:
        self._left = records
        self._stop = stop

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        if name in ("cutbank_records_scored_total", "cutbank_record_errors_total"):
            self._left -= round(value)
            if self._left <= 0:
                self._stop.set()


async def run(plan: Plan, folder: Path, *, say: Callable[[str], object] = lambda what: None) -> Tally:
    """All of it, in `folder`; `say` is told what comes next.

    Raises AssertionError: the first record of which something else came than must.
    """
    tally = Tally()
    clock, url = SystemClock(), f"local://{folder}/log.db?durability=process-crash"
    async with (
        open_transport(url, clock=clock, metrics=NoMetrics()) as transport,
        open_store(f"file://{folder}/state", clock=clock, metrics=NoMetrics()) as store,
    ):
        await transport.ensure(StreamConfig(plan.spec.source))
        began_s = time.monotonic()
        say(f"publishing {plan.records:,} records")
        for portion in _portions(plan.cases()):
            await transport.publish([Message(plan.spec.source, case.value) for case in portion])
        tally.publish_s = time.monotonic() - began_s
        began_s, stop = time.monotonic(), asyncio.Event()
        say("scoring them")
        await run_scorer(
            transport,
            store,
            plan.spec,
            ScorerConfig(emit="all", batch_records_max=plan.batch_records_max),
            clock=clock,
            metrics=_Countdown(plan.records, stop),
            stop=stop,
            rng=random.Random(plan.seed),
            detectors=plan.detectors,
        )
        tally.score_s = time.monotonic() - began_s
        began_s = time.monotonic()
        say("holding each against what came of it")
        await _compare(plan, transport, tally)
        tally.compare_s = time.monotonic() - began_s
    return tally


def _portions(cases: Iterator[Case]) -> Iterator[list[Case]]:
    """Lists of cases, by number and size."""
    portion: list[Case] = []
    size = 0
    for case in cases:
        portion.append(case)
        size += len(case.value)
        if len(portion) >= PORTION or size >= PORTION_BYTES_MAX:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


async def _compare(plan: Plan, transport: Transport, tally: Tally) -> None:
    """Hold every record against the lines that came of it."""
    spec = plan.spec
    info = await transport.describe(spec.source)
    (place,) = info.partitions
    committed = await transport.committed(group_name(spec), place.partition)
    assert committed == place.end, f"the scorer committed {committed}, the log ends at {place.end}"
    born = Run(pipeline=spec.name, partition=place.partition, identity=info.identity, number=1, spec_hash="")
    alone = PartitionModel.born(spec, Birth(run=born, start=place.oldest), plan.detectors, emit="all")
    cases = plan.cases()
    found = {name: _lines(transport, name) for name in (spec.scores, spec.destination, spec.errors)}
    position = place.oldest
    while position < place.end:
        batch = await transport.read(place.partition, position, records_max=PORTION, bytes_max=PORTION_BYTES_MAX)
        portion = list(islice(cases, len(batch)))
        assert [case.value for case in portion] == list(batch.values), "the log holds what was sent"
        expected = _expected(alone, batch, portion)
        scores = iter(expected[spec.scores])
        for index, case in enumerate(portion):
            where = f"record {batch.positions[index]}, kind {case.kind!r}: {case.value[:200]!r}"
            tally.records += 1
            tally.kinds[case.kind] += 1
            if case.reason is None:
                tally.scored += 1
                assert await anext(found[spec.scores], None) == next(scores, None), where
            else:
                tally.bad[case.reason.value] += 1
                _check_error(await anext(found[spec.errors], None), case, batch, index, where=where)
        assert next(scores, None) is None, "a score of a record that has none"
        for line in expected[spec.destination]:
            assert await anext(found[spec.destination], None) == line, f"anomaly {line[:300]!r}"
        position = batch.end
    for name, lines in found.items():
        assert await anext(lines, None) is None, f"{name} has more lines than there are records"
    assert tally.records == plan.records
    kinds = set(RecordMaker(spec, seed=0).kinds)
    assert plan.records < ALL_KINDS_RECORDS or tally.kinds.keys() == kinds, f"never met: {kinds - tally.kinds.keys()}"


def _expected(alone: PartitionModel, batch: Batch, portion: Sequence[Case]) -> dict[str, list[bytes]]:
    """The lines of a model that meets only the records which are learnt, at the same positions."""
    kept = [index for index, case in enumerate(portion) if case.learnt]
    outputs = alone.apply(
        Batch(
            partition=batch.partition,
            start=batch.start,
            end=batch.end,
            positions=[batch.positions[index] for index in kept],
            arrivals_ms=[batch.arrivals_ms[index] for index in kept],
            keys=[None] * len(kept),
            values=[batch.values[index] for index in kept],
        )
    ).outputs
    return {
        name: [output.value for output in outputs if output.stream == name]
        for name in (alone.spec.scores, alone.spec.destination)
    }


def _check_error(line: bytes | None, case: Case, batch: Batch, index: int, *, where: str) -> None:
    assert line is not None, f"no error line: {where}"
    error = orjson.loads(line)
    assert isinstance(case.reason, Reason)
    assert error["ERROR_NAME"] == case.reason.value, f"{error['ERROR_NAME']}, not {case.reason}: {where}"
    assert error["SOURCE"]["position"] == position_text(batch.positions[index]), where
    assert (error["SOURCE"]["partition"], error["SOURCE"]["run"]) == (batch.partition.id, 1), where
    assert error["DATA_BYTES"] == len(case.value), where
    assert error["DATA_ROW"] == case.value[:ERROR_PAYLOAD_BYTES_MAX].hex(), where
    assert error["ERROR_TIME"] == error["DATA_ROWTIME"] == rowtime_text(batch.arrivals_ms[index]), where


async def _lines(transport: Transport, stream: str) -> AsyncIterator[bytes]:
    """A stream's values, a batch in memory."""
    partition, position = Partition(stream, "0"), Position(0)
    while batch := await transport.read(partition, position, records_max=PORTION, bytes_max=PORTION_BYTES_MAX):
        for value in batch.values:
            yield value
        position = batch.end


def main(argv: Sequence[str] | None = None) -> int:
    """The long form."""
    parser = argparse.ArgumentParser(prog="make bad-input", description="Malformed records through the real scorer.")
    parser.add_argument("--records", type=at_least(1), default=1_000_000)
    parser.add_argument("--seed", type=at_least(0), default=1)
    parser.add_argument("--detector", choices=("chain", "ensemble", "rcf", "hst"), default="chain")
    parser.add_argument("--result", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args(argv)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    plan = Plan(records=given.records, seed=given.seed, detector=given.detector)
    with tempfile.TemporaryDirectory() as folder:
        try:
            tally = asyncio.run(run(plan, Path(folder), say=lambda what: sys.stderr.write(f"{what}\n")))
        except AssertionError as error:
            again = f'make bad-input RECORDS={plan.records} ARGS="--seed {plan.seed} --detector {plan.detector}"'
            sys.stderr.write(f"FAILED: {error}\nagain: {again}\n")
            return 1
    figures = tally.as_json(plan)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    if given.result is not None:
        save(given.result, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
