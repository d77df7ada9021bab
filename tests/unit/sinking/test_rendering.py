"""Bodies in each format: golden content, CSV and back, gzip that is the same everywhere, damaged bodies."""

import csv
import gzip
import hashlib
import io
import json
import sys
import zlib
from pathlib import Path

import orjson
import pytest

from cutbank.errors import ObjectUnreadable
from cutbank.pipeline.sinking.claims import OTHER_FIELDS, ColumnType, Layout
from cutbank.pipeline.sinking.rendering import (
    CHUNK_BYTES,
    CONTENT_BYTES_MAX,
    Rendered,
    body_bytes_max,
    chunks,
    content,
    content_bytes_max,
    is_content_of,
    is_cut_off,
    lines,
    render,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = ("tickerSymbol", "tradeType", "price", "quantity", "id", "ANOMALY_SCORE", "ROWTIME", "SOURCE")
TYPES: tuple[ColumnType, ...] = (
    "VARCHAR",
    "VARCHAR",
    "DOUBLE",
    "INTEGER",
    "INTEGER",
    "DOUBLE",
    "TIMESTAMP",
    "SOURCE",
)
CSV = Layout(format="csv", columns=COLUMNS)
PARQUET = Layout(format="parquet", columns=COLUMNS, types=TYPES)
ALL = [
    layout.model_copy(update={"compression": compression, "version": 3 if compression == "zstd" else layout.version})
    for layout in (Layout(), CSV, PARQUET)
    for compression in ("none", "gzip", "zstd")
]
GOLDEN_CONTENT = {"ndjson": "object.ndjson", "csv": "object.csv", "parquet": "object.parquet-content"}


def golden_lines() -> list[bytes]:
    return (GOLDEN / "object.ndjson").read_bytes().removesuffix(b"\n").split(b"\n")


def cells(line: bytes, *columns: str) -> dict[str, str]:
    body = render(Layout(format="csv", columns=columns), [line]).body
    (row,) = csv.DictReader(io.StringIO(body.decode(), newline=""))
    return row


@pytest.mark.parametrize("layout", ALL, ids=lambda layout: f"{layout.format}-{layout.compression}")
def test_the_golden_content(layout: Layout) -> None:
    """The bytes of each format are frozen: any process must finish any claim."""
    rendered = render(layout, golden_lines())
    expected = (GOLDEN / GOLDEN_CONTENT[layout.format]).read_bytes()
    plain = (GOLDEN / "object.ndjson").read_bytes()
    assert content(layout, rendered.body) == expected
    assert rendered.sha256 == hashlib.sha256(plain).hexdigest()
    assert rendered.content_sha256 == (None if layout.format == "ndjson" else hashlib.sha256(expected).hexdigest())
    assert (rendered.count, rendered.line_bytes) == (len(golden_lines()), len(plain))
    assert is_content_of(layout, rendered.described("k"), rendered.body)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("packed.ndjson.zst", Layout(compression="zstd")),
        ("packed.parquet", PARQUET.model_copy(update={"compression": "zstd"})),
    ],
)
def test_what_was_packed_by_other_versions_still_reads(name: str, layout: Layout) -> None:
    """Made by zstd 1.5 and pyarrow 26; what packs otherwise today has the same content."""
    item = render(layout, golden_lines()).described("k")
    body = (GOLDEN / name).read_bytes()
    assert is_content_of(layout, item, body)
    assert lines(layout, content(layout, body)) == golden_lines()


