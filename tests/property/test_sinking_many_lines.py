"""Many records read at once are what they are one by one, whatever lies among them: lines, and what a stretch keeps."""

import itertools
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cutbank.pipeline.sinking import stretch as stretches
from cutbank.pipeline.sinking.claims import Claim, Layout, Mark
from cutbank.pipeline.sinking.lines import LineReader
from cutbank.pipeline.sinking.many_lines import PATH_CHARACTERS_MAX, Lines, read_many
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Batch, Partition, Position
from sinking_world import CHAIN, FIRST_MINUTE_MS, PIPELINE, STREAM, anomaly, error_record

WHOLE = orjson.loads(anomaly(7))
ODD_VALUES: list[Any] = [
    None,
    True,
    1.5,
    -1,
    2**63,
    2**70,
    "",
    "x" * 300,
    "\u0669",
    "7",
    "5.9",
    "+7",
    " 7",
    "1_0",
    [],
    {},
]
ODD_TIMES = [
    None,
    7,
    "",
    "2026-11-22 23:00:07.999Z",
    "2026-13-22T23:00:07.999Z",
    "2026-11-22T23:00:60.000Z",
    "0000-11-22T23:00:07.999Z",
    "2026-11-22T23:00:07.99\u0669Z",
    "2026-11-22T23:00:0/.999Z",
    "2026-11-22T23:00:0:.999Z",
    "1970-01-01T00:00:00.000Z",
    "9999-12-31T23:59:59.999Z",
]
RAW = [
    b"",
    b"{",
    b"junk",
    b"12",
    b'"text"',
    b"[{}]",
    b"null",
    b'{"a":\n1}',
    b"\xff",
    b"\xef\xbb\xbf{}",
    b"{}",
    b'{"SOURCE":null}',
]


@st.composite
def odd(draw: st.DrawFn) -> bytes:
    """A record like ours with one field changed, removed or added, or white space about it."""
    record = orjson.loads(draw(st.sampled_from([anomaly(7), error_record(7)])))
    name = draw(st.sampled_from(["ANOMALY_SCORE", "ROWTIME", "ERROR_TIME", "SOURCE", *WHOLE["SOURCE"]]))
    part = record["SOURCE"] if name in record["SOURCE"] else record
    if draw(st.booleans()):
        part.pop(name, None)
    else:
        part[name] = draw(st.sampled_from(ODD_TIMES if name in ("ROWTIME", "ERROR_TIME") else ODD_VALUES))
    try:
        text = orjson.dumps(record)
    except TypeError:  # an integer beyond 64 bits: as its digits
        part[name] = 2**64 - 1
        text = orjson.dumps(record)
    return text + draw(st.sampled_from([b"", b"", b" ", b"\n", b"\r"]))


GOOD = st.builds(
    lambda number, source, run, pipeline, score, second: anomaly(
        number,
        source=source,
        run=run,
        pipeline=pipeline,
        score=score,
        at_ms=FIRST_MINUTE_MS + second * 1000,
        columns={"k": f"v{number % 3}", "deep": {"er": number % 2}},
    ),
    st.integers(0, 40),
    st.sampled_from("000ab"),
    st.sampled_from([1, 1, 1, 2]),
    st.sampled_from([PIPELINE] * 6 + ["staging"]),
    st.sampled_from([1.5, 2.0, 2, -0.0, 0.0]),
    st.integers(0, 70),
)
ERRORS = st.builds(error_record, st.integers(0, 40))
ANY = st.one_of(GOOD, ERRORS, odd(), st.sampled_from(RAW))


def one_by_one(values: list[bytes], keys: tuple[str, ...]) -> list[Any]:
    reader = LineReader(partition_keys=keys)
    return [reader.line(value, position=Position(5), arrival_ms=FIRST_MINUTE_MS) for value in values]


def rows(lines: Lines) -> list[Any]:
    values = lines.values or [""] * len(lines)
    return list(zip(lines.texts, lines.seconds.tolist(), lines.scores, lines.sources(), values, strict=True))


KEYS = st.sampled_from([(), ("k",), ("k", "deep"), ("deep.er",), ("missing", "k"), ("ANOMALY_SCORE",)])


@given(st.lists(st.one_of(GOOD, ERRORS), min_size=1, max_size=30) | st.lists(ANY, min_size=1, max_size=6), KEYS)
def test_where_many_are_read_at_once_each_is_what_it_is_alone(values: list[bytes], keys: tuple[str, ...]) -> None:
    lines = read_many(values, partition_keys=keys)
    if lines is not None:
        assert rows(lines) == one_by_one(values, keys)
        assert lines.bytes == sum(map(len, lines.texts))
        sources = list(lines.sources())
        assert lines.alike == (
            len({each[:3] for each in sources}) == 1
            and all(before.position < after.position for before, after in itertools.pairwise(sources))
        )


