"""Whatever a file holds: every row and line is one record, in order, and JSON says what the CSV said."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.pipeline.inputs import open_input
from cutbank.pipeline.inputs.values import json_value

FIELDS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.just(""),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


def values(path: Path, block: int, **how: str) -> list[bytes]:
    found: list[bytes] = []
    with open_input(str(path), **how) as source:  # type: ignore[arg-type]
        while records := source.records(records_max=block, bytes_max=1 << 20):
            found += [record.value for record in records]
    return found


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(FIELDS, FIELDS, FIELDS), min_size=1, max_size=20), block=st.integers(1, 30))
def test_what_csv_wrote_comes_back_as_json(folder: Path, rows: list[tuple[str, str, str]], block: int) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(("a", "b", "c"))
    writer.writerows(rows)
    path = folder / "rows.csv"
    path.write_bytes(gzip.compress(text.getvalue().encode(), 1))
    got = [json.loads(value) for value in values(path, block, input_format="csv")]
    assert [tuple(item) for item in got] == [("a", "b", "c")] * len(rows)
    for item, row in zip(got, rows, strict=True):
        for value, field in zip(item.values(), row, strict=True):
            if isinstance(value, str):
                assert value == field
            elif value is None:
                assert not field.strip()
            else:
                assert value == (int(field) if isinstance(value, int) else float(field))


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"").rstrip(b"\r")), max_size=20),
    block=st.integers(1, 30),
)
def test_ndjson_passes_byte_for_byte(folder: Path, lines: list[bytes], block: int) -> None:
    path = folder / "lines.ndjson"
    # The first line keeps a look at the file's beginning from refusing it.
    path.write_bytes(b"\n".join([b"{}" + b" " * (1 << 17), *lines, b"{}"]))
    assert values(path, block)[1:] == [*lines, b"{}"]


@given(text=st.text(max_size=20))
def test_every_field_is_one_json_value(text: str) -> None:
    written = json_value(text)
    value = json.loads(written.encode("utf-8", "surrogatepass"))
    assert value is None or isinstance(value, int | float) or value == text


@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_is_written_so_that_it_reads_back_the_same(number: float) -> None:
    assert json.loads(json_value(repr(number))) == number
    assert len(json_value(f"{number:.30e}")) <= len(f"{number:.30e}")
    assert json.loads(json_value(f"{number:.30e}")) == number
