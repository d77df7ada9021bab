"""Parquet objects: types as engines read them, lines byte for byte, damage that is told, and life without pyarrow."""

import builtins
import io
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutbank.errors import MissingExtra, ObjectUnreadable, PartitionStopped, UsageError
from cutbank.pipeline.sinking import Layout, column_values, parquet
from cutbank.pipeline.sinking.claims import COLUMNS_MAX, OTHER_FIELDS, ColumnType
from cutbank.pipeline.sinking.rendering import body_bytes_max, content, is_content_of, lines, render
from cutbank.pipeline.sinking.schema import ERROR_COLUMNS, anomaly_columns
from cutbank.pipeline.spec import Column, PipelineSpec
from cutbank.testing.faults import Crashed
from cutbank_sink.settings import SinkSettings
from sinking_world import World, anomaly, crashing, ids

KINDS: tuple[ColumnType, ...] = (
    "VARCHAR",
    "DOUBLE",
    "FLOAT",
    "REAL",
    "BIGINT",
    "INTEGER",
    "SMALLINT",
    "TINYINT",
    "BOOLEAN",
    "TIMESTAMP",
    "SOURCE",
)
EVERY = Layout(format="parquet", columns=tuple(kind.lower() for kind in KINDS), types=KINDS)
SOURCE = {"pipeline": "p", "stream": "trades@0", "run": 1, "partition": "0", "position": "44", "ordinal": 0}
WHOLE: dict[str, Any] = {
    "varchar": "ä\x00\n\u2028\U0001f9ea",
    "double": 1.5,
    "float": -0.0,
    "real": 5e-324,
    "bigint": -(2**63),
    "integer": 2**31 - 1,
    "smallint": -(2**15),
    "tinyint": 127,
    "boolean": False,
    "timestamp": "0001-01-01T00:00:00.000Z",
    "source": SOURCE,
}


def table_of(layout: Layout, *texts: bytes) -> list[dict[str, Any]]:
    """The rows as pyarrow reads them."""
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(render(layout, texts).body)).to_pylist()
    return rows


def told(layout: Layout, *texts: bytes) -> list[bytes]:
    """The lines as Cutbank reads them."""
    return lines(layout, content(layout, render(layout, texts).body))


