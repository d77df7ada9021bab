"""Lines of JSON as rows of fields, many at once, and their members as they are written. Pure.

What a library's reading loses of a JSON object (digits of a number, a name that is there twice, spaces, order) shows
in that the text made of it again differs; `Rows.told` knows. Then `members` reads the text itself.
"""

import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import orjson

PART_BYTES = 256 << 10
"""Lines are read about so many bytes at a time: the objects made of them take some ten times as much memory."""

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_MEMBER = re.compile(rf'\s*[{{,]\s*({_STRING})\s*:\s*(?:({_STRING})|([^\s,{{}}\[\]"]+)|(?=[\[{{]))')
_STRUCTURE = re.compile(rf"{_STRING}|([\[{{])|([\]}}])")
_END = re.compile(r"\s*(?:\{\s*)?\}\s*")


class Member(NamedTuple):
    """A field as it is written."""

    name: str
    name_text: str
    """The name's JSON."""
    text: str
    """The value's JSON."""
    is_string: bool


class Rows(NamedTuple):
    """Some lines, read."""

    lines: Sequence[bytes]
    fields: list[dict[str, Any]]
    told: bool
    """Whether `orjson.dumps` of each row is its line, byte for byte."""


def parts(lines: Sequence[bytes], *, bytes_max: int) -> Iterator[Sequence[bytes]]:
    """The lines in parts that exceed `bytes_max` by one line at most."""
    ends = array("q", accumulate(map(len, lines)))
    first, before = 0, 0
    while first < len(lines):
        stop = bisect_left(ends, before + bytes_max, lo=first) + 1
        yield lines[first:stop]
        first, before = stop, ends[min(stop, len(ends)) - 1]


def read(lines: Sequence[bytes]) -> Rows:
    """The fields of lines that are JSON objects."""
    text = b"[" + b",".join(lines) + b"]"
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        # Nested as deeply as may be, it is too deep in a list.
        fields = [orjson.loads(line) for line in lines]
        return Rows(lines, fields, told=False)
    return Rows(lines, fields, told=_dumped(fields) == text)


def _dumped(value: Any) -> bytes | None:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return None  # nested deeper than it writes


def is_told(fields: dict[str, Any], line: bytes) -> bool:
    """Whether `orjson.dumps` of a row is its line."""
    return _dumped(fields) == line


def members(line: bytes) -> Iterator[Member]:
    """The members of a line, which is a JSON object, as they are written and in their order.

    Not `json.loads`: it would round numbers, and recurse into what is nested deeply.
    """
    text = line.decode()
    at = 0
    while (match := _MEMBER.match(text, at)) is not None:
        name_text, string, scalar = match.groups()
        at = match.end()
        if string is None and scalar is None:
            at = _nested_end(text, at)
            scalar = text[match.end() : at]
        yield Member(unquoted(name_text), name_text, scalar if string is None else string, string is not None)
    assert _END.fullmatch(text, at), "a line is a JSON object"


def unquoted(text: str) -> str:
    """The text of a JSON string."""
    if "\\" not in text:
        return text[1:-1]
    return str(json.loads(text))


def _nested_end(text: str, at: int) -> int:
    """Where the array or object ends that begins there."""
    depth = 0
    for match in _STRUCTURE.finditer(text, at):
        depth += bool(match[1]) - bool(match[2])
        if not depth:
            return match.end()
    raise AssertionError("a line is valid JSON")
