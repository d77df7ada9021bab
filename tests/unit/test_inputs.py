"""Real input: what of a file becomes which record, which columns it has, and what is refused in one line."""

import gzip
import json
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cutbank.errors import UsageError
from cutbank.pipeline.inputs import LINE_BYTES_MAX, InputRecord, columns_of, open_input
from cutbank.pipeline.inputs.reader import SAMPLE_BYTES, SAMPLE_LINES
from cutbank.pipeline.inputs.values import TimeReader, json_value, sql_type

Write = Callable[[str, bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return written


def read_all(path: str, **how: object) -> list[InputRecord]:
    found: list[InputRecord] = []
    with open_input(path, **how) as source:  # type: ignore[arg-type]
        while records := source.records(records_max=3, bytes_max=1 << 20):
            assert len(records) <= 3
            found += records
    return found


def values_of(path: str, **how: object) -> list[bytes]:
    return [record.value for record in read_all(path, **how)]


def types_of(path: str, **how: object) -> dict[str, str]:
    return {column.name: column.type for column in columns_of(path, **how)}  # type: ignore[arg-type]


class TestCsvRows:
    def test_numbers_become_numbers_and_an_empty_field_null(self, write: Write) -> None:
        path = write("t.csv", b"timestamp,f1,f2,f3,label\n1723161255342,61837.63,0.00009,1,\n")
        assert values_of(path) == [b'{"timestamp":1723161255342,"f1":61837.63,"f2":9e-05,"f3":1,"label":null}']

    def test_quotes_hold_delimiters_quotes_and_line_ends(self, write: Write) -> None:
        path = write("t.csv", b'a,b\n"x, ""y""\nz",2\n3,4\n')
        records = read_all(path)
        assert json.loads(records[0].value) == {"a": 'x, "y"\nz', "b": 2}
        assert [record.line for record in records] == [3, 4]

    @pytest.mark.parametrize(
        ("header", "row"), [("a;b", "1;2"), ("a\tb", "1\t2"), ("a|b", "1|2"), ('"x;y;z",b', "1,2")]
    )
    def test_the_delimiter_is_found_from_the_header(self, write: Write, header: str, row: str) -> None:
        (value,) = values_of(write("t.csv", f"{header}\n{row}\n".encode()))
        assert list(json.loads(value).values()) == [1, 2]

    def test_a_delimiter_that_is_set_counts(self, write: Write) -> None:
        assert values_of(write("t.csv", b"a,b;c\n1,2;3\n"), delimiter=";") == [b'{"a,b":"1,2","c":3}']
        assert values_of(write("u.csv", b"a,b\tc\n1\t3\n"), delimiter="tab") == [b'{"a,b":1,"c":3}']

    def test_windows_line_ends_and_a_byte_order_mark_are_no_content(self, write: Write) -> None:
        assert values_of(write("t.csv", b"\xef\xbb\xbfa,b\r\n1,x\r\n")) == [b'{"a":1,"b":"x"}']

    def test_a_short_row_lacks_its_last_columns_and_a_trailing_delimiter_is_harmless(self, write: Write) -> None:
        assert values_of(write("t.csv", b"a,b,c\n1,2\n1,2,3,,\n")) == [b'{"a":1,"b":2}', b'{"a":1,"b":2,"c":3}']

    def test_a_row_with_too_many_fields_goes_out_as_it_stands_and_its_neighbours_are_rows(self, write: Write) -> None:
        path = write("t.csv", b'a,b\n1,2\n1,"x\ny",3\n4,5\n')
        assert values_of(path) == [b'{"a":1,"b":2}', b'1,"x\ny",3', b'{"a":4,"b":5}']

    def test_blank_lines_are_no_rows(self, write: Write) -> None:
        assert values_of(write("t.csv", b"a\n1\n\n2\n\n")) == [b'{"a":1}', b'{"a":2}']

    def test_invalid_utf8_is_kept_so_that_it_shows_itself(self, write: Write) -> None:
        assert values_of(write("t.csv", b"a,b\n1,caf\xe9\n")) == [b'{"a":1,"b":"caf\xe9"}']

    def test_a_nameless_column_is_named_by_its_place(self, write: Write) -> None:
        assert values_of(write("t.csv", b",a\n0,1\n")) == [b'{"COL_1":0,"a":1}']

    def test_an_open_quote_takes_at_most_one_record_with_it_and_loses_no_line(self, write: Write) -> None:
        filler = b"1,2\n" * (LINE_BYTES_MAX // 4 + 10)
        path = write("t.csv", b'a,b\n7,"open\n' + filler)
        records = read_all(path)
        bad, good = records[0], records[1:]
        assert bad.value.startswith(b'7,"open\n1,2\n')
        assert len(bad.value) == LINE_BYTES_MAX
        lines_in_bad = bad.line - 1
        assert lines_in_bad + len(good) == 1 + filler.count(b"\n")
        assert {record.value for record in good} == {b'{"a":1,"b":2}'}

    def test_a_field_of_half_a_mebibyte_is_a_field(self, write: Write) -> None:
        (value,) = values_of(write("t.csv", b"a,b\n1," + b"x" * (1 << 19) + b"\n"))
        assert json.loads(value) == {"a": 1, "b": "x" * (1 << 19)}


class TestNdjsonLines:
    def test_lines_pass_byte_for_byte_the_bad_and_the_empty_too(self, write: Write) -> None:
        lines = [b'{"a": 1.50}', b"nonsense", b"", b'{"a":1e400} ', b"\xff\xfe", b'{"b":2}']
        assert values_of(write("t.ndjson", b"\n".join(lines))) == lines

    def test_the_last_line_end_makes_no_record(self, write: Write) -> None:
        assert values_of(write("t.jsonl", b'{"a":1}\n')) == [b'{"a":1}']

    def test_a_line_too_long_for_any_record_is_cut_and_said(self, write: Write) -> None:
        long = b'{"a":"' + b"x" * (3 * LINE_BYTES_MAX) + b'"}'
        path = write("t.ndjson", b'{"a":1}\n' + long + b'\n{"a":2}\n')
        with capture_logs() as logs:
            values = values_of(path)
        assert values == [b'{"a":1}', long[:LINE_BYTES_MAX], b'{"a":2}']
        (entry,) = (entry for entry in logs if entry["log_level"] == "warning")
        assert (entry["line"], entry["bytes_total"]) == (2, len(long))

    def test_a_line_of_exactly_the_limit_is_whole(self, write: Write) -> None:
        long = b'{"a":"' + b"x" * (LINE_BYTES_MAX - 8) + b'"}'
        with capture_logs() as logs:
            assert values_of(write("t.ndjson", long + b"\r\n")) == [long]
        assert logs == []

    def test_a_block_ends_at_its_bytes_but_holds_one_record_at_least(self, write: Write) -> None:
        line = b'{"a":"' + b"x" * 1000 + b'"}'
        with open_input(write("t.ndjson", (line + b"\n") * 10)) as source:
            assert len(source.records(records_max=10, bytes_max=1)) == 1
            assert len(source.records(records_max=10, bytes_max=2500)) == 3


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "data", "value"),
        [
            ("t.txt", b'  {"a":1}\n', b'  {"a":1}'),
            ("t.json", b'{"a":1}\n', b'{"a":1}'),
            ("t", b"a\n1\n", b'{"a":1}'),
            ("T.CSV", b'"{a"\n1\n', b'{"{a":1}'),
            ("t.tsv", b"a\tb\n1\t2\n", b'{"a":1,"b":2}'),
        ],
    )
    def test_extension_then_first_character_tell_the_format(
        self, write: Write, name: str, data: bytes, value: bytes
    ) -> None:
        assert values_of(write(name, data)) == [value]

    def test_a_format_that_is_set_counts(self, write: Write) -> None:
        assert values_of(write("t.csv", b"x\n"), input_format="ndjson") == [b"x"]

    def test_gzip_is_known_by_its_content_in_many_members_too(self, write: Write) -> None:
        data = gzip.compress(b"a\n1\n", mtime=0) + gzip.compress(b"2\n")
        assert values_of(write("t.csv.gz", data)) == values_of(write("t.csv", data)) == [b'{"a":1}', b'{"a":2}']


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "data", "told"),
        [
            ("t.csv", b"", "is empty"),
            ("t.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
            ("t.csv.gz", b"a\n1\n", "named .gz but is not gzip data"),
            ("t.csv", b"a\0b\n", "is binary"),
            ("t.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16"),
            ("t.csv", b"PK\x03\x04rest", "ZIP"),
            ("t.csv", b"1.5,2,x\n", "needs a header line that names its columns (1.5 is no column's name)"),
            ("t.csv", b"\n1\n", "the first line is blank"),
            ("t.csv", b"a,b,a\n1,2,3\n", "column 'a' is in the header twice"),
            ("t.json", b'[{"a":1}]', "is a JSON array"),
        ],
    )
    def test_what_is_no_input_is_one_line_that_names_the_file(
        self, write: Write, name: str, data: bytes, told: str
    ) -> None:
        path = write(name, data)
        with pytest.raises(UsageError) as caught:
            open_input(path)
        assert told in str(caught.value)
        assert str(caught.value).startswith(path)
        assert "\n" not in str(caught.value)

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="No such file"):
            open_input(str(tmp_path / "none.csv"))
        with pytest.raises(UsageError, match="is a directory"):
            open_input(str(tmp_path))

    def test_a_header_without_a_row(self, write: Write) -> None:
        with pytest.raises(UsageError, match="has a header but no row"):
            read_all(write("t.csv", b"a,b\n"))

    def test_cut_off_gzip_data_gives_what_it_holds_first(self, write: Write) -> None:
        rows = b"".join(b"%d\n" % number for number in range(200_000))
        data = gzip.compress(b"a\n" + rows, mtime=0)
        found = 0

        def read() -> None:
            nonlocal found
            with open_input(write("t.csv.gz", data[: len(data) // 2])) as source:
                while records := source.records(records_max=100, bytes_max=1 << 20):
                    assert json.loads(records[0].value) == {"a": found}
                    found += len(records)

        with pytest.raises(UsageError, match=r"damaged or cut off after line \d+"):
            read()
        assert found > 10_000

    def test_descriptors_are_given_back_when_opening_fails(self, write: Write) -> None:
        path = write("t.csv", b"")
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count of descriptors
        for _ in range(20):
            with pytest.raises(UsageError):
                open_input(path)
        assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


class TestColumns:
    def test_types_are_those_that_never_fail_later(self, write: Write) -> None:
        path = write("t.csv", b"small,mixed,big,word,flag,none,price\n1,1,%d,x,true,,5\n2,1.5,1,3,false,,6\n" % 2**70)
        assert types_of(path, features=["price"]) == {
            "small": "BIGINT",
            "mixed": "DOUBLE",
            "big": "DOUBLE",
            "word": "VARCHAR",
            "flag": "VARCHAR",
            "none": "VARCHAR",
            "price": "DOUBLE",
        }

    def test_ndjson_keys_in_the_order_they_are_met(self, write: Write) -> None:
        path = write("t.ndjson", b'{"b":1,"a":"x"}\nbad\n[1]\n{"a":null,"c":true,"b":2.5,"d":{"e":1}}\n')
        assert types_of(path) == {"b": "DOUBLE", "a": "VARCHAR", "c": "BOOLEAN", "d": "VARCHAR"}

    def test_columns_that_cutbank_adds_are_left_out_so_anomalies_can_be_replayed(self, write: Write) -> None:
        path = write("t.ndjson", b'{"price":1.5,"ANOMALY_SCORE":2.0,"ROWTIME":"x","SOURCE":{}}\n')
        assert types_of(path) == {"price": "DOUBLE"}

    def test_looking_takes_nothing_away(self, write: Write) -> None:
        with open_input(write("t.csv", b"a\n1\n2\n")) as source:
            assert source.columns() == source.columns()
            assert [record.value for record in source.records(records_max=9, bytes_max=99)] == [b'{"a":1}', b'{"a":2}']

    def test_what_comes_after_so_many_lines_or_bytes_is_not_looked_at(self, write: Write) -> None:
        """Of short lines so many; of long ones so many bytes, and one read more."""
        path = write("short.ndjson", b'{"a":1}\n' * (SAMPLE_LINES - 1) + b'{"b":1}\n{"c":1}\n')
        assert types_of(path).keys() == {"a", "b"}
        long = b'{"a":"%s"}\n' % (b"x" * (SAMPLE_BYTES // 8))
        assert types_of(write("part.ndjson", long * 7 + b'{"b":1}\n')).keys() == {"a", "b"}
        assert types_of(write("long.ndjson", long * 9 + b'{"b":1}\n')).keys() == {"a"}

    @pytest.mark.parametrize(
        ("feature", "told"),
        [
            ("nope", "no column 'nope'; its columns are a, word, none"),
            ("word", "feature 'word' holds text"),
            ("none", "feature 'none' holds no number"),
        ],
    )
    def test_a_feature_that_cannot_be_scored_is_named(self, write: Write, feature: str, told: str) -> None:
        with pytest.raises(UsageError) as caught:
            columns_of(write("t.csv", b"a,word,none\n1,x,\n"), features=[feature])
        assert told in str(caught.value)

    def test_a_file_of_no_objects_has_no_columns(self, write: Write) -> None:
        with pytest.raises(UsageError, match="no columns found"):
            columns_of(write("t.ndjson", b"1\n2\n"))

    def test_a_name_too_long_for_a_column_is_one_line(self, write: Write) -> None:
        with pytest.raises(UsageError, match="at most 100 characters"):
            columns_of(write("t.csv", b"a" * 101 + b"\n1\n"))


class TestKeysAndTimes:
    def test_a_csv_column_gives_key_and_time(self, write: Write) -> None:
        path = write("t.csv", b"when,who\n1723161255342,x y\n1723161255617,\n")
        first, second = read_all(path, key_column="who", timestamp_column="when")
        assert (first.key, first.time_s) == (b"x y", 1723161255.342)
        assert (second.key, second.time_s) == (None, 1723161255.617)

    def test_an_ndjson_key_gives_key_and_time_and_bad_lines_have_none(self, write: Write) -> None:
        path = write("t.ndjson", b'{"t":"2026-11-22T23:00:00Z","k":7}\nbad\n{"t":"?","k":null}\n{"k":"a"}\n')
        records = read_all(path, key_column="k", timestamp_column="t")
        assert [record.key for record in records] == [b"7", None, None, b"a"]
        assert [record.time_s for record in records] == [1795388400.0, None, None, None]

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (1723161255, 1723161255.0),
            ("1723161255.5", 1723161255.5),
            (1723161255342, 1723161255.342),
            (1723161255342000, 1723161255.342),
            (1723161255342000000, 1723161255.342),
            ("2014-07-01 00:00:00", 1404172800.0),
            ("2014-07-01T02:00:00+02:00", 1404172800.0),
        ],
    )
    def test_times_are_read_in_every_common_form(self, value: object, seconds: float) -> None:
        assert TimeReader().seconds(value) == pytest.approx(seconds, abs=1e-6)

    def test_the_first_number_fixes_the_unit(self) -> None:
        times = TimeReader()
        assert times.seconds(1723161255342) == 1723161255.342
        assert times.seconds(1000) == 1.0

    @pytest.mark.parametrize("value", [None, True, "", "soon", [], float("nan"), 10**400])
    def test_what_is_no_time_is_none(self, value: object) -> None:
        assert TimeReader().seconds(value) is None

    def test_a_timestamp_column_that_is_missing_or_holds_no_time_is_named(self, write: Write) -> None:
        path = write("t.csv", b"a,b\nx,1\n")
        with pytest.raises(UsageError, match="no column 'when'"):
            open_input(path, timestamp_column="when")
        with pytest.raises(UsageError, match="no time in column 'a'"):
            open_input(path, timestamp_column="a")


class TestPipes:
    def test_records_come_as_they_are_written_and_stop_ends_a_wait(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with open(path, "r+b", buffering=0) as pipe:  # noqa: PTH123  # opened both ways: opening waits for nobody
            pipe.write(b'{"a":1}\n{"a":2}\n{"a":')
            with open_input(str(path)) as source:
                first = source.records(records_max=100, bytes_max=1 << 20)
                assert [record.value for record in first] == [b'{"a":1}', b'{"a":2}']
                pipe.write(b"3}\n")
                assert [record.value for record in source.records(records_max=100, bytes_max=99)] == [b'{"a":3}']
                pipe.write(b'{"half')
                later: list[list[InputRecord]] = []
                reading = threading.Thread(
                    target=lambda: later.append(source.records(records_max=100, bytes_max=99)), daemon=True
                )
                reading.start()
                source.stop()
                reading.join(timeout=10)
                # Half a line is no record.
                assert later == [[]]
                assert source.records(records_max=1, bytes_max=99) == []

    def test_a_stop_before_anything_came_is_no_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with open(path, "r+b", buffering=0):  # noqa: PTH123
            from cutbank.pipeline.inputs import Input

            with Input(str(path)) as source:
                source.stop()
                source.stop()
                assert source.records(records_max=1, bytes_max=1) == []


@pytest.mark.parametrize(
    "text",
    ["007", "+49", "1,5", "1_000", "0x1F", "NaN", "inf", "--1", "1e", ".", "-", "١", "0\x1f", "\xa01"],  # noqa: RUF001  # a digit that is not ASCII
)
def test_what_is_no_json_number_stays_text(text: str) -> None:
    assert json.loads(json_value(text)) == text


@pytest.mark.parametrize(
    ("text", "value"), [(".5", 0.5), ("5.", 5.0), (" 1.50 ", 1.5), ("1E3", 1000.0), ("-0", 0), ("1e-400", 0.0)]
)
def test_other_ways_to_write_a_number(text: str, value: float) -> None:
    assert json.loads(json_value(text)) == value


def test_a_number_beyond_doubles_stays_as_written_and_a_long_integer_keeps_its_digits() -> None:
    assert json_value("1e400") == "1e400"
    assert json_value("9" * 40) == "9" * 40
    assert math.isinf(float(json_value("-1e999")))


def test_nothing_seen_is_text() -> None:
    assert sql_type([]) == sql_type(["null"]) == sql_type(["boolean", "integer"]) == "VARCHAR"
