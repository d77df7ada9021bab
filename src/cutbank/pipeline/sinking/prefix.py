"""Prefixes of data objects: what is understood of Firehose's expressions, and what they become. Pure.

    anomalies/!{timestamp:yyyy/MM/dd}/symbol=!{partitionKeyFromQuery:tickerSymbol}/

- `!{timestamp:PATTERN}`: the claim's minute in the layout's zone; of Java's DateTimeFormatter the letters y, u (year),
  M, d, H and m, as numbers, and text in quotes. A text with `yyyy` in it and without an expression is such a pattern
  as a whole: `yyyy/MM/dd/HH/`.
- `!{partitionKeyFromQuery:FIELD}`: the value of a field of the record.
- A prefix without a timestamp gets `yyyy/MM/dd/HH/` at its end, as Firehose does it.
Anything else is refused by `Prefix`, before a sink starts, never half understood.

A value stands in a path as `path_value` writes it: percent-encoded, a leading `_` or `.` too (query engines skip such
folders), at most `VALUE_BYTES_MAX` bytes: a longer one is cut and ends in `~` and 16 digits of its SHA-256. Since `~`
is encoded in values, no value is ever written as the rest's folder, `REST`. What is missing, null, empty, an array or
an object is `MISSING`, which Hive, Athena and Trino read as NULL.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from cutbank.errors import UsageError
from cutbank.objects.base import key_check
from cutbank.pipeline.sinking.claims import MINUTE_MS_MAX, Layout

MISSING = "__HIVE_DEFAULT_PARTITION__"
"""Stands for a value that a record does not have."""

REST = "~rest"
"""Stands for the values beyond `partition_values_max`."""

VALUE_BYTES_MAX = 100
"""Longest value in a path, bytes, encoded."""

UNDERSTOOD = (
    "understood are !{timestamp:PATTERN} with y, u, M, d, H, m as in Java's DateTimeFormatter and text in 'quotes', "
    "!{partitionKeyFromQuery:FIELD}, and plain text; or a pattern alone, such as yyyy/MM/dd/HH/"
)

_DEFAULT_PATTERN = "yyyy/MM/dd/HH/"
_EXPRESSION = re.compile(r"!\{([^{}:]*):([^{}]*)\}")
_LOOKS_LIKE_PATTERN = re.compile(r"yyyy|uuuu|YYYY")
_PATTERN_PART = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+")
_FIELDS: Mapping[str, str] = {"y": "year", "u": "year", "M": "month", "d": "day", "H": "hour", "m": "minute"}
_LETTERS_MAX = {"y": 4, "u": 4}
_RESERVED = ("_cutbank", ".cutbank")

_Part = Callable[[datetime, Mapping[str, str]], str]


class Prefix:
    """A prefix that is understood. Raises UsageError: one line that says what is not, and what would be."""

    def __init__(self, text: str, *, partition_keys: Sequence[str] = ()) -> None:
        self.partition_keys = partition_fields(text)
        """The fields that it names, each once, in their order."""
        self._text = text
        self._parts = tuple(self._parsed())
        if set(partition_keys) != set(self.partition_keys):
            named, given = ", ".join(self.partition_keys) or "none", ", ".join(partition_keys) or "none"
            raise UsageError(f"prefix {text!r} names the partition keys {named}, but partition_keys are {given}")
        self._check()

    def folders(self, moment: datetime, values: Mapping[str, str]) -> str:
        """What it becomes: a local time, and the values as they stand in a path."""
        return "".join(part(moment, values) for part in self._parts)

    def _parsed(self) -> list[_Part]:
        text = self._text
        if "!{" not in text:
            if not text or _LOOKS_LIKE_PATTERN.search(text):
                return self._pattern(text or _DEFAULT_PATTERN)
            return [self._literal(text), *self._pattern(_DEFAULT_PATTERN)]
        parts, end, timed = [], 0, False
        for match in _EXPRESSION.finditer(text):
            parts.append(self._literal(text[end : match.start()]))
            end = match.end()
            namespace, value = match.groups()
            if namespace == "timestamp" and value:
                timed = True
                parts += self._pattern(value)
            elif namespace == "partitionKeyFromQuery" and value:
                parts.append(_field(value))
            else:
                raise self._refused(f"{match[0]} is not understood")
        parts.append(self._literal(text[end:]))
        return parts if timed else [*parts, *self._pattern(_DEFAULT_PATTERN)]

    def _literal(self, text: str) -> _Part:
        if "!{" in text:
            raise self._refused(f"{text[text.index('!{') :]!r} is not an expression")
        if _LOOKS_LIKE_PATTERN.search(text):
            raise self._refused(f"{text!r} stands outside an expression: write !{{timestamp:…}} around a pattern")
        return lambda _moment, _values: text

    def _pattern(self, pattern: str) -> list[_Part]:
        parts: list[_Part] = []
        end = 0
        while end < len(pattern):
            match = _PATTERN_PART.match(pattern, end)
            if match is None:
                raise self._refused(f"a quote is left open in {pattern!r}")
            end = match.end()
            quoted, letter = match.groups()
            if letter is None:
                # Two quotes are a quote, inside and outside of quoted text.
                text = match[0] if quoted is None else quoted.replace("''", "'") or "'"
                parts.append(lambda _moment, _values, text=text: text)  # type: ignore[misc]
            elif letter not in _FIELDS or len(match[0]) > _LETTERS_MAX.get(letter, 2):
                raise self._refused(f"{match[0]} in {pattern!r} is not understood")
            else:
                parts.append(_number(_FIELDS[letter], len(match[0])))
        return parts

    def _check(self) -> None:
        """Whether it makes good keys, whatever the time and the values. Longest values: no shorter one is worse."""
        values = dict.fromkeys(self.partition_keys, "x" * VALUE_BYTES_MAX)
        longest = self.folders(datetime(9999, 12, 31, 23, 59, tzinfo=UTC), values)
        if not longest.endswith("/"):
            raise self._refused("it must end with a slash")
        if longest.startswith(_RESERVED):
            raise self._refused("that is where Cutbank keeps what is its own")
        try:
            key_check(longest + "x")
        except ValueError as error:
            raise self._refused(f"with the longest values it makes a bad key ({error})") from None

    def _refused(self, why: str) -> UsageError:
        return UsageError(f"prefix {self._text!r}: {why}; {UNDERSTOOD}")


def _field(name: str) -> _Part:
    return lambda _moment, values: values[name]


def _number(field: str, digits: int) -> _Part:
    """As Java prints it: padded to the letters' number; two letters of a year are its last two digits."""
    if field == "year" and digits == 2:
        return lambda moment, _values: f"{moment.year % 100:02d}"
    return lambda moment, _values: f"{getattr(moment, field):0{digits}d}"


