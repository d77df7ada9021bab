"""What the lines of objects say, as columns of numbers: what is checked of all of them at once. Pure.

Invariant: of every line a table says what `sinking.lines.LineReader` says, value for value; `sinking.many_lines`
reads them together where it can, and the reader one by one where it can't. So a table knows no more and no less
than the lines do. A table is made in one thread; once made it is only read.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutbank.pipeline.sinking.lines import Line, LineReader, Source
from cutbank.pipeline.sinking.many_lines import Lines, read_many
from cutbank.pipeline.verifying.tails import Tails, read_tails
from cutbank.records import Position

DIGEST_BYTES = 16
"""Of a line: two different ones share it once in 2**64 pairs."""

ONE_BY_ONE = 16
"""Fewer lines than this are not worth reading at once."""

Key = tuple[int, Position, int]
"""An anomaly within its source partition: run, position, ordinal."""

_NOBODY = -1
_BREAKS = bytes.maketrans(b"\r\n", b"  ")  # between the parts of a line, as the reader has them


def digest_of(line: bytes) -> bytes:
    """A line's digest."""
    return hashlib.blake2b(line, digest_size=DIGEST_BYTES).digest()


class Names:
    """Numbers for pipelines' source partitions, in the order in which they come. One thread at a time."""

    def __init__(self) -> None:
        self.known: list[tuple[str, str]] = []
        """Pipeline and source partition, by number."""
        self._numbers: dict[tuple[str, str], int] = {}

    def number(self, pipeline: str, partition: str) -> int:
        """The number of this one."""
        found = self._numbers.setdefault((pipeline, partition), len(self.known))
        if found == len(self.known):
            self.known.append((pipeline, partition))
        return found


@dataclass(frozen=True, slots=True)
class Table:
    """Lines in their order; every column has their number."""

    seconds: NDArray[np.int64]
    """Since the epoch; of what is nobody's, 0."""
    scores: NDArray[np.float64]
    """-inf: none."""
    names: NDArray[np.int64]
    """Of the source partitions, as `Names` numbers them; -1: nobody's, and then its identity is 0."""
    runs: NDArray[np.int64]
    positions: NDArray[Any]
    """uint64; objects where one does not fit (Kinesis: 256 bits)."""
    ordinals: NDArray[np.int64]
    digests: NDArray[np.uint8]
    """`DIGEST_BYTES` of each line, or 0 bytes where nobody wants to know."""

    def __len__(self) -> int:
        return len(self.names)

    def where(self, chosen: NDArray[Any]) -> "Table":
        """The lines that a mask or an index chooses."""
        return Table(*(getattr(self, column.name)[chosen] for column in fields(self)))

    def identified(self) -> "Table":
        """Without what is nobody's."""
        known = self.names >= 0
        return self if known.all() else self.where(known)

    def key(self, index: int) -> Key:
        """One line's identity within its source partition."""
        return int(self.runs[index]), Position(int(self.positions[index])), int(self.ordinals[index])


def joined(tables: Sequence[Table]) -> Table:
    """One after the other, at least one."""
    if len(tables) == 1:
        return tables[0]
    return Table(*(np.concatenate([getattr(table, column.name) for table in tables]) for column in fields(Table)))


