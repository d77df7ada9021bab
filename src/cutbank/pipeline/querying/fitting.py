"""What becomes of a line in a table: `Shape` finds the lines that fit their columns entirely, `fit` takes any. Pure.

Invariant: a line is one row, whatever it holds; of a line that `Shape` takes, the database makes the row that `fit`
makes of it. What `fit` can't put into its column is null there, and stands, digit for digit, in OTHER_FIELDS, as does
what has no column. All that a scorer wrote under this spec has the shape, so the slow way is for other people's lines.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from cutbank.pipeline.querying.tables import SOURCE_FIELDS, STRUCT, Table
from cutbank.pipeline.sinking.json_rows import members

_STRING = r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
_DAY = (
    r"(?!0000)[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    r"02-(?:0[1-9]|1[0-9]|2[0-8]))|[0-9]{2}(?:0[48]|[2468][048]|[13579][26])-02-29"
)
"""A date of the calendar; that a year 2000 has a leap day is left to `fit`."""
_TIME = rf'"(?:{_DAY})T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{{3}}Z"'
_COUNT = "(?:0|[1-9][0-9]{0,17})"
_INTEGER_DIGITS = {"TINYINT": 2, "SMALLINT": 4, "INTEGER": 9, "BIGINT": 18}
"""So many digits always fit; a longer number is for `fit` to judge."""
_INTEGER_BITS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}
_SOURCE = ",".join(f'"{name}":{_STRING if kind == "VARCHAR" else _COUNT}' for name, kind in SOURCE_FIELDS)
_PATTERNS = {
    "VARCHAR": rf"(?:{_STRING}|null|true|false|(?:0|-?[1-9][0-9]{{0,17}}))",
    "DOUBLE": r"(?:-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|null)",
    "BOOLEAN": "(?:true|false|null)",
    "TIMESTAMP": rf"(?:{_TIME}|null)",
    STRUCT: rf"\{{{_SOURCE}\}}",
    **{kind: rf"(?:0|-?[1-9][0-9]{{0,{digits - 1}}}|null)" for kind, digits in _INTEGER_DIGITS.items()},
}
_ROWTIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_MISSING: Final = object()


class Shape:
    """What a line looks like that fits a table: its columns in their order, without spaces, each of its type.

    Thread-safe; holds the interpreter: about 1 µs a line.
    """

    def __init__(self, table: Table) -> None:
        members = []
        for column in table.columns:
            pattern = _TIME if column == table.time else _PATTERNS[column.type]
            key = re.escape(json.dumps(column.field, ensure_ascii=False))
            members.append(f"{key}:{pattern}")
        self._lines = re.compile(rf"(?:\{{{','.join(members)}\}}(?:\n|\Z))*+".encode())

    def fitting(self, content: bytes) -> Iterator[tuple[bool, memoryview]]:
        """Parts of a content, each whole lines: those that fit, and single ones that may not."""
        view, at = memoryview(content), 0
        while at < len(content):
            match = self._lines.match(content, at)
            assert match is not None, "it matches nothing, too"
            if match.end() > at:
                yield True, view[at : match.end()]
                at = match.end()
                continue
            end = content.find(b"\n", at) + 1 or len(content)
            yield False, view[at:end]
            at = end


class Fitted:
    """A line's row."""

    __slots__ = ("time_ms", "values")

    def __init__(self, values: dict[str, Any], time_ms: int | None) -> None:
        self.values = values
        """By the column's number, as text, and `other`: for `Table.insert_rows`."""
        self.time_ms = time_ms
        """None: it has none."""


def fit(table: Table, line: bytes) -> Fitted:
    """The row of a line, which is a JSON object."""
    try:
        names, values, text_of = _read(line)
    except (RecursionError, ValueError, IndexError):  # too deep for this parser, or no JSON
        return Fitted({"other": line.decode()}, None)
    # Of a key that is there twice the last one counts, as in most readers.
    last = {name: number for number, name in enumerate(names)}
    row: dict[str, Any] = {}
    taken: set[int] = set()
    time_ms, time_number = None, table.time_number
    for number, column in enumerate(table.columns):
        at = last.get(column.field)
        if at is None:
            continue
        value = values[at]
        fitted = text_of(at) if column.type == "VARCHAR" and _is_no_text(value) else _FITS[column.type](value)
        if fitted is _MISSING:
            continue
        row[str(number)] = fitted
        taken.add(at)
        if number == time_number and fitted is not None:
            time_ms = _time_ms(fitted)
    if len(taken) < len(names):
        others = (f"{_dumped(name)}:{text_of(n)}" for n, name in enumerate(names) if n not in taken)
        row["other"] = "{" + ",".join(others) + "}"
    return Fitted(row, time_ms)


def _read(line: bytes) -> tuple[list[str], list[Any], Callable[[int], str]]:
    """The keys and values of an object, and what gives the JSON text of each value as it is written."""
    try:
        fields = orjson.loads(line)
        if orjson.dumps(fields) == line:  # so each value's text is what it is dumped as: a tenth of the time
            values = list(fields.values())
            return list(fields), values, lambda at: _dumped(values[at])
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass
    found = list(members(line))
    return [each.name for each in found], [json.loads(each.text) for each in found], lambda at: found[at].text


def _dumped(value: Any) -> str:
    return orjson.dumps(value).decode()


def _is_no_text(value: Any) -> bool:
    return value is not None and not isinstance(value, str)


def _time_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def _text(value: Any) -> Any:
    return value


def _double(value: Any) -> Any:
    if value is None:
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _MISSING


def _boolean(value: Any) -> Any:
    return value if value is None or isinstance(value, bool) else _MISSING


def _integer(bits: int) -> Callable[[Any], Any]:
    def fits(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and -(1 << bits - 1) <= value < 1 << bits - 1 else _MISSING

    return fits


def _timestamp(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str) or not _ROWTIME.fullmatch(value):
        return _MISSING
    try:
        datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        return _MISSING
    return value


def _source(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != dict(SOURCE_FIELDS).keys():
        return _MISSING
    fits = _integer(64)
    for name, kind in SOURCE_FIELDS:
        good = isinstance(value[name], str) if kind == "VARCHAR" else isinstance(value[name], int)
        if not good or (kind != "VARCHAR" and (fits(value[name]) is _MISSING or value[name] < 0)):
            return _MISSING
    return value


_FITS: Final[dict[str, Callable[[Any], Any]]] = {
    "VARCHAR": _text,
    "DOUBLE": _double,
    "BOOLEAN": _boolean,
    "TIMESTAMP": _timestamp,
    STRUCT: _source,
    **{kind: _integer(bits) for kind, bits in _INTEGER_BITS.items()},
}
