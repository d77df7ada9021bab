"""A second opinion on what a bad record is: the documented rules, written once more with the standard library.

Shares nothing with the scorer's decoder but the names of the reasons and the two limits, so that a test which
compares the two compares two readings of the same rules. Slow and plain; pure, thread-safe.
"""

import json
import math
from typing import Any

from cutbank.pipeline.scoring.decode import DEPTH_MAX, Reason
from cutbank.pipeline.spec import INTEGER_TYPES, PipelineSpec
from cutbank.transports.base import RECORD_BYTES_MAX


def expected_reason(spec: PipelineSpec, value: bytes) -> Reason | None:
    """Why the scorer must refuse this value; None: it is scored.

    Never `anomaly_too_large`, which depends on the score, nor `not_finite`, which no JSON text can be.
    """
    early = _without_parsing(value)
    if early is not None:
        return early
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return Reason.INVALID_UTF8
    if _levels(text) > DEPTH_MAX:
        return Reason.NESTED_TOO_DEEP
    try:
        row = _strictly(text)
    except ValueError:
        return Reason.INVALID_JSON
    return _of_row(spec, row)


def _without_parsing(value: bytes) -> Reason | None:
    if len(value) > RECORD_BYTES_MAX:
        return Reason.TOO_LARGE
    if all(byte in b" \t\r\n" for byte in value[:1] + value.strip(b" \t\r\n")):
        return Reason.EMPTY
    return Reason.BYTE_ORDER_MARK if value[:3] == b"\xef\xbb\xbf" else None


def _of_row(spec: PipelineSpec, row: Any) -> Reason | None:
    if type(row) is not dict:
        return Reason.NOT_AN_OBJECT
    for name in spec.features:
        if name not in row:
            return Reason.MISSING_FEATURE
        reason = _of_number(row[name], integral=spec.type_of(name) in INTEGER_TYPES)
        if reason is not None:
            return reason
    return None


def _of_number(value: Any, *, integral: bool) -> Reason | None:
    if value is None:
        return Reason.NULL_FEATURE
    if value is True or value is False:
        return Reason.BOOLEAN_FEATURE
    if not isinstance(value, int | float):
        return Reason.NOT_A_NUMBER
    return Reason.NOT_AN_INTEGER if integral and value != math.floor(value) else None


def _levels(text: str) -> int:
    """Deepest nesting of brackets outside strings, one character after another; a string may lack its end."""
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return 0  # not deep, whatever else
    level = deepest = 0
    inside = escaped = False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            inside = True
        elif character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest


def _strictly(text: str) -> Any:
    """The value of a JSON text by RFC 8259, of numbers and characters only those that every reader agrees on.

    Raises ValueError for what Python alone lets pass: NaN, Infinity, numbers beyond a double, lone surrogates.
    """
    value = json.loads(
        text,
        parse_float=_finite,
        parse_int=lambda digits: (_finite(digits), int(digits))[1],
        parse_constant=_refused,
        object_pairs_hook=_object,
    )
    _check_strings(value)
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"beyond a double: {digits[:40]}")
    return number


def _refused(word: str) -> Any:
    raise ValueError(f"no JSON: {word}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of duplicate keys the last counts, but those before must be valid too."""
    for name, value in pairs:
        _check_strings(name)
        _check_strings(value)
    return dict(pairs)


def _check_strings(value: Any) -> None:
    """Raises ValueError for half a character: an escape of a surrogate without its other half."""
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("a lone surrogate")
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)
