"""Lines in a table: as many rows as lines, whatever they hold; the quick way and the slow way make the same rows."""

import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cutbank.pipeline.querying import Database, Limits, Period, anomalies_table
from cutbank.pipeline.querying.fitting import Shape, fit
from cutbank.pipeline.querying.loading import Loader
from cutbank.pipeline.spec import Column, PipelineSpec
from written_root import START_MS, source, stock

pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'cutbank[query]'")

SPEC = PipelineSpec(
    columns=(
        Column(name="a text", type="VARCHAR(8)"),
        Column(name="price", type="DOUBLE"),
        Column(name="Price", type="REAL"),
        Column(name="tiny", type="TINYINT"),
        Column(name="whole", type="INTEGER"),
        Column(name='big"/~', type="BIGINT"),
        Column(name="yes", type="BOOLEAN"),
        Column(name="rowtime", type="VARCHAR"),
    ),
    features=("price",),
)
TABLE = anomalies_table(SPEC)
NAMES = [column.field for column in TABLE.columns]

texts = st.text(st.characters(codec="utf-8"), max_size=6)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-130, 130),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.sampled_from(["12", "1.5", "NaN", "true", "2026-11-22T23:00:00.123Z", "2026-02-29T00:00:00.000Z", "infinity"]),
)
values = st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(texts, scalars, max_size=2))
times = st.sampled_from(
    ["2026-11-22T23:00:00.123Z", "2024-02-29T23:59:59.999Z", "0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"]
)
ours = st.fixed_dictionaries(
    {
        "a text": st.none() | texts,
        "price": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**63),
        "Price": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "tiny": st.none() | st.integers(-128, 127),
        "whole": st.none() | st.integers(-(2**31), 2**31 - 1),
        'big"/~': st.none() | st.integers(-(2**63), 2**63 - 1),
        "yes": st.none() | st.booleans(),
        "rowtime": st.none() | texts,
        "ANOMALY_SCORE": st.floats(0, 10),
        "ROWTIME": times,
        "SOURCE": st.integers(0, 2**63 - 1).map(source),
    }
)
others = st.dictionaries(st.sampled_from([*NAMES, "x"]) | texts, values, max_size=6)
half_ours = st.tuples(ours, others).map(lambda two: {**two[0], **two[1]})


def dumped(fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except TypeError:  # an integer of more than 64 bits, which orjson reads and does not write
        price = fields["price"]
        return orjson.dumps({**fields, "price": -0.125}).replace(b"-0.125", b"%d" % price, 1)


def rows(lines: list[bytes], *, slowly: bool) -> list[Any]:
    with Database([TABLE], limits=Limits(threads=1), folder=Path(tempfile.gettempdir())) as database:
        loader = Loader(database, TABLE, Period())
        if slowly:
            loader._shape = Never()
        made = loader.add(b"".join(line + b"\n" for line in lines), minute_ms=START_MS) + loader.flush()
        assert made == len(lines)
        found = [row for portion in database.run("SELECT * FROM anomalies").rows for row in portion]
    return sorted(found, key=repr)


class Never(Shape):
    def __init__(self) -> None:
        super().__init__(TABLE)

    def fitting(self, content: bytes) -> Any:
        return ((False, memoryview(line)) for line in content.splitlines(keepends=True))


@settings(max_examples=60)
@given(st.lists(ours | others | half_ours, min_size=1, max_size=8))
@example([{"a text": 12.5, "tiny": 4.0, "whole": -0.0}, {"price": 2**64, "x": {"y": [1, "a"]}}])
@example([{"ROWTIME": "2026-02-30T00:00:00.000Z"}, {"SOURCE": {**source(1), "run": True}}, {}])
def test_every_line_is_a_row_and_both_ways_agree(many: list[dict[str, Any]]) -> None:
    lines = [line for fields in many if b"\n" not in (line := dumped(fields))]
    assert rows(lines, slowly=False) == rows(lines, slowly=True)


@settings(max_examples=100)
@given(ours)
def test_what_a_scorer_writes_fits(fields: dict[str, Any]) -> None:
    assert "other" not in fit(TABLE, dumped(fields)).values


@given(others | half_ours)
def test_nothing_of_a_line_is_lost(fields: dict[str, Any]) -> None:
    fitted = fit(TABLE, line := dumped(fields)).values
    other = orjson.loads(fitted.get("other", "{}"))
    for name, value in orjson.loads(line).items():
        if name not in other:
            number = NAMES.index(name)
            assert fitted[str(number)] == value or TABLE.columns[number].type == "VARCHAR"


def test_lines_of_the_stock_pipeline_are_taken_the_quick_way() -> None:
    table = anomalies_table(PipelineSpec())
    content = b"\n".join(stock(number, START_MS + number) for number in range(1000))
    assert [fits for fits, _ in Shape(table).fitting(content)] == [True]