def test_every_type_is_what_engines_take_it_for() -> None:
    found = pq.read_schema(io.BytesIO(render(EVERY, [orjson.dumps(WHOLE)]).body))
    source = pa.struct(
        [(name, pa.int64() if name in ("run", "ordinal") else pa.string()) for name in column_values.SOURCE_FIELDS]
    )
    assert [(field.name, field.type) for field in found] == [
        ("varchar", pa.string()),
        ("double", pa.float64()),
        ("float", pa.float64()),
        ("real", pa.float64()),
        ("bigint", pa.int64()),
        ("integer", pa.int32()),
        ("smallint", pa.int16()),
        ("tinyint", pa.int8()),
        ("boolean", pa.bool_()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("source", source),
        (OTHER_FIELDS, pa.string()),
    ]


def test_values_are_what_was_sent() -> None:
    (row,) = table_of(EVERY, orjson.dumps(WHOLE))
    assert row == {**WHOLE, "timestamp": datetime(1, 1, 1, tzinfo=UTC), OTHER_FIELDS: None}


@pytest.mark.parametrize("packed", ["none", "gzip", "zstd"])
def test_duckdb_reads_names_types_and_values(packed: str, tmp_path: Any) -> None:
    layout = EVERY.model_copy(update={"compression": packed})
    path = tmp_path / "x.parquet"
    path.write_bytes(render(layout, [orjson.dumps(WHOLE), b'{"double":2,"bigint":"x","other":[1]}']).body)
    with duckdb.connect() as db:
        kinds = dict(db.sql(f"SELECT column_name, column_type FROM (DESCRIBE FROM '{path}')").fetchall())  # noqa: S608  # our own file
        assert kinds["varchar"] == kinds[OTHER_FIELDS] == "VARCHAR"
        assert {kinds["double"], kinds["float"], kinds["real"]} == {"DOUBLE"}
        numbers = [kinds[name] for name in ("bigint", "integer", "smallint", "tinyint")]
        assert numbers == ["BIGINT", "INTEGER", "SMALLINT", "TINYINT"]
        assert kinds["timestamp"] == "TIMESTAMP WITH TIME ZONE"
        assert kinds["source"].startswith("STRUCT(")
        query = f"SELECT double, bigint, source.position, epoch_ms(timestamp), {OTHER_FIELDS} FROM '{path}'"  # noqa: S608
        assert db.sql(query).fetchall() == [
            (1.5, -(2**63), "44", -62_135_596_800_000, None),
            (2.0, None, None, None, ' {"double":2,"bigint":"x","other":[1]}'),
        ]
        query = f"SELECT json_extract({OTHER_FIELDS}, '$.other')::VARCHAR FROM '{path}' OFFSET 1"  # noqa: S608
        assert db.sql(query).fetchall() == [("[1]",)]


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ("double", "9007199254740992", 9007199254740992.0),
        ("double", "1e2", 100.0),
        ("double", "1.10", 1.1),
        ("double", "0.1000000000000000055511151231257827", 0.1),
        ("double", "123456789012345678901234567890", 1.2345678901234568e29),
        ("double", '"1.5"', None),
        ("double", "true", None),
        ("double", "[1.5]", None),
        ("tinyint", "128", None),
        ("tinyint", "-129", None),
        ("tinyint", "5.0", 5),
        ("tinyint", "5.5", None),
        ("smallint", "32768", None),
        ("integer", "2147483648", None),
        ("bigint", "9223372036854775808", None),
        ("bigint", "18446744073709551616", None),
        ("bigint", "-0", 0),
        ("bigint", "true", None),
        ("boolean", "1", None),
        ("varchar", "1", None),
        ("varchar", '{"a":1.10}', None),
        ("varchar", '"\\u0041"', "A"),
        ("timestamp", '"2026-11-22"', None),
        ("timestamp", '"2026-11-22T23:00:00Z"', None),
        ("timestamp", '"2026-02-30T23:00:00.123Z"', None),
        ("timestamp", '"2026-11-22T23:00:60.123Z"', None),
        ("timestamp", '"2026-11-22T24:00:00.000Z"', None),
        ("timestamp", '"NaT"', None),
        ("timestamp", "1", None),
        ("source", '{"run":1}', None),
        ("source", "[]", None),
        ("source", orjson.dumps({**SOURCE, "run": 1.0}).decode(), None),
        ("source", orjson.dumps({**SOURCE, "run": 2**63}).decode(), None),
        ("source", orjson.dumps({**SOURCE, "more": 0}).decode(), None),
        ("source", orjson.dumps({**SOURCE, "stream": None}).decode(), None),
    ],
)
def test_what_a_column_does_not_tell_stands_in_other_fields(column: str, text: str, value: Any) -> None:
    """The rest of the row stays as it is, so does the row beside it, and the line comes back."""
    line = orjson.dumps({**WHOLE, column: "HERE"}).replace(b'"HERE"', text.encode())
    odd, plain = table_of(EVERY, line, orjson.dumps(WHOLE))
    assert odd[OTHER_FIELDS] == f'{{"{column}":{text}}}'
    assert odd[column] == value
    assert {**odd, column: None, OTHER_FIELDS: None} == {**plain, column: None}
    assert plain[OTHER_FIELDS] is None
    assert told(EVERY, line, orjson.dumps(WHOLE)) == [line, orjson.dumps(WHOLE)]


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"{ }",
        b'{"double":1.5}',
        orjson.dumps(WHOLE, option=orjson.OPT_SORT_KEYS),
        orjson.dumps(WHOLE).replace(b",", b" ,"),
        orjson.dumps(WHOLE)[:-1] + b',"double":2.5}',
        orjson.dumps(WHOLE).replace(b'"double"', b'"do\\u0075ble"'),
        b'{"OTHER_FIELDS":"x"}',
        b'{"varchar":",\\"OTHER_FIELDS\\":"}',
        b'{"x":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"x":' + b"[" * 1000 + b"]" * 1000 + b"}",
    ],
    ids=range(11),
)
def test_a_line_of_another_shape_is_kept_whole(line: bytes) -> None:
    (row,) = table_of(EVERY, line)
    assert row[OTHER_FIELDS] == " " + line.decode()
    assert told(EVERY, line, orjson.dumps(WHOLE), line) == [line, orjson.dumps(WHOLE), line]


