"""Lines as CSV and back. Pure.

RFC 4180: UTF-8, CR LF, a header with the layout's columns and `OTHER_FIELDS`. A string is its text, null and missing
are empty; numbers, true, false, arrays and objects are the JSON text as it came, digit for digit. What has no column
stands in `OTHER_FIELDS` as a JSON object, so nothing of a record is lost.
Invariant: the text is a function of columns and lines, byte for byte, on any machine.
Blocking: for a thread.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from cutbank.errors import ObjectUnreadable
from cutbank.pipeline.sinking.claims import OTHER_FIELDS
from cutbank.pipeline.sinking.json_rows import is_told, members, read, unquoted

_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n]*))(,|\r\n)')


def header(columns: Sequence[str]) -> bytes:
    """The first row."""
    return _csv([(*columns, OTHER_FIELDS)])


def rows_of(columns: Sequence[str], lines: Sequence[bytes]) -> bytes:
    """The rows of lines that are JSON objects; at least one."""
    rows = read(lines)
    if rows.told:
        return _csv(zip(*_cells(columns, rows.fields), strict=True))
    return _csv(
        next(zip(*_cells(columns, [fields]), strict=True)) if is_told(fields, line) else _row(columns, line)
        for line, fields in zip(lines, rows.fields, strict=True)
    )


def lines_of(columns: Sequence[str], content: bytes) -> list[bytes]:
    """The lines that a content tells, as `rendering.lines` says. Raises ObjectUnreadable."""
    rows = _rows(content)
    first = next(rows, None)
    if first != [*columns, OTHER_FIELDS]:
        raise ObjectUnreadable(f"the header is not that of the claim: {str(first)[:200]}")
    return [_line(columns, row) for row in rows]


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue().encode()


def _cells(columns: Sequence[str], fields: Sequence[dict[str, Any]]) -> list[Sequence[str]]:
    """The cells of rows whose texts are those that `orjson` writes, column by column."""
    cells = [_column([row.get(name) for row in fields]) for name in columns]
    names = list(columns)
    if all(list(row) == names for row in fields):
        return [*cells, [""] * len(fields)]
    known = set(columns)
    others = [{name: value for name, value in row.items() if name not in known} for row in fields]
    return [*cells, [orjson.dumps(each).decode() if each else "" for each in others]]


def _column(values: list[Any]) -> Sequence[str]:
    kinds = set(map(type, values))
    if kinds == {str}:
        return values
    if kinds <= {int, float}:
        return orjson.dumps(values)[1:-1].decode().split(",")
    return [_cell(value) for value in values]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if type(value) is str else orjson.dumps(value).decode()


def _row(columns: Sequence[str], line: bytes) -> list[str]:
    """The cells of one line, as it is written."""
    cells = dict.fromkeys(columns, "")
    others: dict[str, str] = {}
    for member in members(line):
        if member.name not in cells:
            others[member.name] = f"{member.name_text}:{member.text}"
        elif member.is_string:
            cells[member.name] = unquoted(member.text)
        else:
            cells[member.name] = "" if member.text == "null" else member.text
    return [*cells.values(), f"{{{','.join(others.values())}}}" if others else ""]


def _rows(content: bytes) -> Iterator[list[str]]:
    """The cells of each row of RFC 4180. Not the csv module: its longest field is a setting of the whole process."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ObjectUnreadable("the object is not UTF-8") from None
    row: list[str] = []
    at = 0
    while at < len(text):
        match = _CELL.match(text, at)
        if match is None:
            raise ObjectUnreadable(f"no CSV from character {at} on")
        at = match.end()
        quoted, plain, end = match.groups()
        row.append(plain if quoted is None else quoted.replace('""', '"'))
        if end != ",":
            yield row
            row = []
    if row:
        raise ObjectUnreadable("the last row is cut off")


def _line(columns: Sequence[str], row: Sequence[str]) -> bytes:
    if len(row) != len(columns) + 1:
        raise ObjectUnreadable(f"a row has {len(row)} cells, its header {len(columns) + 1}")
    found = [orjson.dumps(name) + b":" + _json(cell) for name, cell in zip(columns, row, strict=False)]
    others = row[-1].strip()[1:-1].encode()
    return b"{" + b",".join([*found, others] if others else found) + b"}"


def _json(cell: str) -> bytes:
    """The JSON that a cell was made of, as far as it tells."""
    if not cell:
        return b"null"
    text = cell.encode()
    if cell[0] in "-0123456789tf[{":
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        else:
            return text.translate(_BREAKS)  # between its parts: a line has none
    return orjson.dumps(cell)
