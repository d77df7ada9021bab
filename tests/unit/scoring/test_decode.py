"""Each reason of the error stream, the order they are tried in, and what is frozen as policy."""

import orjson
import pytest

from cutbank.pipeline.scoring.decode import DEPTH_MAX, Decoder, Reason, depth
from cutbank.pipeline.spec import Column, PipelineSpec
from cutbank.transports.base import RECORD_BYTES_MAX

DECODER = Decoder(PipelineSpec())


def record(price: bytes = b"101.5", quantity: bytes = b"7", rest: bytes = b"") -> bytes:
    return b'{"tickerSymbol":"AMZN","price":' + price + b',"quantity":' + quantity + rest + b"}"


def reason(value: bytes) -> Reason | None:
    """Why a value is bad, alone and between good ones: it must be the same."""
    alone = DECODER.decode([value])
    among = DECODER.decode([record(), value, record()])
    assert [among.faults.get(1)] == [alone.faults.get(0)]
    assert len(among.good) == 3 - len(among.faults)
    fault = alone.faults.get(0)
    return fault and fault.reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", Reason.EMPTY),
        (b" \r\n\t", Reason.EMPTY),
        (record(rest=b',"pad":"' + b"x" * RECORD_BYTES_MAX + b'"'), Reason.TOO_LARGE),
        (b" " * (RECORD_BYTES_MAX + 1), Reason.TOO_LARGE),
        (b"\xef\xbb\xbf" + record(), Reason.BYTE_ORDER_MARK),
        (b"\xef\xbb\xbf", Reason.BYTE_ORDER_MARK),
        (record().replace(b"AMZN", b"AM\xff"), Reason.INVALID_UTF8),
        (b"\xff\xfe{\x00}\x00", Reason.INVALID_UTF8),
        (record().replace(b"AMZN", b"\xed\xa0\x80"), Reason.INVALID_UTF8),
        (record(rest=b',"a":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX), Reason.NESTED_TOO_DEEP),
        (b"[" * 100_000, Reason.NESTED_TOO_DEEP),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, Reason.NESTED_TOO_DEEP),
        (b"{", Reason.INVALID_JSON),
        (b"{'price':1}", Reason.INVALID_JSON),
        (record() + b"x", Reason.INVALID_JSON),
        (record() + record(), Reason.INVALID_JSON),
        (record() + b"\x00", Reason.INVALID_JSON),
        (record(price=b"NaN"), Reason.INVALID_JSON),
        (record(price=b"Infinity"), Reason.INVALID_JSON),
        (record(price=b"-Infinity"), Reason.INVALID_JSON),
        (record(price=b"1e400"), Reason.INVALID_JSON),
        (record(price=b"9" * 400), Reason.INVALID_JSON),
        (record(price=b"01"), Reason.INVALID_JSON),
        (record().replace(b"AMZN", b"\\ud800"), Reason.INVALID_JSON),
        (record(rest=b","), Reason.INVALID_JSON),
        (b"null", Reason.NOT_AN_OBJECT),
        (b"[1,2]", Reason.NOT_AN_OBJECT),
        (b'"price"', Reason.NOT_AN_OBJECT),
        (b"12.5", Reason.NOT_AN_OBJECT),
        (b"true", Reason.NOT_AN_OBJECT),
        (b"{}", Reason.MISSING_FEATURE),
        (b'{"price":1.5}', Reason.MISSING_FEATURE),
        (b'{"Price":1.5,"quantity":2}', Reason.MISSING_FEATURE),
        (record(price=b"null"), Reason.NULL_FEATURE),
        (record(price=b"true"), Reason.BOOLEAN_FEATURE),
        (record(quantity=b"false"), Reason.BOOLEAN_FEATURE),
        (record(price=b'"101.5"'), Reason.NOT_A_NUMBER),
        (record(price=b"[1]"), Reason.NOT_A_NUMBER),
        (record(price=b"{}"), Reason.NOT_A_NUMBER),
        (record(quantity=b"7.5"), Reason.NOT_AN_INTEGER),
        (record(quantity=b"1e-3"), Reason.NOT_AN_INTEGER),
    ],
)
def test_every_kind_of_bad_record_has_its_reason(value: bytes, expected: Reason) -> None:
    assert reason(value) is expected


