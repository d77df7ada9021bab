"""Lines and their order: what a record becomes, what is not ours, the golden object."""

import json
from array import array
from math import inf
from pathlib import Path

import orjson
import pytest

from cutbank.pipeline.sinking.claims import ChainId, Layout
from cutbank.pipeline.sinking.layout import ARRIVAL_MS_MAX, arrival_in_range, minute_of, object_key, order
from cutbank.pipeline.sinking.lines import Line, LineReader, Source, rowtime
from cutbank.pipeline.sinking.prefix import folders
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Batch, Partition, Position

GOLDEN = Path(__file__).parent / "golden"
ARRIVAL_MS = 1_795_388_400_123
"""2026-11-22T23:00:00.123Z"""
SOURCE = b'{"pipeline":"p","stream":"t@0a1b2c3d","run":1,"partition":"0","position":"7","ordinal":0}'


def line(value: bytes) -> Line:
    return LineReader().line(value, position=Position(5), arrival_ms=ARRIVAL_MS)


def ours(score: bytes = b"1.5", rowtime_: bytes = b"2026-11-22T23:00:07.999Z", source: bytes = SOURCE) -> bytes:
    return b'{"ANOMALY_SCORE":%s,"ROWTIME":"%s","SOURCE":%s}' % (score, rowtime_, source)


def test_an_anomaly_keeps_its_bytes_and_is_known_by_its_source() -> None:
    value = (
        b'{"price":1.10,"a":"\\u00e9",  "ANOMALY_SCORE":2.5,"ROWTIME":"2026-11-22T23:00:07.999Z","SOURCE":'
        + SOURCE
        + b"}"
    )
    assert line(value) == Line(value, 1_795_388_407, 2.5, Source("p", "t@0a1b2c3d/0", 1, Position(7), 0))


def test_kinesis_positions_are_understood() -> None:
    source = line(
        ours(
            source=b'{"pipeline":"p","stream":"t@0a1b2c3d","run":3,"partition":"shardId-1","position":"5.9","ordinal":2}'
        )
    ).source
    assert source == Source("p", "t@0a1b2c3d/shardId-1", 3, Position((5 << 64) | 9), 2)


@pytest.mark.parametrize(
    "source",
    [
        b"null",
        b"{}",
        b'"0"',
        b"[1]",
        b'{"run":1,"partition":"0","position":"7","ordinal":0}',
        b'{"pipeline":1,"stream":"t","run":1,"partition":"0","position":"7","ordinal":0}',
        b'{"pipeline":"p","stream":null,"run":1,"partition":"0","position":"7","ordinal":0}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":true,"partition":"0","position":"7","ordinal":0}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":1.0,"partition":"0","position":"7","ordinal":0}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":-1,"partition":"0","position":"7","ordinal":0}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":1,"partition":0,"position":"7","ordinal":0}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":1,"partition":"0","position":7,"ordinal":0}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":1,"partition":"0","position":"x","ordinal":0}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":1,"partition":"0","position":"-7","ordinal":0}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":1,"partition":"0","position":"7"}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":18446744073709551615,"partition":"0","position":"7","ordinal":0}',
        b'{"pipeline":"p","stream":"t@0a1b2c3d","run":1,"partition":"' + b"x" * 300 + b'","position":"7","ordinal":0}',
    ],
)
def test_what_has_no_valid_source_is_not_ours_but_keeps_its_line(source: bytes) -> None:
    value = ours(source=source)
    assert line(value) == Line(value, ARRIVAL_MS // 1000, 1.5, None)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"2026-11-22 23:00:07.999Z",
        b"2026-11-22T23:00:07Z",
        b"2026-11-22T23:00:07.999",
        b"2026-11-22T23:00:07.999z",
        b"2026-13-22T23:00:07.999Z",
        b"2026-11-22T24:00:00.000Z",
        b"2026-11-22T23:00:60.000Z",
        b"0000-11-22T23:00:07.999Z",
        "2026-11-22T23:00:07.99\u0669Z".encode(),
        "\uff12026-11-22T23:00:07.999Z".encode(),
    ],
)
def test_what_has_no_valid_rowtime_is_ordered_by_its_arrival(text: bytes) -> None:
    assert line(ours(rowtime_=text))[1:4] == (ARRIVAL_MS // 1000, 1.5, None)


@pytest.mark.parametrize("score", [b"null", b"true", b'"9"', b"[]"])
def test_what_has_no_score_comes_after_all_scores_of_its_second(score: bytes) -> None:
    assert line(ours(score=score)).score == -inf


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"nonsense",
        b"123",
        b'"text"',
        b"[{}]",
        b"null",
        b'{"a":NaN}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"a\nb\r\n",
    ],
)
def test_what_is_no_object_is_wrapped_whole(value: bytes) -> None:
    found = line(value)
    assert b"\n" not in found.text
    assert orjson.loads(found.text) == {
        "DATA_BYTES": len(value),
        "DATA_POSITION": "5",
        "DATA_ROW": value.hex(),
        "ROWTIME": "2026-11-22T23:00:00.123Z",
        "SOURCE": None,
    }
    assert found[1:4] == (ARRIVAL_MS // 1000, -inf, None)


def test_line_breaks_between_the_parts_of_an_object_become_spaces() -> None:
    value = b'{\r\n  "a": "x\\ny",\n  "b": [1,\n2]\n}\n'
    text = line(value).text
    assert text == b'{    "a": "x\\ny",   "b": [1, 2] } '
    assert json.loads(text) == json.loads(value)


def test_rowtime_is_utc_with_milliseconds() -> None:
    assert rowtime(ARRIVAL_MS) == "2026-11-22T23:00:00.123Z"
    assert rowtime(0) == "1970-01-01T00:00:00.000Z"
    assert rowtime(ARRIVAL_MS_MAX) == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("arrival_ms", "expected"), [(0, 0), (59_999, 0), (60_000, 60_000), (-1, 0), (1 << 62, ARRIVAL_MS_MAX - 59_999)]
)
def test_any_arrival_has_a_minute(arrival_ms: int, expected: int) -> None:
    assert minute_of(arrival_in_range(arrival_ms)) == expected
    assert folders(Layout(), expected).count("/") == 4


