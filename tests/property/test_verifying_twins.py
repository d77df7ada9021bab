"""The audit in a hurry says what the audit line by line says, whatever was done to lines, objects and claims."""

import gzip
import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.pipeline.sinking.claims import Claim, DataObject, FirstRecord, Layout
from cutbank.pipeline.sinking.lines import LineReader, Source
from cutbank.pipeline.sinking.many_lines import read_many
from cutbank.pipeline.sinking.rendering import render
from cutbank.pipeline.verifying import quick
from cutbank.pipeline.verifying.contents import examine
from cutbank.pipeline.verifying.quick import look, unpack
from cutbank.pipeline.verifying.tables import Key, Names, Table, TableMaker, digest_of, extents, in_order
from cutbank.pipeline.verifying.tails import read_tails
from cutbank.records import Position
from sinking_world import FIRST_MINUTE_MS, PIPELINE, anomaly, error_record

MINUTE_MS = FIRST_MINUTE_MS

GOOD = st.builds(
    lambda number, source, run, pipeline, score, second: anomaly(
        number,
        source=source,
        run=run,
        pipeline=pipeline,
        score=score,
        at_ms=FIRST_MINUTE_MS + second * 1000,
        columns={"id": "a"},
    ),
    st.one_of(st.integers(0, 200), st.sampled_from([2**63, 2**64 - 1, 2**64, 2**70 + 3])),
    st.sampled_from("0000ab\u00e9"),
    st.sampled_from([1, 1, 1, 2, 2**62]),
    st.sampled_from([PIPELINE] * 9 + ['sta"ging', "q"]),
    st.sampled_from([1.5, 2.0, 2, -0.0, 0.0, 1.2345678901234567]),
    st.sampled_from([5, 5, 5, 6, 6, 7, 100]),
)
ERRORS = st.builds(error_record, st.integers(0, 40))
RAW = st.sampled_from(
    [b"", b"{", b"junk", b"12", b"[{}]", b"null", b"\xff", b"{}", b'{"SOURCE":null}', b' {"a":1}', b'{"a":\r1}']
)
ODD_SCORES = [b"true", b"null", b'"1"', b"[]", b"-1", b"1e300", b"18446744073709551615", b"1e3"]
TAIL = anomaly(7)[anomaly(7).index(b',"ROWTIME"') :]
PIECES = st.sampled_from(
    [
        b"{",
        b"}",
        b'"',
        b"\\",
        b",",
        b":",
        b'"a"',
        b"1",
        b"[",
        b"]",
        b'"a":',
        b'"ANOMALY_SCORE":2',
        TAIL,
        TAIL[:-1],
        b" ",
    ]
)
BUILT = st.lists(PIECES, max_size=8).map(lambda parts: b"".join(parts) + TAIL)
"""Lines that end as the scorer ends them, and are or are not what they look like."""


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A good line with a few bytes changed, doubled or gone, most of them near its end."""
    line = bytearray(draw(GOOD))
    for _ in range(draw(st.integers(1, 3))):
        at = len(line) - 1 - draw(st.integers(0, len(line) - 1))
        how = draw(st.sampled_from(["change", "double", "drop"]))
        if how == "change":
            line[at] = draw(st.sampled_from(b'0129:."{},\\ \rZaA\xc3\x00'))
        elif how == "double":
            line.insert(at, line[at])
        elif len(line) > 1:
            del line[at]
    return bytes(line).replace(b"\n", b"")


PLAIN = st.builds(
    lambda number, source, score, second: anomaly(
        number, source=source, score=score, at_ms=FIRST_MINUTE_MS + second * 1000, columns={"id": "a"}
    ),
    st.integers(1000, 2000),
    st.sampled_from("000001"),
    st.sampled_from([1.5, 1.25, 2.0, 2]),
    st.sampled_from([5, 6, 7, 8, 9, 10, 15]),
)
MANY_PLAIN = st.lists(PLAIN, min_size=20, max_size=60)
"""As most objects are: all of them are read by their ends."""

LINES = st.lists(st.one_of(GOOD, GOOD, GOOD, GOOD, ERRORS, RAW, BUILT, spoilt()), max_size=40)
MANY_GOOD = st.lists(GOOD, min_size=1, max_size=60)


def ordered(texts: list[bytes]) -> list[bytes]:
    """As a sink orders what is its own."""
    lines = [LineReader().line(text, position=Position(0), arrival_ms=0) for text in texts]
    lines.sort(key=lambda line: (line.second, -line.score, line.source or ()))
    return [line.text for line in lines]


def source_of(names: Names, number: int, key: Key) -> Source:
    pipeline, partition = names.known[number]
    run, position, ordinal = key
    return Source(pipeline, partition, run, position, ordinal)


def rows(table: Table, names: Names) -> list[Any]:
    """What a table says, line by line."""
    said = []
    for at in range(len(table)):
        number = int(table.names[at])
        source = source_of(names, number, table.key(at)) if number >= 0 else None
        second = int(table.seconds[at]) if source is not None else 0
        said.append((second, float(table.scores[at]), source, table.digests[at].tobytes()))
    return said


def one_by_one(texts: list[bytes]) -> list[Any]:
    lines = [LineReader().line(text, position=Position(0), arrival_ms=0) for text in texts]
    return [
        (0 if line.source is None else line.second, line.score, line.source, digest_of(line.text)) for line in lines
    ]


def claim_of(texts: list[bytes], layout: Layout, *, minute_ms: int, count: int) -> tuple[Claim, DataObject, bytes]:
    """A claim that says of these very bytes what a sink would say."""
    inside = b"".join(text + b"\n" for text in texts)
    item = DataObject(key="k", count=count, line_bytes=max(1, len(inside)), sha256=hashlib.sha256(inside).hexdigest())
    claim = Claim(
        pipeline=PIPELINE,
        stream="anomalies",
        partition="0",
        start=Position(0),
        end=Position(1),
        minute_ms=minute_ms,
        layout=layout,
        objects=(item,),
        first=FirstRecord(position=Position(0), sha256="cd" * 32),
        marks_before=(),
        marks_after=(),
    )
    body = inside if layout.compression == "none" else gzip.compress(inside, mtime=0)
    if layout.compression == "gzip":
        body = render(layout, [b"{}"]).body[:10] + body[10:]
    return claim, item, body


def agree(claim: Claim, item: DataObject, body: bytes) -> bool:
    """Whether an object is clean; both ways say the same."""
    names = Names()
    unpacked = unpack(claim, item, body)
    found = look(claim, item, unpacked, names=names, expelled=lambda _: False, digests=True)
    examined = examine(claim, item, body, expelled=lambda _: False)
    assert (found.fault, found.detail, found.notes) == (examined.fault, examined.detail, examined.notes)
    assert rows(found.table, names) == one_by_one([line.text for line in examined.lines])
    maker = TableMaker(Names(), digests=False)
    clean = quick._clean(claim, item, unpacked, maker, clocks_apart_ms=5000) is not None
    assert clean == (examined.fault is None and not examined.notes)
    return clean


@given(
    texts=LINES,
    sort=st.booleans(),
    early_ms=st.sampled_from([0, 60_000]),
    more=st.sampled_from([0, 0, 0, 1]),
    packed=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_an_object_as_claimed_is_clean_in_a_hurry_exactly_when_it_is_line_by_line(
    *, texts: list[bytes], sort: bool, early_ms: int, more: int, packed: bool
) -> None:
    texts = ordered(texts) if sort else texts
    layout = Layout(compression="gzip") if packed else Layout()
    count = max(1, len(texts) + more)
    agree(*claim_of(texts, layout, minute_ms=MINUTE_MS - early_ms, count=count))


@given(texts=MANY_PLAIN, swapped=st.integers(0, 58), by=st.integers(1, 3), odd=st.sampled_from([b"", b"", *ODD_SCORES]))
@settings(max_examples=200, deadline=None)
def test_an_object_with_two_lines_out_of_order_or_an_odd_score(
    *, texts: list[bytes], swapped: int, by: int, odd: bytes
) -> None:
    texts = ordered(texts)
    one, other = swapped % len(texts), (swapped + by) % len(texts)
    texts[one], texts[other] = texts[other], texts[one]
    if odd:
        texts[one] = texts[one].replace(b'"ANOMALY_SCORE":', b'"ANOMALY_SCORE":%s,"x":' % odd)
    agree(*claim_of(texts, Layout(), minute_ms=MINUTE_MS, count=len(texts)))


@given(MANY_PLAIN)
@settings(max_examples=60, deadline=None)
def test_plain_lines_are_read_by_their_ends_as_they_are_one_by_one(texts: list[bytes]) -> None:
    names = Names()
    maker = TableMaker(names, digests=True)
    maker.add(texts)
    assert rows(maker.table(), names) == one_by_one(texts)
    said = tails_of(texts)
    assert said == [(second, score, source) for second, score, source, _ in one_by_one(texts)]


@pytest.mark.parametrize("odd", [b"/", b":", b"0", b"9", b".", b",", b'"', b"{", b"}", b"\\", b" ", b"\r", b"a", b"-"])
def test_every_byte_of_an_end_counts(odd: bytes) -> None:
    good = anomaly(1234, source="0")
    for at in range(good.index(b'"ANOMALY_SCORE"'), len(good)):
        texts = [good, good[:at] + odd + good[at + 1 :], good]
        said = tails_of(texts)
        if said is not None:
            assert said == [(second, score, source) for second, score, source, _ in one_by_one(texts)], at


@given(MANY_GOOD)
@settings(max_examples=60, deadline=None)
def test_what_a_sink_has_ordered_is_clean(texts: list[bytes]) -> None:
    claim, item, body = claim_of(ordered(texts), Layout(), minute_ms=MINUTE_MS + 60_000, count=len(texts))
    assert agree(claim, item, body)


@given(texts=MANY_GOOD, data=st.data(), packed=st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_changed_body_is_never_clean_and_has_one_name(
    *, texts: list[bytes], data: st.DataObject, packed: bool
) -> None:
    layout = Layout(compression="gzip") if packed else Layout()
    claim, item, body = claim_of(ordered(texts), layout, minute_ms=MINUTE_MS, count=len(texts))
    at = data.draw(st.integers(0, len(body) - 1))
    how = data.draw(st.sampled_from(["change", "cut", "double"]))
    changed = {
        "change": body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :],
        "cut": body[:at],
        "double": body[:at] + body[at : at + 1] + body[at:],
    }[how]
    if not packed and changed != body:  # of deflate a last bit may mean nothing
        assert not agree(claim, item, changed)
    else:
        agree(claim, item, changed)


@given(LINES.filter(bool))
@settings(max_examples=200, deadline=None)
def test_a_table_says_what_the_lines_say(texts: list[bytes]) -> None:
    names = Names()
    maker = TableMaker(names, digests=True)
    maker.add(texts)
    assert rows(maker.table(), names) == one_by_one(texts)


@given(st.lists(st.one_of(GOOD, GOOD, GOOD, BUILT, spoilt()), min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_the_end_of_a_line_says_what_the_line_says(texts: list[bytes]) -> None:
    said = tails_of(texts)
    assert said in (None, [(second, score, source) for second, score, source, _ in one_by_one(texts)])


def tails_of(texts: list[bytes]) -> list[Any] | None:
    """What is read from the lines' ends."""
    names = Names()
    tails = read_tails(texts, names.number)
    if tails is None:
        return None
    return [
        (second, score, source_of(names, name, (run, Position(position), ordinal)))
        for second, score, name, run, position, ordinal in zip(
            tails.seconds.tolist(),
            tails.scores,
            tails.names.tolist(),
            tails.runs.tolist(),
            tails.positions.tolist(),
            tails.ordinals.tolist(),
            strict=True,
        )
    ]


