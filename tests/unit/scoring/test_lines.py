"""The lines that leave the scorer, frozen in tests/golden: their fields, order and numbers are what users parse."""

import datetime as dt
from pathlib import Path

import orjson
import pytest

from cutbank.pipeline.scoring.decode import Decoder, Fault, Reason
from cutbank.pipeline.scoring.lines import (
    ERROR_PAYLOAD_BYTES_MAX,
    ROWTIME_MS_MAX,
    ROWTIME_MS_MIN,
    SECONDS_KEPT_MAX,
    LineWriter,
    _second_text,
    rowtime_text,
    stream_text,
)
from cutbank.pipeline.scoring.snapshots import Run
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Partition, Position

GOLDEN = Path(__file__).parents[2] / "golden"
SPEC = PipelineSpec()
RUN = Run(pipeline=SPEC.name, partition=Partition("trades", "0"), identity="c0ffee", number=1, spec_hash="")
WRITER = LineWriter(SPEC, RUN)
ARRIVAL_MS = 1_795_388_400_123  # 2026-11-22T23:00:00.123Z
RECORDS: list[tuple[bytes, float]] = [
    (b'{"tickerSymbol":"AMZN","tradeType":"BUY","price":301.25,"quantity":240,"id":17}', 3.86),
    (
        b'{"id":18,"quantity":5.0,"price":100,"tradeType":"SELL","tickerSymbol":"MSFT","venue":"XNAS"}',
        1.0000000000000002,
    ),
    (b'{"price":1e15,"quantity":12345678901234567890,"id":null}', 0.1),
    (
        b'{"tickerSymbol":"\\u00c5\\"\\n\\ud83d\\ude00","price":5e-324,"quantity":-1,"id":[1,{"a":true}]}',
        7.999999999999998,
    ),
    (b'{"price":0.30000000000000004,"quantity":9007199254740993,"id":18446744073709551615,"tradeType":1.50}', 1e-7),
]
BAD: list[bytes] = [
    b"",
    b"\xef\xbb\xbf{}",
    b'{"price":"\xff"}',
    b"[" * 200 + b"]" * 200,
    b'{"price":NaN}',
    b"[1]",
    b"{}",
    b'{"price":null,"quantity":1}',
    b'{"price":1,"quantity":true}',
    b'{"price":"1","quantity":1}',
    b'{"price":1,"quantity":1.5}',
]


def test_anomaly_lines_are_as_frozen() -> None:
    lines = []
    for number, (record, score) in enumerate(RECORDS):
        row = Decoder(PipelineSpec()).decode([record]).rows[0]
        position = Position(123 + number)
        lines.append(WRITER.scored(row, score=score, rowtime_ms=ARRIVAL_MS + number, position=position))
    assert b"\n".join(lines) + b"\n" == (GOLDEN / "anomaly_lines.ndjson").read_bytes()


def test_error_lines_are_as_frozen() -> None:
    decoded = Decoder(PipelineSpec()).decode(BAD)
    lines = [
        WRITER.error(value, decoded.faults[index], rowtime_ms=ARRIVAL_MS + index, position=Position(7 << 64 | index))
        for index, value in enumerate(BAD)
    ]
    assert b"\n".join(lines) + b"\n" == (GOLDEN / "error_lines.ndjson").read_bytes()


def test_a_line_has_the_specs_columns_then_what_cutbank_adds() -> None:
    row = {"id": 1, "price": 2.5, "extra": 3}
    line = orjson.loads(WRITER.scored(row, score=1.5, rowtime_ms=0, position=Position(0)))
    columns = ["tickerSymbol", "tradeType", "price", "quantity", "id", "ANOMALY_SCORE", "ROWTIME", "SOURCE"]
    assert list(line) == columns
    assert (line["tickerSymbol"], line["price"], line["id"]) == (None, 2.5, 1)
    assert list(line["SOURCE"].items()) == [
        ("pipeline", "anomaly-extractor"),
        ("stream", stream_text("trades", "c0ffee")),
        ("run", 1),
        ("partition", "0"),
        ("position", "0"),
        ("ordinal", 0),
    ]


def test_a_stream_made_again_under_its_name_has_another_source() -> None:
    assert stream_text("trades", "c0ffee") == "trades@fb028887"
    assert stream_text("trades", "decaf") != stream_text("trades", "c0ffee")


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (ROWTIME_MS_MIN, "0001-01-01T00:00:00.000Z"),
        (ROWTIME_MS_MIN - 1, "0001-01-01T00:00:00.000Z"),
        (ROWTIME_MS_MAX, "9999-12-31T23:59:59.999Z"),
        (ROWTIME_MS_MAX + 1, "9999-12-31T23:59:59.999Z"),
        (2**63 - 1, "9999-12-31T23:59:59.999Z"),
        (-(2**63), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_that_no_calendar_has_becomes_the_nearest(time_ms: int, text: str) -> None:
    assert rowtime_text(time_ms) == text
    line = WRITER.scored({}, score=1.5, rowtime_ms=time_ms, position=Position(0))
    assert orjson.loads(line)["ROWTIME"] == text


def test_texts_of_seconds_are_kept_for_the_last_few_only() -> None:
    _second_text.cache_clear()
    for second in range(SECONDS_KEPT_MAX + 10):
        rowtime_text(second * 1000)
    assert _second_text.cache_info().currsize == SECONDS_KEPT_MAX


@pytest.mark.parametrize("score", [0.1 + 0.2, 1 / 3, 1.0, 1e16, 5e-324, 1.7976931348623157e308, 2**53 + 2.0])
def test_numbers_read_back_to_the_same_double(score: float) -> None:
    line = WRITER.scored({"price": score}, score=score, rowtime_ms=0, position=Position(0))
    assert orjson.loads(line)["ANOMALY_SCORE"] == score
    assert orjson.loads(line)["price"] == score


@pytest.mark.parametrize("size", [0, ERROR_PAYLOAD_BYTES_MAX - 1, ERROR_PAYLOAD_BYTES_MAX, ERROR_PAYLOAD_BYTES_MAX + 1])
def test_an_error_line_holds_the_first_bytes_and_says_how_many_there_were(size: int) -> None:
    value = bytes(number % 251 for number in range(size))
    fault = Fault(Reason.INVALID_JSON, "not valid JSON")
    line = orjson.loads(WRITER.error(value, fault, rowtime_ms=0, position=Position(0)))
    assert bytes.fromhex(line["DATA_ROW"]) == value[:ERROR_PAYLOAD_BYTES_MAX]
    assert line["DATA_BYTES"] == size


@pytest.mark.parametrize(
    "time_ms", [0, 1, 999, ARRIVAL_MS, 1_709_164_799_999, 1_709_164_800_000, 253_402_300_799_999, -1]
)
def test_rowtime_is_utc_with_milliseconds(time_ms: int) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    moment = epoch + dt.timedelta(milliseconds=time_ms)
    assert rowtime_text(time_ms) == moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
