"""What the objects hold, in a form that an undisturbed run can be compared with, record by record.

Memory: 8 bytes for a position (about 70 where positions do not fit 64 bits), 16 for a digest and 2 for flags of each
anomaly. Event-loop only; one task. Owns no verdict.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cutbank.pipeline.sinking.claims import ChainId, Layout
from cutbank.pipeline.sinking.rendering import content, lines, render
from cutbank.pipeline.verifying.tables import DIGEST_BYTES, Names, Table, digest_of
from cutbank.records import Position

LAYOUTS_MAX = 256
"""Most CSV layouts that an audit tells apart; a line in one of those beyond may be as any of these would write it."""


AT_ONCE = 8192
"""Lines whose identities are Python's numbers at a time."""


class Anomalies(NamedTuple):
    """Those of one claim, by source partition, run, position and ordinal, with the digests of their lines."""

    names: Names
    table: Table


@dataclass(slots=True)
class Shelf:
    """The anomalies of one run of one source partition in one chain, ascending."""

    positions: MutableSequence[int] = field(default_factory=lambda: array("Q"))
    digests: bytearray = field(default_factory=bytearray)
    layouts: bytearray = field(default_factory=bytearray)
    met: bytearray = field(default_factory=bytearray)

    def add(self, position: Position, digest: bytes, layout: int) -> None:
        """The next one; a repeat, which has been named already, is left out."""
        if self.positions and position <= self.positions[-1]:
            return
        try:
            self.positions.append(position)
        except OverflowError:  # Kinesis: 256 bits
            self.positions = [*self.positions, position]
        self.digests += digest
        self.layouts.append(layout)
        self.met.append(0)

    def find(self, position: Position) -> int | None:
        """The place of a position."""
        at = bisect_left(self.positions, position)
        return at if at < len(self.positions) and self.positions[at] == position else None

    def digest(self, at: int) -> bytes:
        """The digest of the line there."""
        return bytes(self.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES])


class Index:
    """All anomalies of one pipeline that the audited objects hold."""

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        self.shelves: dict[tuple[str, int], dict[ChainId, Shelf]] = {}
        """By source partition (with stream and identity) and run, then by chain."""
        self._layouts: dict[Layout, int] = {}

    def add(self, chain: ChainId, layout: Layout, anomalies: Anomalies) -> None:
        """The anomalies of one claim."""
        number = self._number(layout)
        table, known = anomalies.table, anomalies.names.known
        digests = table.digests.tobytes()
        for first in range(0, len(table), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            identities = zip(
                table.names[part].tolist(), table.runs[part].tolist(), table.positions[part].tolist(), strict=True
            )
            for at, (name, run, position) in enumerate(identities, first):
                pipeline, partition = known[name]
                if pipeline == self.pipeline:
                    shelf = self.shelves.setdefault((partition, run), {}).setdefault(chain, Shelf())
                    shelf.add(Position(position), digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES], number)

    def meet(self, partition: str, run: int, position: Position, value: bytes) -> list[bool]:
        """Of each chain that has the line of this record, whether it is the one that was published as `value`."""
        found = []
        for shelf in self.shelves.get((partition, run), {}).values():
            at = shelf.find(position)
            if at is not None:
                shelf.met[at] = 1
                found.append(self.same(shelf, at, value))
        return found

    def same(self, shelf: Shelf, at: int, value: bytes) -> bool:
        """Whether an anomaly published as `value` is the line there, as its layout writes it."""
        number = shelf.layouts[at]
        if not number:
            return shelf.digest(at) == digest_of(value)
        return any(
            shelf.digest(at) == digest_of(_rewritten(layout, value))
            for layout, known in self._layouts.items()
            if known == number
        )

    def unmet(self) -> Iterator[tuple[str, int, Position]]:
        """Source partition, run and position of every anomaly that nothing was compared with."""
        for (partition, run), chains in self.shelves.items():
            for shelf in chains.values():
                for at, met in enumerate(shelf.met):
                    if not met:
                        yield partition, run, Position(shelf.positions[at])

    def _number(self, layout: Layout) -> int:
        if layout.format == "ndjson":
            return 0  # lines as they came, however they are compressed
        plain = layout.model_copy(update={"compression": "none"})
        return self._layouts.setdefault(plain, min(len(self._layouts) + 1, LAYOUTS_MAX - 1))


def _rewritten(layout: Layout, value: bytes) -> bytes:
    """What is read back of a line that was written in this layout."""
    (line,) = lines(layout, content(layout, render(layout, [value]).body))
    return line