def test_fields_without_a_column_follow_those_with_one() -> None:
    line = orjson.dumps({**WHOLE, "double": True, "new": [1, {"a": None}], "newer": "x"})
    (row,) = table_of(EVERY, line)
    assert row["double"] is None
    assert row[OTHER_FIELDS] == '{"double":true,"new":[1,{"a":null}],"newer":"x"}'
    assert told(EVERY, line) == [line]


@pytest.mark.parametrize("plain", [True, False])
def test_whole_numbers_of_a_double_are_told_as_the_first_one_is_written(plain: bool) -> None:  # noqa: FBT001  # a parameter
    """Producers of one language write 100, of another 100.0; only who mixes them needs other fields."""
    numbers: list[Any] = [1.5, None, 100, -3, 2**53 - 1, 0, 2.5]
    values = numbers if plain else [float(number) if type(number) is int else number for number in numbers]
    texts = [orjson.dumps({**WHOLE, "double": value}) for value in values]
    rows = table_of(EVERY, *texts)
    assert [row["double"] for row in rows] == values
    assert [row[OTHER_FIELDS] for row in rows] == [None] * len(values)
    assert told(EVERY, *texts) == texts
    mixed = [*texts, orjson.dumps({**WHOLE, "double": 7.0 if plain else 7}), orjson.dumps({**WHOLE, "double": -0.0})]
    assert [row[OTHER_FIELDS] for row in table_of(EVERY, *mixed)[-2:]] == [
        f'{{"double":{"7.0" if plain else "7"}}}',
        None,
    ]
    assert told(EVERY, *mixed) == mixed


