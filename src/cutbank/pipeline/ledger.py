"""The records of one source partition, with what a recount has learnt of each. Values; pure but for its own state.

Memory: 9 bytes a record where positions fit 64 bits, about 70 where they do not.
"""

from array import array
from bisect import bisect_left
from collections.abc import MutableSequence
from dataclasses import dataclass, field

from cutbank.records import Batch, Position

SCORED, REFUSED, TOO_LARGE, WARM_UP, FLAGGED, LABELLED, ERROR_SUNK = (1 << bit for bit in range(7))
"""What can be known of a record, each a bit of a byte."""


@dataclass(slots=True)
class Ledger:
    """One source partition: its positions, ascending, and a byte of flags for each."""

    oldest: Position
    positions: MutableSequence[int] = field(default_factory=lambda: array("Q"))
    flags: bytearray = field(default_factory=bytearray)

    def take(self, batch: Batch) -> None:
        """The next records."""
        try:
            self.positions.extend(batch.positions)
        except OverflowError:  # Kinesis: 256 bits; array.extend may have taken some already
            self.positions = [*self.positions[: len(self.flags)], *batch.positions]
        self.flags.extend(bytes(len(batch)))

    def index(self, position: int) -> int | None:
        """Where a position lies, None if there is no such record."""
        at = bisect_left(self.positions, position)
        return at if at < len(self.positions) and self.positions[at] == position else None
