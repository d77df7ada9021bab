"""How records are cut into batches, replayed, frozen and delivered again changes no byte of what comes out."""

import random
from itertools import pairwise

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.pipeline.scoring.model import PartitionModel
from cutbank.pipeline.scoring.snapshots import Birth, Run, snapshot_bytes, snapshot_from_bytes
from cutbank.records import Batch, Position
from cutbank.transports.base import Output
from scoring_stage import DETECTORS, P0, SPEC, trade

RUN = Run(pipeline="p", partition=P0, identity="i", number=1, spec_hash="h")

BAD = [b"", b"{", b"null", b"\xff", b'{"price":1}', b'{"price":true,"quantity":1}', b'{"price":1,"quantity":0.5}']


def stream(rng: random.Random, count: int) -> Batch:
    """A log with gaps, arrivals that go back, and bad records."""
    positions, position = [], 0
    for _ in range(count):
        position += rng.randrange(1, 4)
        positions.append(Position(position))
    return Batch(
        partition=P0,
        start=Position(0),
        end=Position(position + rng.randrange(1, 4)),
        positions=positions,
        arrivals_ms=[1_000_000 + rng.randrange(5000) for _ in positions],
        keys=[None] * count,
        values=[rng.choice(BAD) if rng.random() < 0.2 else trade(number) for number in range(count)],
    )


def part(batch: Batch, first: int, last: int) -> Batch:
    """Records `first` to `last`, with the gap before them."""
    cut = slice(first, last)
    return Batch(
        partition=P0,
        start=batch.positions[first - 1] + 1 if first else batch.start,  # type: ignore[arg-type]
        end=Position(batch.positions[last - 1] + 1) if last < len(batch) else batch.end,
        positions=batch.positions[cut],
        arrivals_ms=batch.arrivals_ms[cut],
        keys=batch.keys[cut],
        values=batch.values[cut],
    )


def born() -> PartitionModel:
    return PartitionModel.born(SPEC, Birth(run=RUN, start=Position(0)), DETECTORS, emit="all")


@given(st.integers(0, 2**32), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=8))
@settings(max_examples=150, deadline=None)
def test_cutting_into_batches_changes_nothing(seed: int, count: int, cuts: list[int]) -> None:
    log = stream(random.Random(seed), count)
    whole = born()
    expected = list(whole.apply(log).outputs)
    pieces = born()
    found: list[Output] = []
    edges = sorted({0, count, *(cut for cut in cuts if cut < count)})
    for first, last in pairwise(edges):
        found += pieces.apply(part(log, first, last)).outputs
    if count == 0:
        pieces.apply(log)
    assert found == expected
    assert snapshot_bytes(pieces.frozen()) == snapshot_bytes(whole.frozen())


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 39), st.sampled_from(["apply", "again", "freeze"]))))
@settings(max_examples=150, deadline=None)
def test_snapshots_and_repeated_deliveries_change_nothing(seed: int, steps: list[tuple[int, str]]) -> None:
    log = stream(random.Random(seed), 40)
    expected = list(born().apply(log).outputs)
    subject, done = born(), 0
    found: list[Output] = []
    for upto, step in steps:
        if step == "freeze":
            thawed = snapshot_from_bytes(snapshot_bytes(subject.frozen()), key="k")
            subject = PartitionModel.thawed(SPEC, thawed, DETECTORS, emit="all")
        elif step == "again" and done:
            assert subject.apply(part(log, 0, done)).records == 0
        elif upto > done:
            found += subject.apply(part(log, done, upto)).outputs
            done = upto
    found += subject.apply(part(log, done, 40)).outputs
    assert found == expected


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_each_record_gives_a_score_or_an_error_once(seed: int) -> None:
    log = stream(random.Random(seed), 40)
    outputs = born().apply(log).outputs
    places = [
        int(orjson.loads(output.value)["SOURCE"]["position"])
        for output in outputs
        if output.stream in ("scores", "errors")
    ]
    assert places == list(log.positions)


@given(st.integers(0, 2**32), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_one_record_more_or_less_changes_every_later_score(seed: int, drop: int) -> None:
    # What gives the crash tests their teeth: a lost or doubled record can't hide.
    values = [trade(number) for number in range(42)]
    scores = []
    for chosen in (values, values[:drop] + values[drop + 1 :]):
        log = stream(random.Random(seed), len(chosen))
        log = Batch(P0, log.start, log.end, log.positions, log.arrivals_ms, log.keys, chosen)
        lines = [orjson.loads(output.value) for output in born().apply(log).outputs if output.stream == "scores"]
        scores.append({line["id"]: line["ANOMALY_SCORE"] for line in lines})
    assert all(scores[0][number] == scores[1][number] for number in range(drop))
    assert all(scores[0][number] != scores[1][number] for number in range(drop + 1, 42))