def partition_fields(text: str) -> tuple[str, ...]:
    """The fields that a prefix names, each once, in their order."""
    found = (match[2] for match in _EXPRESSION.finditer(text) if match[1] == "partitionKeyFromQuery")
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=16)
def _prefix(text: str, partition_keys: tuple[str, ...]) -> Prefix:
    return Prefix(text, partition_keys=partition_keys)


@lru_cache(maxsize=16)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise UsageError(f"time zone {name!r} can't be read: {error}") from None
    except KeyError:
        raise UsageError(
            f"time zone {name!r} is not known: use an IANA name such as UTC, Europe/Zurich or Asia/Tokyo"
        ) from None


def layout_check(layout: Layout) -> None:
    """Whether new claims can be laid out so. Raises UsageError, which names what is wrong."""
    _prefix(layout.prefix, layout.partition_keys)
    _zone(layout.zone)


def folders(layout: Layout, minute_ms: int, value: str = "") -> str:
    """The folders of a data object, with a slash at the end: `2026/11/22/23/`.

    `value` is one of a claim's `partition_values`, or `REST`. Raises UsageError as `layout_check`. A claim's own keys
    count where they differ: another machine may have other time zone rules.
    """
    parts = [value] * len(layout.partition_keys) if value == REST else value.split("/")
    values = dict(zip(layout.partition_keys, parts, strict=True)) if layout.partition_keys else {}
    return _prefix(layout.prefix, layout.partition_keys).folders(_local(minute_ms, _zone(layout.zone)), values)


def _local(minute_ms: int, zone: ZoneInfo) -> datetime:
    assert 0 <= minute_ms <= MINUTE_MS_MAX, "a claim's minute has a date"
    try:
        return datetime.fromtimestamp(minute_ms // 1000, zone)
    except (OverflowError, ValueError):
        # In the last hours of the year 9999 there is no date east of Greenwich.
        return datetime.fromtimestamp(minute_ms // 1000, UTC)


def path_value(value: Any) -> str:
    """A field's value as it stands in a path."""
    if type(value) is bool:
        text = "true" if value else "false"
    elif isinstance(value, int | float):
        text = repr(value)
    else:
        text = value if type(value) is str else ""
    if not text:
        return MISSING
    # A leading underscore or dot hides a folder from query engines, and would be our own in the first one.
    first = f"%{ord(text[0]):02X}" if text[0] in "_." else _encoded(text[0])
    encoded = first + _encoded(text[1 : VALUE_BYTES_MAX + 1])
    if len(encoded) <= VALUE_BYTES_MAX:
        return encoded
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    for character in text[1:]:
        piece = _encoded(character)
        if len(first) + len(piece) > VALUE_BYTES_MAX - len(digest) - 1:
            break
        first += piece
    return f"{first}~{digest}"


def _encoded(text: str) -> str:
    return quote(text, safe="").replace("~", "%7E")


def partition_value(fields: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The values of a record's partition keys, as they stand in a path, with slashes between them."""
    return "/".join(path_value(_lookup(fields, key)) for key in keys)


def _lookup(fields: Mapping[str, Any], key: str) -> Any:
    """The field of that name, or, where there is none, the one that the dotted name leads to."""
    if key in fields:
        return fields[key]
    found: Any = fields
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found