def test_lines_as_the_scorer_writes_them_are_read_by_their_ends_and_errors_together() -> None:
    """Else all of this would be a slow way to read lines one by one."""
    texts = [anomaly(1000 + number * 7, source=str(number % 4)) for number in range(300)]
    assert read_tails(texts, Names().number) is not None
    errors = [error_record(number) for number in range(300)]
    assert read_tails(errors, Names().number) is None
    assert read_many(errors) is not None


@given(texts=MANY_GOOD, sort=st.booleans())
@settings(max_examples=100, deadline=None)
def test_order_and_extents_are_those_of_the_identities(*, texts: list[bytes], sort: bool) -> None:
    texts = ordered(texts) if sort else texts
    names = Names()
    maker = TableMaker(names, digests=False)
    maker.add(texts)
    table = maker.table()
    found, repeats = extents(table)
    sources = [source for _, _, source, _ in one_by_one(texts)]
    assert repeats == (len(set(sources)) < len(sources))
    by_name: dict[Any, list[Any]] = {}
    for source in sources:
        by_name.setdefault(source[:2], []).append(source[2:])
    said = {names.known[each.name]: (each.first, each.last) for each in found}
    assert said == {name: (min(keys), max(keys)) for name, keys in by_name.items()}
    assert in_order(table) or not sort


def test_a_line_longer_than_a_part_and_a_last_one_without_its_end() -> None:
    long = orjson.dumps({"text": "x" * (3 * quick.PART_BYTES)})
    texts = [anomaly(1), long, anomaly(2), b"", anomaly(3)]
    inside = b"\n".join(texts)
    assert [text for part in quick._parts(Layout(), inside) for text in part] == texts
    assert list(quick._parts(Layout(), b"")) == []
