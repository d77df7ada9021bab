"""Prefixes of data objects: what is understood of Firehose's expressions, and what they become. Pure.

    anomalies/!{timestamp:yyyy/MM/dd}/symbol=!{partitionKeyFromQuery:tickerSymbol}/

- `!{timestamp:PATTERN}`: the claim's minute in the layout's zone; of Java's DateTimeFormatter the letters in
  `_LETTERS`, in English, and text in quotes. A text with `yyyy` in it and without an expression is such a pattern as
  a whole, of the letters y, u, M, d, H and m: `yyyy/MM/dd/HH/`.
- `!{partitionKeyFromQuery:FIELD}`: the value of a field of the record.
- `!{firehose:error-output-type}`: of an error record its ERROR_NAME, as if that field were named.
- `!{firehose:random-string}`: `RANDOM_CHARACTERS` that follow from the claim's key, others each time it is named.
- A prefix without a timestamp gets `yyyy/MM/dd/HH/` at its end, as Firehose does it.
Anything else is refused by `Prefix`, before a sink starts, never half understood.

A value stands in a path as `path_value` writes it: percent-encoded, a leading `_` or `.` too (query engines skip such
folders), at most `VALUE_BYTES_MAX` bytes: a longer one is cut and ends in `~` and 16 digits of its SHA-256. Since `~`
is encoded in values, no value is ever written as the rest's folder, `REST`. What is missing, null, empty, an array or
an object is `MISSING`, which Hive, Athena and Trino read as NULL.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
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

RANDOM_CHARACTERS = 11
"""Length of a random string, as Firehose makes them."""

ERROR_OUTPUT_TYPE = "!{firehose:error-output-type}"
ERROR_NAME = "ERROR_NAME"
"""The field that tells why a record is in the error stream: Firehose's error-output-type."""

UNDERSTOOD = (
    "understood are !{timestamp:PATTERN} with y, u, M, d, D, E, H, k, h, K, a, m, s as in Java's DateTimeFormatter and "
    "text in 'quotes', !{partitionKeyFromQuery:FIELD}, !{firehose:random-string}, and plain text; or alone a pattern "
    "of y, u, M, d, H, m and text in 'quotes', such as yyyy/MM/dd/HH/"
)

_DEFAULT_PATTERN = "yyyy/MM/dd/HH/"
_EXPRESSION = re.compile(r"!\{([^{}:]*):([^{}]*)\}")
_LOOKS_LIKE_PATTERN = re.compile(r"yyyy|uuuu|YYYY")
_PATTERN_PART = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+")
_RESERVED = ("_cutbank", ".cutbank")

_LONGEST = datetime(9999, 9, 29, 23, 59, tzinfo=UTC)
"""A Wednesday in September: no minute has a longer name in any pattern."""

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_ALONE = {"y": 4, "u": 4, "M": 2, "d": 2, "H": 2, "m": 2}
"""Letters of a pattern that stands alone, and how many in a row: few, since any word could be one."""

_LETTERS: Mapping[str, tuple[int, Callable[[datetime, int], str]]] = {
    "y": (4, lambda moment, width: _year(moment.year, width)),
    "u": (4, lambda moment, width: _year(moment.year, width)),
    "M": (4, lambda moment, width: _number(moment.month, width) if width < 3 else _name(_MONTHS, moment.month, width)),
    "d": (2, lambda moment, width: _number(moment.day, width)),
    "D": (3, lambda moment, width: _number(moment.timetuple().tm_yday, width)),
    "E": (4, lambda moment, width: _name(_DAYS, moment.isoweekday(), width)),
    "H": (2, lambda moment, width: _number(moment.hour, width)),
    "k": (2, lambda moment, width: _number(moment.hour or 24, width)),
    "h": (2, lambda moment, width: _number(moment.hour % 12 or 12, width)),
    "K": (2, lambda moment, width: _number(moment.hour % 12, width)),
    "a": (1, lambda moment, _width: "PM" if moment.hour >= 12 else "AM"),
    "m": (2, lambda moment, width: _number(moment.minute, width)),
    # The moment is the beginning of the claim's minute.
    "s": (2, lambda _moment, width: _number(0, width)),
}
"""Letters of Java's DateTimeFormatter, how many of each in a row, and what they print."""


class _Place(NamedTuple):
    """What an object's folders follow from."""

    moment: datetime
    """The claim's minute in the layout's zone."""
    values: Mapping[str, str]
    """Of the partition keys, as they stand in a path."""
    seed: str
    """The claim's key."""


