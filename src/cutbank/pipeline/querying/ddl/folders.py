"""Folders of a layout as other engines see them: patterns of paths, and columns that follow from them. Pure.

Partition columns come from the beginning of a prefix, as far as it is dates; from the first folder that a record
decides on, engines read all folders below, and find the field in the record itself.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from cutbank.pipeline.querying.tables import Table
from cutbank.pipeline.sinking.claims import Layout
from cutbank.pipeline.sinking.layout import ending, name_beginning
from cutbank.pipeline.sinking.prefix import partition_fields

_EXPRESSION = re.compile(r"!\{([^{}:]*):([^{}]*)\}")
_PATTERN_PART = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+")
_DEFAULT = "yyyy/MM/dd/HH/"
_HIVE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")

_RANGES = {"M": (1, 12), "d": (1, 31), "H": (0, 23), "m": (0, 59)}
"""Of numbers in folders, by letter."""
_NAMES = {"y": "year", "u": "year", "M": "month", "d": "day", "H": "hour", "m": "minute"}
_UNITS = {"y": "YEARS", "M": "MONTHS", "d": "DAYS", "H": "HOURS", "m": "MINUTES"}
_DATE_NAMES = {"y": "year", "M": "month", "d": "day", "H": "datehour", "m": "dateminute"}
YEARS = 10
"""How many years on from the first one a projection of years goes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which objects a table is made of."""

    root: str
    """The store's URL."""
    pipeline: str
    stream: str

    @property
    def names(self) -> str:
        """How the objects' names begin."""
        return name_beginning(self.pipeline, self.stream)


@dataclass(frozen=True, slots=True)
class Layouts:
    """How objects are laid out."""

    newest: Layout
    others: tuple[Layout, ...]
    """That older claims have."""
    first_ms: int
    """The oldest minute, ms since the epoch."""
    whole: bool
    """Whether all claims were looked at."""


class Part(NamedTuple):
    """A part of a prefix."""

    kind: Literal["text", "time", "other"]
    text: str
    """Of a time: its letters."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A column that follows from the path."""

    name: str
    kind: Literal["date", "integer"]
    format: str = ""
    """Of a date, as Java's DateTimeFormatter has it."""
    unit: str = ""
    first: str = ""
    last: str = ""
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Projection:
    """What of a prefix becomes partition columns."""

    partitions: tuple[Partition, ...]
    template: str
    """Folders with `${name}` in them, the root not included, with a slash at the end unless empty."""
    below: bool
    """Whether objects lie in further folders below."""


def segments(prefix: str) -> list[list[Part]]:
    """A prefix's folders, each of its parts."""
    found: list[list[Part]] = [[]]
    for kind, text in _parts(prefix):
        pieces = text.split("/") if kind == "text" else [text]
        for number, piece in enumerate(pieces):
            if number:
                found.append([])
            if piece:
                found[-1].append(Part(kind, piece))
    return found[:-1]


def _parts(prefix: str) -> Iterator[Part]:
    if "!{" not in prefix:
        if prefix and not re.search("yyyy|uuuu", prefix):
            yield Part("text", prefix)
            prefix = ""
        yield from _pattern(prefix or _DEFAULT)
        return
    end, timed = 0, False
    for match in _EXPRESSION.finditer(prefix):
        yield Part("text", prefix[end : match.start()])
        end = match.end()
        if match[1] == "timestamp":
            timed = True
            yield from _pattern(match[2])
        else:
            yield Part("other", match[0])
    yield Part("text", prefix[end:])
    if not timed:
        yield from _pattern(_DEFAULT)


def _pattern(pattern: str) -> Iterator[Part]:
    for match in _PATTERN_PART.finditer(pattern):
        quoted, letter = match.groups()
        if letter is not None:
            yield Part("time", match[0])
        else:
            yield Part("text", match[0] if quoted is None else quoted.replace("''", "'") or "'")


def glob(place: Place, layout: Layout) -> str:
    """The path of this stream's objects in this layout, below the root, with `*` for what differs."""
    parts = [
        "".join(part.text if part.kind == "text" else "*" for part in folder) for folder in segments(layout.prefix)
    ]
    return "/".join([*parts, f"{place.names}*{ending(layout)}"])


def hive_names(layout: Layout) -> list[str]:
    """Names of folders such as `symbol=AMZN`."""
    firsts = (folder[0].text for folder in segments(layout.prefix) if folder and folder[0].kind == "text")
    return [match[1] for match in map(_HIVE.match, firsts) if match]


def path_pattern(place: Place, layout: Layout) -> str:
    """A regular expression for the end of the paths of this stream's objects."""
    return f"/{re.escape(place.names)}[^-/]+-[0-9.]+-[0-9]+{re.escape(ending(layout))}$"


def projection(layouts: Layouts, table: Table) -> Projection:
    """Partition columns of the newest layout."""
    layout = layouts.newest
    found = segments(layout.prefix)
    maker = _Maker(layouts, taken={column.name.lower() for column in table.columns})
    used = 0
    for folder in found:
        if not maker.take(folder):
            break
        used += 1
    maker.close()
    template = "".join(f"{text}/" for text in maker.template)
    return Projection(tuple(maker.partitions), template, below=used < len(found))


