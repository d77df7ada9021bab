"""However the records come and wherever stretches are cut: each anomaly once, and any claim can be made again."""

import hashlib
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.pipeline.sinking.claims import ChainId, Claim, Layout, Mark, decode, encode
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Batch, Partition, Position
from sinking_world import FIRST_MINUTE_MS, PIPELINE, anomaly

PARTITION = Partition("anomalies", "0")
CHAIN = ChainId("p", *PARTITION)


@dataclass(frozen=True)
class Record:
    position: int
    arrival_ms: int
    value: bytes


OURS = st.builds(
    lambda position, run, source, score: {"number": position, "run": run, "source": source, "score": score},
    st.integers(0, 15),
    st.sampled_from([1, 1, 1, 2]),
    st.sampled_from("01"),
    st.sampled_from([1.5, 2.0, 2.5]),
)
FOREIGN = st.sampled_from([b"junk", b'{"a":\n1}', b""])
STEPS = st.tuples(
    st.integers(1, 3),
    st.sampled_from([0, 0, 1, 500, 20_000, 70_000, -30_000]),
    st.one_of(OURS, OURS, OURS, FOREIGN),
)
"""How much position and arrival grow, and the record."""


def log_of(steps: list[tuple[int, int, dict[str, Any] | bytes]]) -> list[Record]:
    """A partition's records: positions with gaps, repeats of any kind, arrivals that mostly grow, foreign ones."""
    records, position, arrival_ms = [], 0, FIRST_MINUTE_MS
    for at, (gap, later_ms, made) in enumerate(steps):
        position, arrival_ms = position + gap, arrival_ms + later_ms
        value = made if isinstance(made, bytes) else anomaly(**made, at_ms=FIRST_MINUTE_MS + 400 * at)
        records.append(Record(position, arrival_ms, value))
    return records


def batch(records: list[Record], *, start: int, end: int) -> Batch:
    return Batch(
        partition=PARTITION,
        start=Position(start),
        end=Position(end),
        positions=[Position(record.position) for record in records],
        arrivals_ms=[record.arrival_ms for record in records],
        keys=[None] * len(records),
        values=[record.value for record in records],
    )


def cutting(records: list[Record], sizes: list[int]) -> list[Batch]:
    """The log in batches of these sizes, some empty, with ends that lie anywhere before the next record."""
    batches, start, at = [], 0, 0
    for size in [*sizes, len(records)]:
        part = records[at : at + size]
        at += len(part)
        end = part[-1].position + 1 if part else start
        if at < len(records) and size % 2:
            end = records[at].position
        batches.append(batch(part, start=start, end=end))
        start = end
    return batches


def expected(records: list[Record]) -> list[bytes]:
    """What has to be in the objects, by the plainest rule: what exceeds all before of its source, and foreign ones."""
    marks: dict[str, tuple[int, int]] = {}
    kept = []
    for record in records:
        try:
            source = orjson.loads(record.value)["SOURCE"]
        except (orjson.JSONDecodeError, KeyError):
            kept.append(b"foreign")
            continue
        mark = (source["run"], int(source["position"]))
        if mark > marks.get(source["partition"], (0, 0)):
            marks[source["partition"]] = mark
            kept.append(record.value)
    return kept


def new(claim: Claim | None, *, bytes_max: int, records_max: int, reading: int | None = None) -> Stretch:
    end, marks, minute_ms = (Position(0), (), 0) if claim is None else (claim.end, claim.marks_after, claim.minute_ms)
    return Stretch(
        pipeline=PIPELINE,
        layout=Layout(),
        start=end,
        reading=end if reading is None else Position(reading),
        marks=marks,
        minute_ms=minute_ms,
        bytes_max=bytes_max,
        records_max=records_max,
    )


def again(claim: Claim, records: list[Record]) -> tuple[Claim, list[bytes]]:
    """The claim made again from the log, one record a batch."""
    assert claim.first is not None
    stretch = Stretch(
        pipeline=PIPELINE,
        layout=claim.layout,
        start=claim.start,
        reading=claim.first.position,
        marks=claim.marks_before,
        minute_ms=claim.minute_ms,
        bytes_max=claim.line_bytes,
        records_max=claim.records,
    )
    at = claim.first.position
    for record in records:
        if claim.first.position <= record.position < claim.end:
            assert stretch.take(batch([record], start=at, end=record.position + 1), broker_ms=0) == 1
            at = Position(record.position + 1)
    stretch.take(batch([], start=at, end=claim.end), broker_ms=0)
    return stretch.claim(CHAIN, spec_hash=claim.spec_hash)


@settings(deadline=None)
@given(
    records=st.lists(STEPS, max_size=40).map(log_of),
    sizes=st.lists(st.integers(0, 7), max_size=20),
    cuts=st.lists(st.booleans(), max_size=20),
    records_max=st.integers(1, 9),
    bytes_max=st.integers(1, 2000),
)
def test_any_cutting_gives_each_anomaly_once_and_claims_that_can_be_made_again(
    records: list[Record], sizes: list[int], cuts: list[bool], records_max: int, bytes_max: int
) -> None:
    made: list[tuple[Claim, list[bytes]]] = []
    stretch = new(None, bytes_max=bytes_max, records_max=records_max)

    def cut() -> None:
        nonlocal stretch
        made.append(stretch.claim(CHAIN, spec_hash=None))
        stretch = new(made[-1][0], bytes_max=bytes_max, records_max=records_max)

    for each, extra in zip_longest(cutting(records, sizes), cuts[: len(sizes) + 1]):
        index = stretch.take(each, broker_ms=0)
        while index < len(each):
            cut()
            index = stretch.take(each, index, broker_ms=0)
        if stretch.count and extra:
            cut()  # as by a limit of memory, a stop, broker time
    if stretch.count:
        cut()

    lines: list[bytes] = []
    end, minute_ms, marks = Position(0), 0, ()
    keys = set()
    for claim, bodies in made:
        assert (claim.start, claim.marks_before) == (end, marks), "the chain is whole"
        assert claim.minute_ms >= minute_ms, "the minute never goes back"
        end, minute_ms, marks = claim.end, claim.minute_ms, claim.marks_after
        assert again(claim, records) == (claim, bodies)
        assert decode(encode(claim), Claim, key=claim.key) == claim
        for item, body in zip(claim.objects, bodies, strict=True):
            assert hashlib.sha256(body).hexdigest() == item.sha256
            assert body.count(b"\n") == item.count <= records_max
            assert item.key not in keys
            keys.add(item.key)
            lines += body.split(b"\n")[:-1]
    ours = [line if b'"id"' in line else b"foreign" for line in lines]
    assert sorted(ours) == sorted(expected(records))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.sampled_from("ab")), max_size=30), st.integers(0, 30)
)
def test_marks_do_not_depend_on_where_they_were_written_down(sources: list[tuple[int, int, str]], cut: int) -> None:
    values = [anomaly(position, run=run, source=source) for position, run, source in sources]
    records = [Record(at, FIRST_MINUTE_MS, value) for at, value in enumerate(values)]

    def marks_after(parts: list[list[Record]]) -> tuple[Mark, ...]:
        marks: tuple[Mark, ...] = ()
        for part in parts:
            stretch = Stretch(
                pipeline=PIPELINE,
                layout=Layout(),
                start=Position(0),
                reading=Position(100),
                marks=marks,
                minute_ms=0,
                bytes_max=1 << 20,
                records_max=99,
            )
            stretch.take(batch(part, start=0, end=100), broker_ms=0)
            marks = stretch._marks.export()
        return marks

    assert marks_after([records]) == marks_after([records[:cut], records[cut:]])