def test_gzip_has_no_time_and_no_name_and_any_tool_reads_it() -> None:
    body = render(Layout(compression="gzip"), golden_lines()).body
    assert body[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    assert gzip.decompress(body) == (GOLDEN / "object.ndjson").read_bytes()


@pytest.mark.parametrize("layout", ALL[1:], ids=lambda layout: f"{layout.format}-{layout.compression}")
def test_many_lines_are_the_same_as_few(layout: Layout) -> None:
    """Formatted and compressed piece by piece; lines shorter and longer than a piece."""
    many = [b'{"id":%d,"text":"%s"}' % (n, b"x" * (n * 7919 % 500)) for n in range(2000)]
    many.insert(1000, b'{"id":-1,"text":"%s"}' % (b"y" * 3 * CHUNK_BYTES))
    rendered = render(layout, many)
    plain = b"".join(line + b"\n" for line in many)
    assert rendered.sha256 == hashlib.sha256(plain).hexdigest()
    assert rendered.line_bytes == len(plain)
    found = lines(layout, content(layout, rendered.body))
    assert [json.loads(line)["id"] for line in found] == [json.loads(line)["id"] for line in many]


def test_cells_keep_numbers_digit_for_digit_and_nested_values_as_json() -> None:
    nested = b'[1, {"d":"]}\\""}]'
    line = b'{"a":1.10,"b":123456789012345678901234567890,"c":%s,"e":true,"f":null,"g":"x\\u00e9\\n\\"q\\""}' % nested
    assert cells(line, *"abcdefg") == {
        "a": "1.10",
        "b": "123456789012345678901234567890",
        "c": nested.decode(),
        "d": "",
        "e": "true",
        "f": "",
        "g": 'xé\n"q"',
        OTHER_FIELDS: "",
    }


@pytest.mark.parametrize("line", [b"{}", b"{ }", b' {  "a" : "" }  ', b'{"a":null}'])
def test_what_is_empty_is_an_empty_cell(line: bytes) -> None:
    assert cells(line, "a") == {"a": "", OTHER_FIELDS: ""}


def test_a_field_without_a_column_is_not_lost() -> None:
    line = b'{"z":[1],"a":1,"":"x","y":null,"a":2}'
    row = cells(line, "a")
    assert row["a"] == "2", "the last of two counts, as for every reader of JSON"
    assert json.loads(row[OTHER_FIELDS]) == {"z": [1], "": "x", "y": None}
    layout = Layout(format="csv", columns=("a",))
    (back,) = lines(layout, render(layout, [line]).body)
    assert json.loads(back) == {"a": 2, "z": [1], "": "x", "y": None}


def test_nesting_without_end_is_no_matter() -> None:
    deep = b'{"a":' + b"[" * 1000 + b"]" * 1000 + b',"b":1}'
    assert cells(deep, "a", "b") == {"a": "[" * 1000 + "]" * 1000, "b": "1", OTHER_FIELDS: ""}


def test_lines_of_csv_tell_who_an_anomaly_is() -> None:
    found = [json.loads(line) for line in lines(CSV, content(CSV, render(CSV, golden_lines()).body))]
    for line, original in zip(found, map(json.loads, golden_lines()), strict=True):
        for name in ("ANOMALY_SCORE", "SOURCE", "ROWTIME", "DATA_ROW", "price", "id"):
            assert line.get(name) == original.get(name)


def test_a_string_that_reads_as_json_of_another_type_becomes_that() -> None:
    layout = Layout(format="csv", columns=tuple("abcdef"))
    line = b'{"a":"12","b":"","c":"null","d":"[x","e":"-","f":"true story"}'
    (back,) = lines(layout, render(layout, [line]).body)
    assert json.loads(back) == {"a": 12, "b": None, "c": "null", "d": "[x", "e": "-", "f": "true story"}


def test_a_string_that_reads_as_json_over_several_rows_is_one_line() -> None:
    layout = Layout(format="csv", columns=("a", "b"))
    (back,) = lines(layout, render(layout, [orjson.dumps({"a": "[1,\r\n2]", "b": "[x,\n2]"})]).body)
    assert b"\n" not in back
    assert b"\r" not in back
    assert json.loads(back) == {"a": [1, 2], "b": "[x,\n2]"}


def test_csv_is_what_other_readers_take_for_csv() -> None:
    layout = Layout(format="csv", columns=("a", "b"))
    texts = ["", "x", ",", '"', '""', "a\r\nb", "\n", "ä\u2028", " x ", "\x00", "'"]
    body = render(layout, [json.dumps({"a": text, "b": 1}).encode() for text in texts]).body
    rows = list(csv.reader(io.StringIO(body.decode(), newline="")))
    assert rows == [["a", "b", OTHER_FIELDS], *([text, "1", ""] for text in texts)]
    assert [json.loads(line)["a"] or "" for line in lines(layout, body)] == texts


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        (b"", "the header"),
        (b"a,c,OTHER_FIELDS\r\n", "the header"),
        (b"a,OTHER_FIELDS\r\n1\r\n", "1 cells"),
        (b"a,OTHER_FIELDS\r\n1,2,3\r\n", "3 cells"),
        (b"a,OTHER_FIELDS\r\n1,", "cut off"),
        (b"a,OTHER_FIELDS\r\n1,2", "no CSV"),
        (b'a,OTHER_FIELDS\r\n"1,2\r\n', "no CSV"),
        (b"a,OTHER_FIELDS\r\n\xff,\r\n", "not UTF-8"),
    ],
)
def test_damaged_csv_is_told(damaged: bytes, why: str) -> None:
    with pytest.raises(ObjectUnreadable, match=why):
        lines(Layout(format="csv", columns=("a",)), damaged)


def test_a_last_line_that_is_cut_off_is_a_line_too() -> None:
    assert lines(Layout(), b"a\nb") == [b"a", b"b"]
    assert lines(Layout(), b"") == []
    assert lines(Layout(), b"a\n\n") == [b"a", b""]


GZIP = Layout(compression="gzip")
ZSTD = Layout(compression="zstd")
PLAIN = b"x" * (3 * CHUNK_BYTES)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"plain text",
        gzip.compress(PLAIN)[:-1],
        gzip.compress(PLAIN)[:-8],
        gzip.compress(PLAIN) + b"x",
        gzip.compress(PLAIN) + gzip.compress(b""),
        gzip.compress(bytes(range(256)) * 2000) + b"x" * (2 * CHUNK_BYTES),
        gzip.compress(PLAIN)[:-8] + b"\0" * 8,
    ],
    ids=range(8),
)
def test_damaged_gzip_is_told(damaged: bytes) -> None:
    with pytest.raises(ObjectUnreadable, match="gzip"):
        content(GZIP, damaged)


