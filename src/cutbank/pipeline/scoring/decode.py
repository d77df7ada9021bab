"""Turns the values of a batch into one array of features, and says what is wrong with each value that it can't.

Owns what a good record is, and the reasons (`Reason`) that the error stream carries. A verdict, reason and message
included, is a pure function of the value and the spec: never of the batch it came in, nor of the JSON library's words.

Policy, frozen in tests: of duplicate keys the last counts; an integer beyond 64 bits is read as the nearest float64;
an integral float such as 5.0 is an integer; a value beyond 1.8e308 is no JSON number at all.
Pure and thread-safe; CPU-bound, so it is called off the event loop.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import orjson

from cutbank.detectors.base import Features
from cutbank.pipeline.spec import INTEGER_TYPES, PipelineSpec
from cutbank.transports.base import RECORD_BYTES_MAX

DEPTH_MAX = 128
"""Deepest nesting of arrays and objects in a record; orjson reads 1024 levels but writes only 254."""

Row: TypeAlias = dict[str, Any]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITE_SPACE = b" \t\r\n"
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_OPENING, _CLOSING = b"[{", b"]}"
_NOT_BRACKETS = bytes(sorted(set(range(256)) - set(_OPENING + _CLOSING)))
_NUMBERS = frozenset({int, float})


class Reason(StrEnum):
    """Why a record is in the error stream: the value of ERROR_NAME.

    Tried in this order, and the first that fits counts; from `missing_feature` on, feature by feature as the spec has
    them.
    """

    TOO_LARGE = "too_large"
    EMPTY = "empty"
    BYTE_ORDER_MARK = "byte_order_mark"
    INVALID_UTF8 = "invalid_utf8"
    NESTED_TOO_DEEP = "nested_too_deep"
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FEATURE = "missing_feature"
    NULL_FEATURE = "null_feature"
    BOOLEAN_FEATURE = "boolean_feature"
    NOT_A_NUMBER = "not_a_number"
    NOT_AN_INTEGER = "not_an_integer"
    NOT_FINITE = "not_finite"
    ANOMALY_TOO_LARGE = "anomaly_too_large"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a record."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """The values of a batch, apart: good ones as features and rows, bad ones as faults."""

    features: Features
    """float64 (len(good), features), in the spec's order."""
    good: Sequence[int]
    """Indices of the good values, increasing; row i of `features` and `rows` is value `good[i]`."""
    rows: Sequence[Row]
    """The good values, parsed."""
    faults: dict[int, Fault]
    """What is wrong with each other value, by its index."""


class Decoder:
    """Decodes the records of one spec."""

    def __init__(self, spec: PipelineSpec) -> None:
        self._features = tuple((name, spec.type_of(name) in INTEGER_TYPES) for name in spec.features)

    def decode(self, values: Sequence[bytes]) -> Decoded:
        """Every value is either in `good` or in `faults`; never raises for what a value holds."""
        rows = _parse_all(values)
        if rows is not None and (features := self._columns(rows)) is not None:
            return Decoded(features=features, good=range(len(values)), rows=rows, faults={})
        return self._decode_each(values)

    def _columns(self, rows: Sequence[Any]) -> Features | None:
        """The features of all rows at once; None if any of them needs a closer look."""
        features = np.empty((len(rows), len(self._features)), dtype=np.float64)
        for index, (name, integral) in enumerate(self._features):
            try:
                column = list(map(itemgetter(name), rows))
            except (KeyError, TypeError):
                return None
            kinds = set(map(type, column))
            if not kinds <= _NUMBERS:
                return None
            features[:, index] = column
            if integral and float in kinds and not np.equal(features[:, index], np.floor(features[:, index])).all():
                return None
        return features if np.isfinite(features).all() else None

    def _decode_each(self, values: Sequence[bytes]) -> Decoded:
        good: list[int] = []
        rows: list[Row] = []
        faults: dict[int, Fault] = {}
        for index, value in enumerate(values):
            row = _parse(value)
            fault = row if isinstance(row, Fault) else self.row_fault(row)
            if fault is None:
                assert isinstance(row, dict)
                good.append(index)
                rows.append(row)
            else:
                faults[index] = fault
        features = self._columns(rows)
        assert features is not None, "a row without a fault has features"
        return Decoded(features=features, good=good, rows=rows, faults=faults)

    def row_fault(self, row: Any) -> Fault | None:
        """What is wrong with a parsed value, or None."""
        if not isinstance(row, dict):
            return Fault(Reason.NOT_AN_OBJECT, f"a record is a JSON object, this is {_kind(row)}")
        for name, integral in self._features:
            if name not in row:
                return Fault(Reason.MISSING_FEATURE, f"feature {name!r} is missing")
            if (fault := _number_fault(name, row[name], integral=integral)) is not None:
                return fault
        return None