_Part = Callable[[_Place], str]


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

    def folders(self, moment: datetime, values: Mapping[str, str], *, seed: str = "") -> str:
        """What it becomes: of a local time, the values as they stand in a path, and the claim's key."""
        place = _Place(moment, values, seed)
        return "".join(part(place) for part in self._parts)

    def _parsed(self) -> list[_Part]:
        text = self._text
        if "!{" not in text:
            if not text or _LOOKS_LIKE_PATTERN.search(text):
                return self._pattern(text or _DEFAULT_PATTERN, alone=True)
            return [self._literal(text), *self._pattern(_DEFAULT_PATTERN)]
        parts: list[_Part] = []
        end, timed = 0, False
        for match in _EXPRESSION.finditer(text):
            parts.append(self._literal(text[end : match.start()]))
            end = match.end()
            namespace, value = match.groups()
            timed = timed or namespace == "timestamp"
            parts += self._expression(match[0], namespace, value, number=len(parts))
        parts.append(self._literal(text[end:]))
        return parts if timed else [*parts, *self._pattern(_DEFAULT_PATTERN)]

    def _expression(self, whole: str, namespace: str, value: str, *, number: int) -> list[_Part]:
        if namespace == "timestamp" and value:
            return self._pattern(value)
        if namespace == "partitionKeyFromQuery" and value:
            return [lambda place: place.values[value]]
        if whole == ERROR_OUTPUT_TYPE:
            return [lambda place: place.values[ERROR_NAME]]
        if (namespace, value) == ("firehose", "random-string"):
            return [lambda place: _random(f"{place.seed}#{number}")]
        if namespace == "partitionKeyFromLambda":
            raise self._refused(
                f"{whole} is not understood, since no Lambda is called: name a field of the record, "
                f"!{{partitionKeyFromQuery:{value or 'FIELD'}}}"
            )
        raise self._refused(f"{whole} is not understood")

    def _literal(self, text: str) -> _Part:
        if "!{" in text:
            raise self._refused(f"{text[text.index('!{') :]!r} is not an expression")
        if _LOOKS_LIKE_PATTERN.search(text):
            raise self._refused(f"{text!r} stands outside an expression: write !{{timestamp:…}} around a pattern")
        return lambda _place: text

    def _pattern(self, pattern: str, *, alone: bool = False) -> list[_Part]:
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
                parts.append(lambda _place, text=text: text)  # type: ignore[misc]
            else:
                parts.append(self._letters(letter, len(match[0]), pattern, alone=alone))
        return parts

    def _letters(self, letter: str, width: int, pattern: str, *, alone: bool) -> _Part:
        if letter == "Y":
            raise self._refused(
                f"{letter * width} in {pattern!r} is the year that a week belongs to, another one around New Year: "
                "write yyyy"
            )
        width_max, printed = _LETTERS.get(letter, (0, _nothing))
        if width > (_ALONE.get(letter, 0) if alone else width_max):
            raise self._refused(f"{letter * width} in {pattern!r} is not understood")
        return lambda place: printed(place.moment, width)

    def _check(self) -> None:
        """Whether it makes good keys, whatever the time and the values. Longest values: no shorter one is worse."""
        values = dict.fromkeys(self.partition_keys, "x" * VALUE_BYTES_MAX)
        longest = self.folders(_LONGEST, values)
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


def _nothing(_moment: datetime, _width: int) -> str:
    return ""


def _number(value: int, width: int) -> str:
    return f"{value:0{width}d}"


def _year(year: int, width: int) -> str:
    """Two letters are its last two digits, as Java prints it."""
    return _number(year % 100 if width == 2 else year, width)


def _name(names: Sequence[str], number: int, width: int) -> str:
    """Four letters are the name, fewer its beginning."""
    return names[number - 1] if width == 4 else names[number - 1][:3]


def _random(seed: str) -> str:
    """Letters and digits that follow from the seed and look like chance."""
    return base64.b32encode(hashlib.sha256(seed.encode()).digest()).decode().lower()[:RANDOM_CHARACTERS]


def partition_fields(text: str) -> tuple[str, ...]:
    """The fields that a prefix names, each once, in their order."""
    found = (
        ERROR_NAME if match[0] == ERROR_OUTPUT_TYPE else match[2]
        for match in _EXPRESSION.finditer(text)
        if match[1] == "partitionKeyFromQuery" or match[0] == ERROR_OUTPUT_TYPE
    )
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


def folders(layout: Layout, minute_ms: int, value: str = "", *, seed: str = "") -> str:
    """The folders of a data object, with a slash at the end: `2026/11/22/23/`.

    `value` is one of a claim's `partition_values`, or `REST`; `seed` is the claim's key. Raises UsageError as
    `layout_check`. A claim's own keys count where they differ: another machine may have other time zone rules.
    """
    parts = [value] * len(layout.partition_keys) if value == REST else value.split("/")
    values = dict(zip(layout.partition_keys, parts, strict=True)) if layout.partition_keys else {}
    return _prefix(layout.prefix, layout.partition_keys).folders(
        _local(minute_ms, _zone(layout.zone)), values, seed=seed
    )


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
