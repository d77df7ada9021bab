"""Cuts lines into CSV rows and writes them as JSON objects. Owns header, delimiter and the row being read.

Rows follow RFC 4180: quoted fields may hold delimiters, quotes and line ends. A row with fewer fields than the header
lacks the last columns; one with more fields, with a line that was cut, or that csv refuses is no row: it is given as
its lines stand. Blocking through `Lines`; one thread at a time.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring
from typing import NamedTuple

from cutbank.errors import UsageError
from cutbank.pipeline.inputs.lines import LINE_BYTES_MAX, Line, Lines
from cutbank.pipeline.inputs.values import Kind, json_value, kind_of_text

_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_NO_LINE = Line(0, b"", 0)

DELIMITERS = (",", ";", "\t", "|")
"""What the header is looked through for; the most frequent one wins, the first of equals."""


class Row(NamedTuple):
    """One row."""

    number: int
    """Of its last line."""
    fields: list[str] | None
    """None: not a good row; `raw` stands for it."""
    raw: Line
    """Its lines as one, with the line ends between, cut at LINE_BYTES_MAX; empty for a good row."""


class CsvRows:
    """The rows after the header. Making one reads the header. Raises UsageError for a header that is none."""

    def __init__(self, lines: Lines, *, delimiter: str | None) -> None:
        # The library's own limit of 128 KiB a field would refuse good rows. It is one setting a process.
        csv.field_size_limit(LINE_BYTES_MAX)
        self._feed = _Feed(lines)
        first = lines.sample(lines_max=1, bytes_max=1)[0]
        self._delimiter = delimiter or _delimiter_of(first.data.decode("utf-8", "surrogateescape"))
        self._reader = csv.reader(self._feed, delimiter=self._delimiter)
        self.names = self._header(lines.name)
        """The columns, in order; a nameless one is COL_<n>, as Kinesis Data Analytics calls it."""
        self._places = {name: place for place, name in enumerate(self.names)}
        openings = [encode_basestring(name) + ":" for name in self.names]
        self._openings = ["{" + openings[0], *("," + opening for opening in openings[1:])]
        self.taken = 0
        """Rows given so far."""

    def next(self) -> Row | None:
        """The next row that is not blank; None at the end."""
        while True:
            self._feed.begin_row()
            try:
                fields = next(self._reader)
            except StopIteration:
                return None
            except (csv.Error, _Cut):
                self.taken += 1
                return Row(self._feed.number, None, self._feed.raw())
            if not fields:
                continue
            self.taken += 1
            extra = fields[len(self.names) :]
            # A delimiter at the end of every line is common, and harmless.
            if any(extra):
                return Row(self._feed.number, None, self._feed.raw())
            return Row(self._feed.number, fields[: len(self.names)] if extra else fields, _NO_LINE)

    def json(self, fields: Sequence[str]) -> bytes:
        """The row as a JSON object, compact, keys in the header's order; short rows lack the last ones."""
        parts = [opening + json_value(text) for opening, text in zip(self._openings, fields, strict=False)]
        return ("".join(parts) + "}").encode("utf-8", "surrogateescape")

    def field(self, fields: Sequence[str], name: str) -> str:
        """One field by its column; empty where there is no such column, or the row is short."""
        place = self._places.get(name, len(fields))
        return fields[place] if place < len(fields) else ""

    def kinds(self, sample: Sequence[Line]) -> dict[str, set[Kind]]:
        """What each column holds in the sample."""
        kinds: dict[str, set[Kind]] = {name: set() for name in self.names}
        for fields in self._sampled_rows(sample):
            for name, text in zip(self.names, fields, strict=False):
                kinds[name].add(kind_of_text(text))
        return kinds

    def sampled(self, sample: Sequence[Line], name: str) -> Iterator[str]:
        """One column's fields in the sample."""
        for fields in self._sampled_rows(sample):
            yield self.field(fields, name)

    def _sampled_rows(self, sample: Sequence[Line]) -> Iterator[list[str]]:
        texts = (line.data.decode("utf-8", "surrogateescape") + "\n" for line in sample)
        reader = csv.reader(texts, delimiter=self._delimiter)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                continue
            if fields and not any(fields[len(self.names) :]):
                yield fields

    def _header(self, name: str) -> tuple[str, ...]:
        self._feed.begin_row()
        try:
            fields = [field.strip() for field in next(self._reader)]
        except (csv.Error, _Cut, StopIteration):
            fields = []
        number = next((field for field in fields if kind_of_text(field) in {"integer", "number"}), None)
        if number is not None or not any(fields):
            found = f"{number} is no column's name" if number is not None else "the first line is blank"
            raise UsageError(f"{name}: a CSV file needs a header line that names its columns ({found})")
        names = tuple(field or f"COL_{place}" for place, field in enumerate(fields, 1))
        twice = next((field for field in names if names.count(field) > 1), None)
        if twice is not None:
            raise UsageError(f"{name}: column {twice!r} is in the header twice; rename one")
        return names


class _Cut(Exception):
    """The row is longer than LINE_BYTES_MAX."""


class _Feed:
    """The lines as csv wants them: an iterator of text, which remembers the lines of the row being read."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._held = bytearray()
        self._held_bytes_total = 0
        self.number = 0
        """Of the last line given."""

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        line = self._lines.next()
        if line is None:
            raise StopIteration
        self.number = line.number
        self._held += line.data
        self._held += b"\n"
        self._held_bytes_total += line.bytes_total + 1
        if self._held_bytes_total - 1 > LINE_BYTES_MAX:
            # An open quote may otherwise gather the whole rest of the file.
            raise _Cut
        return line.data.decode("utf-8", "surrogateescape") + "\n"

    def begin_row(self) -> None:
        """Forget the lines of the row before."""
        self._held.clear()
        self._held_bytes_total = 0

    def raw(self) -> Line:
        """The lines since `begin_row`, as one."""
        return Line(self.number, bytes(self._held[:-1])[:LINE_BYTES_MAX], max(self._held_bytes_total - 1, 0))


def _delimiter_of(header: str) -> str:
    """The most frequent of DELIMITERS outside quotes; a comma where there is none: a file of one column."""
    bare = _QUOTED.sub("", header)
    return max(DELIMITERS, key=bare.count)