def _number_fault(name: str, value: Any, *, integral: bool) -> Fault | None:
    """What is wrong with the value of a feature, or None."""
    if value is None:
        reason, what = Reason.NULL_FEATURE, "null"
    elif isinstance(value, bool):
        reason, what = Reason.BOOLEAN_FEATURE, "a boolean, not a number"
    elif type(value) not in _NUMBERS:
        reason, what = Reason.NOT_A_NUMBER, f"{_kind(value)}, not a number"
    elif not math.isfinite(value):
        reason, what = Reason.NOT_FINITE, "not a finite number"
    elif integral and not float(value).is_integer():
        reason, what = Reason.NOT_AN_INTEGER, f"{value!r}, its column takes integers"
    else:
        return None
    return Fault(reason, f"feature {name!r} is {what}")


def _parse_all(values: Sequence[bytes]) -> list[Any] | None:
    """Every value parsed; None if any of them needs a closer look."""
    longest = max(map(len, values), default=0)
    if longest > RECORD_BYTES_MAX or (longest > 2 * DEPTH_MAX and any(map(_may_be_deep, values))):
        return None
    try:
        return list(map(orjson.loads, values))
    except orjson.JSONDecodeError:
        return None


def _parse(value: bytes) -> Any:
    """The parsed value, or a Fault."""
    if len(value) > RECORD_BYTES_MAX:
        return Fault(Reason.TOO_LARGE, f"{len(value)} bytes, the most is {RECORD_BYTES_MAX}")
    if not value.strip(_WHITE_SPACE):
        return Fault(Reason.EMPTY, "the value is empty")
    if value.startswith(_BYTE_ORDER_MARK):
        return Fault(Reason.BYTE_ORDER_MARK, "the value begins with a UTF-8 byte order mark")
    if not _may_be_deep(value):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            pass
    return _parse_doubtful(value)


def _parse_doubtful(value: bytes) -> Any:
    """Like `_parse`, for a value that is deep or invalid: finds out which, in the order of the reasons."""
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return Fault(Reason.INVALID_UTF8, f"invalid UTF-8 at byte {error.start}")
    if (levels := depth(value)) > DEPTH_MAX:
        return Fault(Reason.NESTED_TOO_DEEP, f"{levels} levels of arrays and objects, the most is {DEPTH_MAX}")
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return Fault(
            Reason.INVALID_JSON,
            "not valid JSON (nor are NaN, Infinity, numbers beyond 1.8e308, lone surrogates, text after the value)",
        )


def _may_be_deep(value: bytes) -> bool:
    """Whether the value has brackets enough to be nested too deep: never False for one that is and is valid."""
    return len(value) > 2 * DEPTH_MAX and value.count(b"{") + value.count(b"[") > DEPTH_MAX


def depth(value: bytes) -> int:
    """The deepest nesting of brackets outside strings, whether or not the value is valid JSON. Linear time."""
    brackets = np.frombuffer(_STRING.sub(b"", value).translate(None, _NOT_BRACKETS), dtype=np.uint8)
    steps = np.where((brackets == _OPENING[0]) | (brackets == _OPENING[1]), 1, -1)
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


def _kind(value: Any) -> str:
    """A JSON value's kind, in words."""
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "an array"
    return "null" if value is None else "an object"
