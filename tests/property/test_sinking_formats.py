"""Any JSON that a record may be, in every format: NDJSON and Parquet give each line back byte for byte, CSV its values.

The texts are written here, not by a library: numbers of any length, names that are there twice, spaces, escapes.
"""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cutbank.pipeline.sinking import csv_rows
from cutbank.pipeline.sinking.claims import OTHER_FIELDS, ColumnType, Layout
from cutbank.pipeline.sinking.json_rows import members
from cutbank.pipeline.sinking.rendering import body_bytes_max, content, content_bytes_max, is_content_of, lines, render

COLUMNS: dict[str, ColumnType] = {
    "a": "VARCHAR",
    "b": "DOUBLE",
    "c": "TINYINT",
    "d": "BIGINT",
    "e": "BOOLEAN",
    "t": "TIMESTAMP",
    "s": "SOURCE",
}
NDJSON, CSV = Layout(), Layout(format="csv", columns=tuple(COLUMNS))
PARQUET = Layout(format="parquet", columns=tuple(COLUMNS), types=tuple(COLUMNS.values()))
SOURCE = b'{"pipeline":"p","stream":"t@0","run":1,"partition":"0","position":"4","ordinal":0}'

STRINGS = st.one_of(
    st.text(max_size=5).map(orjson.dumps),
    st.text(max_size=5).map(lambda text: json.dumps(text).encode()),
    st.sampled_from(
        [rb'"\u00e4\/"', b'",\\"OTHER_FIELDS\\":"', b'"2026-11-22T23:00:00.123Z"', b'"9999-12-31T23:59:59.999Z"']
    ),
).filter(lambda text: loads(text) is not None)
NUMBERS = st.one_of(
    st.integers().map(lambda number: b"%d" % number),
    st.integers(-200, 200).map(lambda number: b"%d" % number),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: repr(number).encode()),
    st.sampled_from([b"-0", b"-0.0", b"1.10", b"5.0", b"1E5", b"1e-400", b"9" * 40, b"0." + b"3" * 40, b"1e308"]),
)
PLAIN = st.one_of(STRINGS, NUMBERS, st.sampled_from([b"true", b"false", b"null", SOURCE, b"{}", b"[]"]))
SPACES = st.sampled_from([b"", b"", b"", b" ", b"\t "])
NAMES = st.one_of(st.sampled_from([b'"%s"' % name.encode() for name in COLUMNS]), STRINGS, st.just(rb'"\u0061"'))


def loads(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def joined(parts: list[bytes], ends: bytes, space: bytes) -> bytes:
    return ends[:1] + space + (b"," + space).join(parts) + space + ends[1:]


VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.builds(joined, st.lists(inner, max_size=3), st.just(b"[]"), SPACES),
        st.builds(
            joined,
            st.lists(st.tuples(STRINGS, inner).map(lambda pair: pair[0] + b":" + pair[1]), max_size=3),
            st.just(b"{}"),
            SPACES,
        ),
    ),
    max_leaves=5,
)
ANY = st.builds(
    joined,
    st.lists(st.builds(lambda name, space, value: name + space + b":" + value, NAMES, SPACES, VALUES), max_size=9),
    st.just(b"{}"),
    SPACES,
)
OURS = st.tuples(*([VALUES] * len(COLUMNS))).map(
    lambda values: b"{" + b",".join(b'"%s":%s' % (n.encode(), v) for n, v in zip(COLUMNS, values, strict=True)) + b"}"
)
"""Lines as Cutbank writes them, but for the values."""
TYPED = st.tuples(
    st.text(max_size=9).map(orjson.dumps),
    st.floats(allow_nan=False, allow_infinity=False).map(orjson.dumps),
    st.integers(-128, 127).map(orjson.dumps),
    st.integers(-(2**63), 2**63 - 1).map(orjson.dumps),
    st.booleans().map(orjson.dumps),
    st.datetimes().map(lambda at: at.isoformat(timespec="milliseconds").encode()).map(lambda text: b'"%sZ"' % text),
    st.just(SOURCE),
).map(
    lambda values: b"{" + b",".join(b'"%s":%s' % (n.encode(), v) for n, v in zip(COLUMNS, values, strict=True)) + b"}"
)
LINES = st.lists(st.one_of(ANY, OURS, TYPED).filter(lambda line: loads(line) is not None), min_size=1, max_size=20)
COMPRESSIONS = st.sampled_from(["none", "gzip", "zstd"])


def packed(layout: Layout, compression: str) -> Layout:
    return Layout(**{**layout.model_dump(exclude={"version"}), "compression": compression})


@settings(deadline=None, max_examples=60)
@given(texts=LINES, layout=st.sampled_from([NDJSON, PARQUET]), compression=COMPRESSIONS)
@example(texts=[b'{"b":1,"b":2}', b"{}", b'{"OTHER_FIELDS":1}'], layout=PARQUET, compression="none")
def test_every_line_comes_back_byte_for_byte(texts: list[bytes], layout: Layout, compression: str) -> None:
    layout = packed(layout, compression)
    rendered = render(layout, texts)
    told = {"count": len(texts), "line_bytes": rendered.line_bytes}
    inside = content(layout, rendered.body, bytes_max=content_bytes_max(layout, **told))
    assert lines(layout, inside) == texts
    assert is_content_of(layout, rendered.described("k"), rendered.body)
    assert len(rendered.body) <= body_bytes_max(layout, **told)


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(TYPED, min_size=1, max_size=20))
def test_what_is_of_its_columns_types_needs_no_other_fields(texts: list[bytes]) -> None:
    assert content(PARQUET, render(PARQUET, texts).body) == b"".join(text + b"\n" for text in texts)


@settings(deadline=None, max_examples=60)
@given(texts=LINES, compression=COMPRESSIONS)
def test_csv_keeps_the_text_of_every_value(texts: list[bytes], compression: str) -> None:
    """Column by column where that is quick, and member by member where a text is odd: the same cells."""
    layout = packed(CSV, compression)
    inside = content(layout, render(layout, texts).body)
    rows = list(csv.reader(io.StringIO(inside.decode(), newline="")))
    assert rows[0] == [*COLUMNS, OTHER_FIELDS]
    assert rows[1:] == [cells(text) for text in texts]
    assert len(inside) <= content_bytes_max(layout, count=len(texts), line_bytes=sum(len(text) + 1 for text in texts))


@settings(deadline=None, max_examples=60)
@given(texts=LINES)
def test_csv_of_many_lines_is_that_of_each(texts: list[bytes]) -> None:
    together = csv_rows.rows_of(tuple(COLUMNS), texts)
    assert together == b"".join(csv_rows.rows_of(tuple(COLUMNS), [text]) for text in texts)


def cells(text: bytes) -> list[str]:
    """By the rule in `csv_rows`, from the members alone."""
    found: dict[str, str] = {}
    others: dict[str, str] = {}
    for member in members(text):
        if member.name in COLUMNS:
            value = json.loads(member.text) if member.is_string else member.text
            found[member.name] = "" if value == "null" and not member.is_string else value
        else:
            others[member.name] = f"{member.name_text}:{member.text}"
    other = f"{{{','.join(others.values())}}}" if others else ""
    return [*(found.get(name, "") for name in COLUMNS), other]


@given(text=st.one_of(ANY, OURS))
def test_members_are_those_that_a_library_reads(text: bytes) -> None:
    def pairs() -> Iterator[tuple[str, Any]]:
        for member in members(text):
            yield member.name, json.loads(member.text, object_pairs_hook=list)

    assert list(pairs()) == json.loads(text, object_pairs_hook=list)