class _Maker:
    """Takes folder after folder, as far as they follow from the time alone."""

    def __init__(self, layouts: Layouts, *, taken: set[str]) -> None:
        self.partitions: list[Partition] = []
        self.template: list[str] = []
        self._first = datetime.fromtimestamp(layouts.first_ms // 1000, ZoneInfo(layouts.newest.zone))
        self._ahead = "" if layouts.newest.zone == "UTC" else "+1DAYS"
        self._taken = taken
        self._run: list[list[Part]] = []

    def take(self, folder: list[Part]) -> bool:
        """The next folder; False: it can't be foretold."""
        if any(part.kind == "other" or (part.kind == "time" and not _plain(part)) for part in folder):
            return False
        times = [part for part in folder if part.kind == "time"]
        named = _HIVE.match(folder[0].text) if folder and folder[0].kind == "text" else None
        if not times:
            self.close()
            self.template.append("".join(part.text for part in folder))
        elif named:
            self.close()
            rest = [Part("text", folder[0].text[named.end() :]), *folder[1:]]
            self._named(named[1], [part for part in rest if part.text])
        else:
            self._run.append(folder)
        return True

    def close(self) -> None:
        """End a run of folders that are one date together."""
        run, self._run = self._run, []
        if not run:
            return
        letters = {_letter(part) for folder in run for part in folder if part.kind == "time"}
        if _is_date(letters):
            name = self._free(_DATE_NAMES[max(letters, key="yMdHm".index)])
            self._date(name, "/".join(map(_java, run)), letters)
            self.template.append(f"${{{name}}}")
            return
        for folder in run:
            self.template.append("".join(self._number(part) if part.kind == "time" else part.text for part in folder))

    def _named(self, name: str, parts: list[Part]) -> None:
        letters = {_letter(part) for part in parts if part.kind == "time"}
        column = self._free(name)
        if len(parts) == 1:
            self.template.append(f"{name}={self._number(parts[0], name=column)}")
        elif _is_date(letters):
            self._date(column, _java(parts), letters)
            self.template.append(f"{name}=${{{column}}}")
        else:
            inside = "".join(self._number(part) if part.kind == "time" else part.text for part in parts)
            self.template.append(f"{name}={inside}")

    def _date(self, name: str, java: str, letters: set[str]) -> None:
        first = "".join(_printed(part, self._first) for part in _pattern(java))
        unit = _UNITS[max(letters, key="yMdHm".index)]
        self.partitions.append(Partition(name, "date", format=java, unit=unit, first=first, last=f"NOW{self._ahead}"))

    def _number(self, part: Part, *, name: str = "") -> str:
        letter = _letter(part)
        name = name or self._free(_NAMES[letter])
        year = self._first.year % 100 if len(part.text) == 2 else self._first.year
        low, high = _RANGES.get(letter, (year, year + YEARS))
        digits = len(part.text) if len(part.text) > 1 else 0
        self.partitions.append(Partition(name, "integer", first=str(low), last=str(high), digits=digits))
        return f"${{{name}}}"

    def _free(self, name: str) -> str:
        """A name that no column has yet."""
        name = name.lower()
        while name in self._taken:
            name += "_folder"
        self._taken.add(name)
        return name


def _plain(part: Part) -> bool:
    """Whether this is a number of a date that engines count by."""
    return part.text[0] in _NAMES and len(part.text) <= (4 if part.text[0] in "yu" else 2)


def _letter(part: Part) -> str:
    return "y" if part.text[0] == "u" else part.text[0]


def _is_date(letters: set[str]) -> bool:
    """Whether it is a date from the year down, without a gap."""
    return bool(letters) and letters == set("yMdHm"[: len(letters)])


def _java(parts: Sequence[Part]) -> str:
    """As a pattern of Java's DateTimeFormatter."""
    return "".join(part.text.replace("u", "y") if part.kind == "time" else _java_text(part.text) for part in parts)


def _java_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'" if re.search("[A-Za-z']", text) else text


def _printed(part: Part, moment: datetime) -> str:
    if part.kind == "text":
        return part.text
    letter, width = part.text[0], len(part.text)
    if letter == "y":
        return f"{moment.year % 100:02d}" if width == 2 else f"{moment.year:0{width}d}"
    return f"{getattr(moment, _NAMES[letter]):0{width}d}"


def notes(place: Place, layouts: Layouts) -> list[str]:
    """What a reader of a definition has to know, for its comments."""
    layout = layouts.newest
    what = layout.format if layout.compression == "none" else f"{layout.format}, {layout.compression}"
    head = f"Objects of stream {place.stream} of pipeline {place.pipeline} under {place.root}: {what}, prefix "
    found = [
        f"{head}{layout.prefix or _DEFAULT}, zone {layout.zone}.",
        "A folder is that of the minute in which a line arrived at the sink's stream: that of its own time or later.",
    ]
    for other in layouts.others:
        packed = "" if other.compression == "none" else f", {other.compression}"
        found.append(
            f"NOT read by this definition: older objects, {other.format}{packed}, prefix {other.prefix or _DEFAULT}, "
            f"zone {other.zone}. `cutbank query` reads all."
        )
    if not layouts.whole:
        found.append("Not every claim was looked at: a layout that was used for a short time may be missing above.")
    fields = partition_fields(layout.prefix)
    if fields:
        found.append(
            f"Objects are apart by {', '.join(fields)}; those of rare values are together in a folder ~rest, so find a "
            "value by the record's field and not by the folder."
        )
    return [" ".join(note.split()) for note in found]


def comment(text: str) -> str:
    """Comment lines of SQL."""
    return "\n".join(f"-- {line}" for line in text.splitlines())


def absolute(root: str) -> str:
    """The root with a slash at its end."""
    return root.rstrip("/") + "/"