@pytest.mark.parametrize("made", [anomaly, error_record])
@pytest.mark.parametrize("keys", [(), ("id",), ("id", "absent.at.all")])
def test_plain_records_are_read_at_once(made: Any, keys: tuple[str, ...]) -> None:
    lines = read_many([made(number) for number in range(100)], partition_keys=keys)
    assert lines is not None
    assert lines.alike


@given(odd())
@example(orjson.dumps({**WHOLE, "ANOMALY_SCORE": 2**64 - 1})).via("no float64: alone it is the nearest one")
def test_one_odd_record_is_never_read_as_something_else(value: bytes) -> None:
    lines = read_many([anomaly(1), value, anomaly(9)])
    if lines is not None:
        assert rows(lines) == one_by_one([anomaly(1), value, anomaly(9)], ())


def test_a_long_value_of_a_partition_key_is_not_kept_and_has_the_same_path() -> None:
    values = [anomaly(n, columns={"k": "é" * (PATH_CHARACTERS_MAX + n)}) for n in range(3)]
    lines = read_many(values, partition_keys=("k",))
    assert lines is not None
    assert rows(lines) == one_by_one(values, ("k",))


def taken(values: list[bytes], arrivals_ms: list[int], sizes: list[int], **limits: Any) -> list[Any]:
    """What stretches make of these records, batch by batch."""
    keys = limits.pop("keys")
    layout = Layout(
        prefix="".join(f"!{{partitionKeyFromQuery:{key}}}/" for key in keys),
        partition_keys=keys,
        partition_values_max=2,
    )
    if not keys:
        layout = Layout()
    found: list[Any] = []

    def new(claim: Claim | None) -> Stretch:
        end, marks, minute = (
            (Position(0), (Mark(partition="trades@00000000/a", run=1, position=Position(20), ordinal=0),), 0)
            if claim is None
            else (claim.end, claim.marks_after, claim.minute_ms)
        )
        return Stretch(
            pipeline=PIPELINE, layout=layout, start=end, reading=end, marks=marks, minute_ms=minute, **limits
        )

    def cut() -> Stretch:
        claim, bodies = stretch.claim(CHAIN, spec_hash=None)
        found.append((claim, bodies, stretch.dropped, stretch.others, stretch.foreign, stretch.clamped_ms))
        return new(claim)

    stretch, at = new(None), 0
    for size in [*sizes, len(values)]:
        stop = min(len(values), at + size)
        batch = Batch(
            partition=Partition(STREAM, "0"),
            start=Position(at),
            end=Position(stop),
            positions=[Position(number) for number in range(at, stop)],
            arrivals_ms=arrivals_ms[at:stop],
            keys=[None] * (stop - at),
            values=values[at:stop],
        )
        index = 0
        while (index := stretch.take(batch, index, broker_ms=stop)) < len(batch):
            stretch = cut()
        at = stop
    if stretch.count:
        cut()
    return found


@settings(deadline=None, max_examples=150)
@given(
    records=st.lists(st.tuples(ANY, st.sampled_from([0] * 12 + [1, 400, 30_000, 70_000, -30_000])), max_size=60),
    runs=st.lists(st.tuples(st.integers(0, 200), st.sampled_from("0ab")), max_size=3),
    sizes=st.lists(st.integers(0, 40), max_size=6),
    records_max=st.sampled_from([3, 40, 500]),
    bytes_max=st.sampled_from([1, 3000, 1 << 20]),
    keys=st.sampled_from([(), ("k",), ("k", "deep.er")]),
    marks_max=st.sampled_from([1, 2, 4096]),
)
def test_a_stretch_keeps_the_same_however_its_records_are_read(
    records: list[tuple[bytes, int]],
    runs: list[tuple[int, str]],
    sizes: list[int],
    records_max: int,
    bytes_max: int,
    keys: tuple[str, ...],
    marks_max: int,
) -> None:
    """Runs of plain records with repeats among them, and anything else between; against one record at a time."""
    values, arrivals_ms, now_ms = [], [], FIRST_MINUTE_MS
    for value, later_ms in records:
        now_ms += later_ms
        values.append(value)
        arrivals_ms.append(now_ms)
    for first, source in runs:
        plain = [anomaly(number, source=source, columns={"k": "v"}) for number in range(first, first + 50)]
        values += plain
        arrivals_ms += [now_ms] * len(plain)
    with patch.object(stretches, "MARKS_MAX", marks_max):
        found = taken(values, arrivals_ms, sizes, bytes_max=bytes_max, records_max=records_max, keys=keys)
        with patch.object(Stretch, "_take_at_once", lambda *_: False):
            expected = taken(values, arrivals_ms, sizes, bytes_max=bytes_max, records_max=records_max, keys=keys)
    assert found == expected
