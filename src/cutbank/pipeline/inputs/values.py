r"""What a CSV field means: a JSON value, a kind for the schema, a time. Pure functions over text.

A number is written as JSON writes it (RFC 8259, section 6), and in the forms `.5` and `5.` too. Leading zeros and a
plus sign make text: `007` and `+49` are names more often than quantities. Integers stay as they are written, however
long; other numbers become the shortest text that reads back as the same double. One beyond a double's range stays as
it is, so that it shows itself as a bad record. An empty field is null.
"""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from json.encoder import encode_basestring
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["null", "integer", "number", "boolean", "text"]

_SPACE = " \t\r\n"
"""What may stand around a number, and alone is nothing. Other characters that look like space belong to a text."""
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER_DIGITS_MAX = 18
"""Integers of so many digits fit 64 bits whatever their digits are."""


def json_value(text: str) -> str:
    """A CSV field as JSON. Text that held invalid UTF-8 (surrogate escapes) keeps it."""
    bare = text.strip(_SPACE)
    if not bare:
        return "null"
    if _INTEGER.fullmatch(bare):
        return bare
    if _NUMBER.fullmatch(bare):
        number = float(bare)
        return repr(number) if math.isfinite(number) else bare
    return encode_basestring(text)


def kind_of_text(text: str) -> Kind:
    """What `json_value` makes of a field; an integer beyond 64 bits counts as a number."""
    bare = text.strip(_SPACE)
    if not bare:
        return "null"
    if _INTEGER.fullmatch(bare):
        return "integer" if len(bare.lstrip("-")) <= _INTEGER_DIGITS_MAX else "number"
    return "number" if _NUMBER.fullmatch(bare) else "text"


def kind_of_value(value: Any) -> Kind:
    """The kind of a decoded JSON value; arrays and objects count as text, which SQL has for them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if len(str(abs(value))) <= _INTEGER_DIGITS_MAX else "number"
    return "number" if isinstance(value, float) else "text"


def sql_type(kinds: Iterable[Kind]) -> str:
    """The SQL type that takes all of these: BIGINT, DOUBLE, BOOLEAN or VARCHAR; nothing seen is VARCHAR.

    Never TINYINT or DECIMAL: types that Kinesis Data Analytics inferred from samples and then failed on.
    """
    seen = set(kinds) - {"null"}
    if seen == {"integer"}:
        return "BIGINT"
    if seen and seen <= {"integer", "number"}:
        return "DOUBLE"
    return "BOOLEAN" if seen == {"boolean"} else "VARCHAR"


_EPOCH_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (math.inf, 1e9))
"""Below the bound, an epoch time is taken to be in seconds, ms, µs, ns; each bound is beyond the year 5000."""


class TimeReader:
    """Reads one column's timestamps as epoch seconds. The first number seen fixes the unit of all."""

    def __init__(self) -> None:
        self._units_per_s: float | None = None

    def seconds(self, value: Any) -> float | None:
        """Epoch seconds of a number (s, ms, µs or ns), a text that holds one, or ISO 8601 (UTC where it names no zone).

        None for anything else.
        """
        if isinstance(value, str):
            bare = value.strip(_SPACE)
            if not _NUMBER.fullmatch(bare):
                return _iso_seconds(bare)
            value = float(bare)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            number = float(value)
        except OverflowError:
            return None
        if not math.isfinite(number):
            return None
        if self._units_per_s is None:
            self._units_per_s = next(per_s for bound, per_s in _EPOCH_UNITS if abs(number) < bound)
        return number / self._units_per_s


def _iso_seconds(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