@pytest.mark.parametrize(
    "value",
    [
        record(),
        b"  " + record() + b"\n",
        record(price=b"7"),
        record(price=b"-0.0"),
        record(price=b"1e308"),
        record(price=b"5e-324"),
        record(price=b"1e-400"),
        record(quantity=b"5.0"),
        record(quantity=b"1e3"),
        record(quantity=b"-3"),
        record(rest=b',"a":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1)),
        record(rest=b',"a":"' + b"[{" * 5000 + b'"'),
        record(rest=b',"a":[' + b"[]," * 5000 + b"[]]"),
        record(rest=b',"a":"\\"' + b"[" * 5000 + b'\\\\"'),
        record(rest=b',"pad":"' + b"x" * (RECORD_BYTES_MAX - 63) + b'"'),
    ],
)
def test_what_is_unusual_but_good(value: bytes) -> None:
    assert reason(value) is None


def test_the_largest_good_record_has_exactly_the_limit() -> None:
    padding = RECORD_BYTES_MAX - len(record(rest=b',"pad":""'))
    assert reason(record(rest=b',"pad":"' + b"x" * padding + b'"')) is None
    assert reason(record(rest=b',"pad":"' + b"x" * (padding + 1) + b'"')) is Reason.TOO_LARGE


def test_the_first_reason_that_fits_counts() -> None:
    assert reason(b" " * (RECORD_BYTES_MAX + 1)) is Reason.TOO_LARGE
    assert reason(b"\xef\xbb\xbf\xff") is Reason.BYTE_ORDER_MARK
    assert reason(b"[" * 5000 + b"\xff") is Reason.INVALID_UTF8
    assert reason(b'{"price":true,"quantity":null}') is Reason.BOOLEAN_FEATURE


class TestPolicy:
    """What orjson does today, frozen: a change would change scores."""

    def feature(self, number: bytes) -> float:
        decoded = DECODER.decode([record(price=number)])
        assert not decoded.faults
        return float(decoded.features[0, 0])

    def test_of_duplicate_keys_the_last_counts(self) -> None:
        decoded = DECODER.decode([b'{"price":1.0,"quantity":2,"price":3.0}'])
        assert decoded.features.tolist() == [[3.0, 2.0]]
        assert decoded.rows[0]["price"] == 3.0

    @pytest.mark.parametrize(
        "number",
        [
            b"9007199254740993",  # 2**53 + 1: to even
            b"9007199254740995",
            b"9223372036854775807",
            b"-9223372036854775808",
            b"18446744073709551615",
            b"18446744073709551616",
            b"123456789012345678901234567890",
            b"-123456789012345678901234567890",
            b"1" + b"0" * 300,
        ],
    )
    def test_an_integer_of_any_size_becomes_the_nearest_double(self, number: bytes) -> None:
        assert self.feature(number) == float(int(number))

    def test_a_large_integer_in_an_integer_column_is_accepted(self) -> None:
        decoded = DECODER.decode([record(quantity=b"123456789012345678901234567890")])
        assert decoded.features[0, 1] == 1.2345678901234568e29

    def test_a_number_is_read_as_the_nearest_double(self) -> None:
        assert self.feature(b"0.1") == 0.1
        assert self.feature(b"2.2250738585072011e-308") == 2.2250738585072011e-308
        assert self.feature(b"1e-400") == 0.0

    def test_orjson_writes_what_this_depth_lets_pass(self) -> None:
        decoded = DECODER.decode([record(rest=b',"a":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1))])
        assert orjson.dumps({"column": decoded.rows[0]})


def test_a_number_that_is_not_finite_is_refused_even_if_a_parser_lets_it_pass() -> None:
    for number in (float("nan"), float("inf"), float("-inf")):
        fault = DECODER.row_fault({"price": number, "quantity": 1})
        assert fault is not None
        assert fault.reason is Reason.NOT_FINITE


def test_a_message_says_which_feature_and_what_is_there() -> None:
    faults = DECODER.decode([record(price=b'"x"'), record(quantity=b"7.5"), b"[]", b"{}"]).faults
    assert [fault.message for fault in faults.values()] == [
        "feature 'price' is a string, not a number",
        "feature 'quantity' is 7.5, its column takes integers",
        "a record is a JSON object, this is an array",
        "feature 'price' is missing",
    ]


def test_features_come_in_the_specs_order_whatever_the_records() -> None:
    columns = (Column(name="a", type="REAL"), Column(name="b", type="BIGINT"), Column(name="c", type="DOUBLE"))
    decoder = Decoder(PipelineSpec(columns=columns, features=("c", "a")))
    decoded = decoder.decode([b'{"a":1,"b":2,"c":3}', b'{"c":6,"b":true,"a":4}'])
    assert decoded.features.tolist() == [[3.0, 1.0], [6.0, 4.0]]
    assert decoded.features.flags.c_contiguous
    assert not decoded.faults


def test_an_empty_batch_gives_an_empty_array() -> None:
    decoded = DECODER.decode([])
    assert decoded.features.shape == (0, 2)
    assert (list(decoded.good), decoded.faults) == ([], {})


def test_a_batch_of_bad_records_only() -> None:
    decoded = DECODER.decode([b"{", b"null"])
    assert decoded.features.shape == (0, 2)
    assert sorted(decoded.faults) == [0, 1]


@pytest.mark.parametrize(
    ("value", "levels"),
    [
        (b"", 0),
        (b"1", 0),
        (b"{}", 1),
        (b'{"a":[{}]}', 3),
        (b'"[[["', 0),
        (b'["\\"[[", [1]]', 2),
        (b'["\\\\", [[1]]]', 3),
        (b'"[[[', 0),
        (b"]]][", 0),
        (b"[" * 1_000_000, 1_000_000),
        (b'"\\' * 500_000, 0),
    ],
)
def test_depth_counts_brackets_outside_strings(value: bytes, levels: int) -> None:
    assert depth(value) == levels