def test_objects_lie_under_their_hour() -> None:
    key = object_key(
        ChainId("p", "anomalies", "0"), Layout(), start=Position(42), minute_ms=ARRIVAL_MS - 123, ordinal=0
    )
    assert key == "2026/11/22/23/p-anomalies-0-42-0.json"


def test_no_two_chains_name_one_object() -> None:
    parts = ["a", "a-b", "b", "b-c", "c", "a%2Db", "1", "0-1", "0"]
    chains = [ChainId(p, s, n) for p in parts for s in parts for n in parts]
    starts = [Position(0), Position(1), Position(1 << 64)]
    keys = {
        object_key(chain, Layout(), start=start, minute_ms=0, ordinal=ordinal)
        for chain in chains
        for start in starts
        for ordinal in (0, 1)
    }
    assert len(keys) == len(chains) * len(starts) * 2


def test_the_order_is_second_then_score_then_position() -> None:
    seconds = array("q", [2, 1, 1, 1, 2, 1])
    scores = array("d", [1.0, 2.0, 3.0, 2.0, 1.0, -inf])
    assert order(seconds, scores) == [2, 1, 3, 5, 0, 4]


def test_the_golden_object() -> None:
    """Records in the order of the log, the object as it lies in the bucket: fixes lines, order, key and claim."""
    values = (GOLDEN / "records.ndjson").read_bytes().removesuffix(b"\n").split(b"\n")
    stretch = Stretch(
        pipeline="p",
        layout=Layout(),
        start=Position(3),
        reading=Position(3),
        marks=(),
        minute_ms=0,
        bytes_max=1 << 20,
        records_max=100,
    )
    batch = Batch(
        partition=Partition("anomalies", "0"),
        start=Position(3),
        end=Position(3 + len(values)),
        positions=[Position(3 + n) for n in range(len(values))],
        arrivals_ms=[ARRIVAL_MS + n for n in range(len(values))],
        keys=[None] * len(values),
        values=values,
    )
    assert stretch.take(batch, broker_ms=ARRIVAL_MS) == len(values)
    claim, (body,) = stretch.claim(ChainId("anomaly-extractor", "anomalies", "0"), spec_hash=None)
    assert claim.objects[0].key == "2026/11/22/23/anomaly-extractor-anomalies-0-3-0.json"
    assert body == (GOLDEN / "object.ndjson").read_bytes()