def test_many_lines_in_several_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The content does not depend on how rows are grouped."""
    many = [orjson.dumps({**WHOLE, "integer": n, **({"double": "1"} if n % 7 == 0 else {})}) for n in range(9000)]
    whole = render(EVERY, many)
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 100_000)
    grouped = render(EVERY, many)
    assert pq.ParquetFile(io.BytesIO(whole.body)).num_row_groups == 1
    assert pq.ParquetFile(io.BytesIO(grouped.body)).num_row_groups > 5
    assert whole.described("k") == grouped.described("k")
    assert is_content_of(EVERY, whole.described("k"), grouped.body)
    assert lines(EVERY, content(EVERY, grouped.body)) == many


def test_another_writer_of_the_same_rows_is_good_enough() -> None:
    """Another version of pyarrow may choose other encodings, pages and statistics."""
    texts = [orjson.dumps({**WHOLE, "integer": n}) for n in range(5000)]
    item = render(EVERY, texts).described("k")
    table = pq.read_table(io.BytesIO(render(EVERY, texts).body))
    for options in (
        {"use_dictionary": False, "version": "2.4", "compression": "snappy"},
        {"data_page_version": "2.0", "write_statistics": False, "row_group_size": 999, "store_schema": True},
    ):
        out = io.BytesIO()
        pq.write_table(table, out, **options)
        assert is_content_of(EVERY, item, out.getvalue())
    out = io.BytesIO()
    pq.write_table(table.slice(1), out)
    assert not is_content_of(EVERY, item, out.getvalue())
    pq.write_table(table.drop_columns(["real"]), out := io.BytesIO())
    with pytest.raises(
        ObjectUnreadable, match="its columns are not those of the claim: varchar, double, float, bigint"
    ):
        content(EVERY, out.getvalue())


@pytest.mark.parametrize("packed", ["none", "gzip", "zstd"])
def test_damage_is_told(packed: str) -> None:
    """Cut off, or a bit changed: unreadable or of other content; but in a page's header some say nothing of rows."""
    layout = EVERY.model_copy(update={"compression": packed})
    texts = [orjson.dumps({**WHOLE, "integer": n, "double": n / 7, "varchar": f"{n:040}"}) for n in range(200)]
    rendered = render(layout, texts)
    item, body = rendered.described("k"), rendered.body
    footer = len(body) - 8 - int.from_bytes(body[-8:-4], "little")
    rng = random.Random(1)
    places = [*rng.sample(range(4, footer), 150), *range(len(body) - 8, len(body))]
    untold = 0
    for at in places:
        damaged = bytearray(body)
        damaged[at] ^= 1 << rng.randrange(8)
        if is_content_of(layout, item, bytes(damaged)):
            untold += 1
            assert lines(layout, content(layout, bytes(damaged))) == texts
    assert untold < len(places) // 5
    for cut in (0, 1, 3, 4, 8, len(body) // 2, len(body) - 1):
        with pytest.raises(ObjectUnreadable):
            content(layout, body[:cut])
    for other in (b"plain text", b"PAR1PAR1", b"PAR1" + bytes(100) + b"PAR1"):
        with pytest.raises(ObjectUnreadable, match="no sound Parquet file"):
            content(layout, other)


@pytest.mark.parametrize(
    ("bound", "damaged"),
    [
        (struct.pack("<d", 907.5), struct.pack("<d", 8.5)),
        (struct.pack("<d", -0.25), struct.pack("<d", 0.25)),
        (b"a-text-that-is-the-least", b"z-text-that-is-the-least"),
        (b"PAR1", b"PAR2"),
    ],
    ids=["greatest", "least", "text", "beginning"],
)
def test_a_footer_that_hides_rows_from_engines_is_told(bound: bytes, damaged: bytes, tmp_path: Path) -> None:
    """No checksum covers it, and every row can still be read there."""
    doubles = [-0.25, 3.5, None, 907.5]
    texts = [
        orjson.dumps({**WHOLE, "double": value, "varchar": f"{'az'[n > 0]}-text-that-is-the-least", "source": source})
        for n, (value, source) in enumerate(zip(doubles, [SOURCE, None, SOURCE, SOURCE], strict=True))
    ]
    rendered = render(EVERY, texts)
    item, body = rendered.described("k"), rendered.body
    assert is_content_of(EVERY, item, body)
    # The values themselves come first, and a page's own bounds.
    footer = 0 if bound == parquet.MAGIC else len(body) - 8 - int.from_bytes(body[-8:-4], "little")
    assert bound in body[footer:]
    changed = body[:footer] + body[footer:].replace(bound, damaged, 1 if not footer else -1)
    if bound == struct.pack("<d", 907.5):
        (path := tmp_path / "x.parquet").write_bytes(changed)
        with duckdb.connect() as db:
            count = db.sql(f"SELECT count(*) FROM '{path}' WHERE double > 100")  # noqa: S608  # our own file
            assert count.fetchall() == [(0,)]
    assert not is_content_of(EVERY, item, changed)
    with pytest.raises(ObjectUnreadable, match=r"its footer does not tell the values of|does not begin as one"):
        content(EVERY, changed)


@pytest.mark.parametrize(
    "others", ["x", "{", '{"a":1', "[1]", '{"double":}', "", '{"double":1}}'], ids=lambda text: text or "nothing"
)
def test_other_fields_that_cutbank_never_wrote_are_told(others: str) -> None:
    table = pa.Table.from_pylist(
        [{**table_of(EVERY, orjson.dumps(WHOLE))[0], OTHER_FIELDS: others}], parquet.schema(EVERY)
    )
    pq.write_table(table, out := io.BytesIO(), store_schema=False)
    with pytest.raises(ObjectUnreadable, match="OTHER_FIELDS is not as Cutbank writes it"):
        lines(EVERY, content(EVERY, out.getvalue()))


def test_a_bound_holds_for_many_columns_and_small_objects() -> None:
    names = tuple(f"c{number}" for number in range(COLUMNS_MAX))
    layout = Layout(format="parquet", columns=names, types=KINDS[:1] * COLUMNS_MAX, compression="zstd")
    rendered = render(layout, [b"{}"])
    assert len(rendered.body) <= body_bytes_max(layout, count=1, line_bytes=3)


def test_error_records_have_their_own_columns() -> None:
    layout = SinkSettings.load({"CUTBANK_FORMAT": "parquet"}).config(PipelineSpec()).of("errors").layout
    assert layout.columns == tuple(column.name for column in ERROR_COLUMNS)
    line = orjson.dumps(
        {
            "ERROR_TIME": "2026-11-22T23:00:00.123Z",
            "ERROR_LEVEL": "ERROR",
            "ERROR_NAME": "invalid_json",
            "MESSAGE": "unexpected end",
            "DATA_ROWTIME": "2026-11-22T23:00:00.123Z",
            "DATA_ROW": "7b",
            "DATA_BYTES": 1,
            "PUMP_NAME": "anomaly-extractor",
            "SOURCE": SOURCE,
        }
    )
    (row,) = table_of(layout, line)
    assert row["ERROR_TIME"] == datetime(2026, 11, 22, 23, 0, 0, 123_000, tzinfo=UTC)
    assert (row["DATA_BYTES"], row["SOURCE"], row[OTHER_FIELDS]) == (1, SOURCE, None)
    assert told(layout, line) == [line]


def test_every_type_of_a_spec_has_a_column() -> None:
    kinds = ("VARCHAR", "VARCHAR(8)", "DOUBLE", "FLOAT", "REAL", "BIGINT", "INTEGER", "SMALLINT", "TINYINT", "BOOLEAN")
    spec = PipelineSpec(columns=tuple(Column(name=kind, type=kind) for kind in kinds), features=("DOUBLE",))
    assert [column.type for column in anomaly_columns(spec)] == [
        *(kind.partition("(")[0] for kind in kinds),
        "DOUBLE",
        "TIMESTAMP",
        "SOURCE",
    ]
    SinkSettings.load({"CUTBANK_FORMAT": "parquet"}).config(spec)


# Without pyarrow.


@contextmanager
def without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", refuse)
        yield


COLUMNS: dict[str, Any] = {
    "columns": ("id", "ANOMALY_SCORE", "ROWTIME", "SOURCE"),
    "types": ("INTEGER", "DOUBLE", "TIMESTAMP", "SOURCE"),
}
LAYOUT = Layout(format="parquet", compression="zstd", **COLUMNS)


def test_a_sink_of_parquet_does_not_start_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SinkSettings.load({"CUTBANK_FORMAT": "parquet"})
    with without_pyarrow(monkeypatch), pytest.raises(MissingExtra, match=r"pip install 'cutbank\[parquet\]'") as caught:
        settings.config(PipelineSpec())
    assert isinstance(caught.value, UsageError)
    settings.config(PipelineSpec())


def test_who_reads_parquet_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    body = render(LAYOUT, [anomaly(1)]).body
    with without_pyarrow(monkeypatch), pytest.raises(MissingExtra, match="pyarrow is not installed"):
        content(LAYOUT, body)


@pytest.mark.parametrize("after", [False, True])
async def test_a_claim_that_is_to_be_finished_without_it_stops_the_partition(
    world: World, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """Killed before or after the object was put; the next sink has no pyarrow, and needs it only in the first case."""
    await world.publish(anomaly(1), minute=0)
    with pytest.raises(Crashed):
        async with world.sinking(store=crashing(world, at=2, after=after), layout=LAYOUT) as running:
            await world.until(world.all_committed, running)
    await world.publish(anomaly(2), minute=1)
    with without_pyarrow(monkeypatch):
        if after:
            await world.sink_all()
        else:
            with pytest.raises(
                PartitionStopped, match=r"pyarrow is not installed here: pip install 'cutbank\[parquet\]'"
            ):
                await world.sink_all()
    await world.sink_all()
    assert [claim.layout for claim in await world.claims()] == [LAYOUT, Layout()]
    assert ids(await world.lines()) == [1, 2]
    await world.check_whole()