FRAME = zstd.compress(PLAIN)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"plain text",
        FRAME[:-1],
        FRAME + b"x",
        FRAME + zstd.compress(b""),
        zstd.compress(bytes(range(256)) * 2000) + b"x" * (2 * CHUNK_BYTES),
        render(ZSTD, [PLAIN]).body[:-4] + b"\0" * 4,
        gzip.compress(PLAIN),
    ],
    ids=range(8),
)
def test_damaged_zstd_is_told(damaged: bytes) -> None:
    with pytest.raises(ObjectUnreadable, match="zstd"):
        content(ZSTD, damaged)


@pytest.mark.parametrize("level", [-5, 3, 19])
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_whoever_made_the_frame_the_content_counts(level: int, size: int) -> None:
    plain = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    assert content(ZSTD, zstd.compress(plain, level)) == plain


def test_any_tool_reads_a_frame_and_it_has_a_checksum() -> None:
    body = render(ZSTD, golden_lines()).body
    assert zstd.decompress(body) == (GOLDEN / "object.ndjson").read_bytes()
    with pytest.raises(ObjectUnreadable, match="checksum"):
        content(ZSTD, body[:-1] + bytes([body[-1] ^ 1]))


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES])
def test_whoever_compressed_it_the_content_counts(level: int, size: int) -> None:
    plain = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    assert content(GZIP, gzip.compress(plain, level)) == plain


def test_a_decompression_bomb_ends_at_the_limit() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 100_000
    pieces = chunks(GZIP, bomb, bytes_max=16_000_000)
    given = [len(next(pieces)) for _ in range(15)]
    assert max(given) <= CHUNK_BYTES
    assert sum(given) <= 16_000_000
    with pytest.raises(ObjectUnreadable, match="exceeds 16000000 bytes"):
        list(pieces)
    with pytest.raises(ObjectUnreadable, match=f"exceeds {CONTENT_BYTES_MAX} bytes"):
        content(Layout(), bytes(CONTENT_BYTES_MAX + 1))  # zeros that nobody looks at take no memory
    item = render(GZIP, [b"{}"]).described("k")
    assert not is_content_of(GZIP, item, bomb)


def test_a_bomb_of_zstd_ends_at_the_limit() -> None:
    bomb = zstd.compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    pieces = chunks(ZSTD, bomb, bytes_max=16_000_000)
    given = [len(next(pieces)) for _ in range(15)]
    assert max(given) <= CHUNK_BYTES
    with pytest.raises(ObjectUnreadable, match="exceeds 16000000 bytes"):
        list(pieces)


@pytest.mark.parametrize(
    "layout", [each for each in ALL if each.format == "parquet" or each.compression != "none"], ids=str
)
def test_what_was_cut_off_is_told_from_what_was_changed(layout: Layout) -> None:
    body = render(layout, golden_lines()).body
    assert all(is_cut_off(layout, body[:size]) for size in (0, 1, 4, 20, len(body) // 2, len(body) - 1))
    assert not is_cut_off(layout, body)
    assert not is_cut_off(layout, b"no" + body[2:-9])
    assert not is_cut_off(layout, body + b"more" if layout.format != "parquet" else b"more" + body)
    assert layout.format == "parquet" or not is_cut_off(layout, body[:-1], bytes_max=10)


def test_a_body_of_other_lines_is_not_the_claims() -> None:
    for layout in ALL:
        item = render(layout, [b'{"id":1}']).described("k")
        assert not is_content_of(layout, item, render(layout, [b'{"id":2}']).body)
        assert not is_content_of(layout, item, render(layout, [b'{"id":1}']).body[:-1])


@pytest.mark.parametrize("layout", ALL, ids=lambda layout: f"{layout.format}-{layout.compression}")
@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"id":1}',
        b'{"tickerSymbol":"' + b'\\"' * 500 + b'"}',
        b'{"tickerSymbol":"x","tickerSymbol":"' + b'\\"' * 500 + b'"}',
        b'{"price":1,"quantity":1e0,"id":-1,"ANOMALY_SCORE":1,"ROWTIME":"","SOURCE":{}}',
        b'{"tickerSymbol":[' + b'"",' * 500 + b"1]}",
        b'{"other":[' + b'"",' * 500 + b"1]}",
        b'{"o":"\\""}',
    ],
    ids=range(8),
)
def test_no_body_is_larger_than_its_bound(layout: Layout, line: bytes) -> None:
    for count in (1, 50):
        rendered: Rendered = render(layout, [line] * count)
        told = {"count": count, "line_bytes": rendered.line_bytes}
        whole = content(layout, rendered.body, bytes_max=content_bytes_max(layout, **told))
        assert len(whole) <= content_bytes_max(layout, **told)
        assert len(rendered.body) <= body_bytes_max(layout, **told)