class TableMaker:
    """Makes the table of one object's lines, part by part."""

    def __init__(self, names: Names, *, digests: bool) -> None:
        self._names = names
        self._digests = digests
        self._reader = LineReader()
        self._by_ends = True
        self._parts: list[Table] = []

    def add(self, texts: Sequence[bytes]) -> None:
        """The next lines as they stand in the content, at least one."""
        many = len(texts) >= ONE_BY_ONE
        tails = read_tails(texts, self._names.number) if many and self._by_ends else None
        found = read_many(texts) if many and tails is None else None
        if tails is not None:
            self._parts.append(self._of_tails(tails, texts))
        elif found is not None:
            self._by_ends = False  # nothing is odd but their ends, and the next lines' will be so too
            self._parts.append(self._of_lines(found))
        elif len(texts) >= 2 * ONE_BY_ONE:
            # Half by half, so that one odd line among many costs a few others.
            middle = len(texts) // 2
            self.add(texts[:middle])
            self.add(texts[middle:])
        else:
            # What is not ours has no second of its own.
            self.add_lines([self._reader.line(text, position=Position(0), arrival_ms=0) for text in texts])

    def add_lines(self, known: Sequence[Line]) -> None:
        """The next lines, read one by one; at least one."""
        sources = [line.source for line in known]
        self._parts.append(
            Table(
                seconds=np.array([0 if line.source is None else line.second for line in known], dtype=np.int64),
                scores=np.array([line.score for line in known], dtype=np.float64),
                names=np.array([self._number(source) for source in sources], dtype=np.int64),
                runs=np.array([0 if source is None else source.run for source in sources], dtype=np.int64),
                positions=_positions([Position(0) if source is None else source.position for source in sources]),
                ordinals=np.array([0 if source is None else source.ordinal for source in sources], dtype=np.int64),
                digests=self._digested([line.text for line in known]),
            )
        )

    def table(self) -> Table:
        """All of them."""
        if not self._parts:
            nothing = np.zeros(0, dtype=np.int64)
            return Table(nothing, np.zeros(0), nothing, nothing, nothing.astype(np.uint64), nothing, self._digested([]))
        return joined(self._parts)

    def _of_tails(self, found: Tails, texts: Sequence[bytes]) -> Table:
        return Table(
            seconds=found.seconds,
            scores=np.frombuffer(array("d", found.scores)),
            names=found.names,
            runs=found.runs,
            positions=found.positions,
            ordinals=found.ordinals,
            digests=self._digested(texts),
        )

    def _of_lines(self, found: Lines) -> Table:
        count = len(found)
        pipelines, partitions = found.pipelines, found.partitions
        if pipelines.count(pipelines[0]) == count and partitions.count(partitions[0]) == count:
            names = np.full(count, self._names.number(pipelines[0], partitions[0]), dtype=np.int64)
        else:
            names = np.array(list(map(self._names.number, pipelines, partitions)), dtype=np.int64)
        return Table(
            seconds=found.seconds,
            scores=np.frombuffer(array("d", found.scores)),
            names=names,
            runs=np.frombuffer(array("q", found.runs), dtype=np.int64),
            positions=_positions(found.positions),
            ordinals=np.frombuffer(array("q", found.ordinals), dtype=np.int64),
            digests=self._digested(found.texts),
        )

    def _number(self, source: Source | None) -> int:
        return _NOBODY if source is None else self._names.number(source.pipeline, source.partition)

    def _digested(self, texts: Sequence[bytes]) -> NDArray[np.uint8]:
        if not self._digests:
            return np.zeros((len(texts), 0), dtype=np.uint8)
        digests = b"".join(digest_of(text.translate(_BREAKS)) for text in texts)
        return np.frombuffer(digests, dtype=np.uint8).reshape(len(texts), DIGEST_BYTES)


def _positions(positions: Sequence[Position]) -> NDArray[Any]:
    try:
        return np.frombuffer(array("Q", positions), dtype=np.uint64)
    except OverflowError:
        return np.array(positions, dtype=object)


def in_order(table: Table) -> bool:
    """Whether the lines that are somebody's are by second, then score, then position.

    Of equals of two source partitions nobody knows which was published first.
    """
    known = table.identified()
    seconds, scores = known.seconds, known.scores
    alike = seconds[1:] == seconds[:-1]
    equal = alike & (scores[1:] == scores[:-1])
    if not ((seconds[1:] > seconds[:-1]) | (alike & (scores[1:] < scores[:-1])) | equal).all():
        return False
    second = np.flatnonzero(equal) + 1
    second = second[known.names[second] == known.names[second - 1]]
    return not len(second) or not _falls(known, second - 1, second).any()


def _falls(table: Table, first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Whether the identity of the second of each pair is lower than that of the first."""
    falls = table.ordinals[second] < table.ordinals[first]
    for column in (table.positions, table.runs):
        one, other = column[first], column[second]
        falls = (other < one) | ((other == one) & falls)
    return np.asarray(falls, dtype=bool)


class Extent(NamedTuple):
    """Where the anomalies of one source partition begin and end in a table."""

    name: int
    first: Key
    last: Key


def extents(table: Table) -> tuple[list[Extent], bool]:
    """Each source partition's, of lines that are all somebody's; and whether an identity is there twice."""
    if not len(table):
        return [], False
    order = by_identity(table)
    names, positions = table.names[order], table.positions[order]
    same = (names[1:] == names[:-1]) & (positions[1:] == positions[:-1])
    repeats = False
    if same.any():
        runs, ordinals = table.runs[order], table.ordinals[order]
        repeats = bool((same & (runs[1:] == runs[:-1]) & (ordinals[1:] == ordinals[:-1])).any())
    ends = [*np.flatnonzero(names[1:] != names[:-1]).tolist(), len(order) - 1]
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [
        Extent(int(names[start]), table.key(order[start]), table.key(order[end]))
        for start, end in zip(starts, ends, strict=True)
    ], repeats


def by_identity(table: Table) -> NDArray[np.int64]:
    """Indices in the order of source partition, run, position and ordinal."""
    if not len(table):
        return np.arange(0)
    columns = (table.ordinals, table.positions, table.runs, table.names)  # the minor one first
    varied = [column for column in columns if (column != column[0]).any()]
    if len(varied) <= 1:
        return np.argsort(varied[0], kind="stable") if varied else np.arange(len(table))
    if table.positions.dtype == object:
        keys = list(zip(*(column.tolist() for column in reversed(varied)), strict=True))
        return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    return np.lexsort(varied)


def scored(table: Table) -> NDArray[np.bool_]:
    """Which lines have a score: anomalies have one, error records have none."""
    return np.asarray(table.scores > -inf)
