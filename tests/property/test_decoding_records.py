"""Any bytes at all: a verdict comes, it is the same in every company, and good neighbours don't notice."""

import math
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.pipeline.scoring.decode import Decoder, Reason
from cutbank.pipeline.spec import INTEGER_TYPES, PipelineSpec

SPEC = PipelineSpec()
DECODER = Decoder(SPEC)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
records = st.fixed_dictionaries(
    {}, optional={"price": numbers | json_values, "quantity": numbers | json_values, "id": json_values}
)
good_records = st.fixed_dictionaries({"price": numbers, "quantity": st.integers(-(2**63), 2**64 - 1)})
values = st.one_of(
    records.map(orjson.dumps),
    good_records.map(orjson.dumps),
    json_values.map(orjson.dumps),
    st.binary(max_size=40),
    st.tuples(good_records.map(orjson.dumps), st.integers(0, 60), st.binary(max_size=2)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
    ),
)


def is_good(value: bytes) -> bool:
    """The plain twin: what a good record is, said once more with the standard library's means."""
    try:
        row: Any = orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(row, dict):
        return False
    for name in SPEC.features:
        number = row.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            return False
        if SPEC.type_of(name) in INTEGER_TYPES and not float(number).is_integer():
            return False
    return True


@given(st.lists(values, max_size=12))
@settings(max_examples=300, deadline=None)
def test_every_value_is_good_or_has_a_reason_and_never_both(batch: list[bytes]) -> None:
    decoded = DECODER.decode(batch)
    assert sorted([*decoded.good, *decoded.faults]) == list(range(len(batch)))
    for index, value in enumerate(batch):
        assert (index not in decoded.faults) == is_good(value)


@given(st.lists(values, max_size=12))
@settings(max_examples=200, deadline=None)
def test_a_verdict_does_not_depend_on_the_company(batch: list[bytes]) -> None:
    together = DECODER.decode(batch)
    features = iter(together.features.tolist())
    for index, value in enumerate(batch):
        alone = DECODER.decode([value])
        assert alone.faults.get(0) == together.faults.get(index)
        if not alone.faults:
            assert [str(number) for number in alone.features[0].tolist()] == [str(number) for number in next(features)]


@given(st.lists(good_records, min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_features_are_the_records_numbers_as_doubles(rows: list[dict[str, Any]]) -> None:
    decoded = DECODER.decode([orjson.dumps(row) for row in rows])
    expected = [[float(row[name]) for name in SPEC.features] for row in rows]
    assert decoded.features.tolist() == expected


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_that_are_no_utf8_say_so_unless_an_earlier_reason_fits(value: bytes) -> None:
    fault = DECODER.decode([value]).faults.get(0)
    assert fault is not None
    try:
        value.decode()
    except UnicodeDecodeError:
        assert fault.reason in (Reason.INVALID_UTF8, Reason.BYTE_ORDER_MARK)
    else:
        assert fault.reason is not Reason.INVALID_UTF8
