"""One claim with what its objects say together: which anomalies, whose, and which of them a second time.

Memory: the columns of the claim's lines. Blocking where lines are many (sorting); one thread at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cutbank.errors import UsageError
from cutbank.pipeline.sinking.claims import Claim, DataObject, Mark
from cutbank.pipeline.sinking.layout import object_key
from cutbank.pipeline.sinking.lines import Source
from cutbank.pipeline.sinking.prefix import REST
from cutbank.pipeline.verifying.faults import Fault
from cutbank.pipeline.verifying.index import Anomalies
from cutbank.pipeline.verifying.tables import (
    Extent,
    Key,
    Names,
    Table,
    TableMaker,
    by_identity,
    extents,
    joined,
    scored,
)
from cutbank.records import Position, position_text

NOTHING: Key = (-1, Position(0), 0)
"""Before every anomaly."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The anomalies of the claim's own pipeline."""

    table: Table
    extents: Sequence[Extent]
    """Of each source partition; in the order of its numbers."""
    by_kind: Sequence[tuple[bool, Extent]]
    """The same, of lines with a score, and of those without: error records, which have a chain of their own."""
    suspect: bool
    """Something is there twice, or another pipeline's."""


@dataclass(slots=True)
class Claimed:
    """A claim that is being audited."""

    claim: Claim
    overlaps: bool
    """It begins before the one before it ended."""
    given_up: bool
    excused: frozenset[str]
    """Keys of objects that were given up for lost."""
    expelled: Callable[[Source], bool] = field(init=False)
    """Whether an anomaly can't be in it, by its marks."""
    names: Names = field(default_factory=Names)
    tables: list[tuple[DataObject, Table]] = field(default_factory=list)
    bytes: int = 0
    """Of its lines."""
    clean: bool = True
    """Every object is as claimed."""

    def __post_init__(self) -> None:
        self.expelled = _expelled(self.claim)

    def partition(self, extent: Extent) -> str:
        """The source partition that an extent is of."""
        return self.names.known[extent.name][1]

    def summed_up(self) -> Summary:
        """All its lines together."""
        nothing = TableMaker(self.names, digests=False).table()
        table = joined([table for _, table in self.tables]).identified() if self.tables else nothing
        ours = np.array([pipeline == self.claim.pipeline for pipeline, _ in self.names.known], dtype=bool)
        if not ours.all():
            table = table.where(ours[table.names])
        found, repeats = extents(table)
        by_kind = []
        with_score = scored(table)
        for kind, part in ((True, with_score), (False, ~with_score)):
            if part.any():
                by_kind += [(kind, extent) for extent in (found if part.all() else extents(table.where(part))[0])]
        return Summary(table, found, by_kind, repeats or not ours.all())

    def below(self, summary: Summary, marks: Mapping[str, Key]) -> bool:
        """Whether one of its anomalies was there before, by the marks of the claims before it."""
        if self.overlaps:
            return False
        return any(extent.first <= marks.get(self.partition(extent), NOTHING) for extent in summary.extents)

    def named(self, marks: Mapping[str, Key]) -> Iterator[tuple[Fault, str]]:
        """Which lines are another pipeline's, or there a second time, line by line."""
        seen: set[tuple[int, Key]] = set()
        for item, table in self.tables:
            for at in np.flatnonzero(table.names >= 0).tolist():
                name, key = int(table.names[at]), table.key(at)
                pipeline, partition = self.names.known[name]
                where = f"{item.key} line {at + 1}"
                if pipeline != self.claim.pipeline:
                    yield Fault.FOREIGN_LINE, f"{where}: {pipeline}"
                    continue
                if (name, key) in seen or (not self.overlaps and key <= marks.get(partition, NOTHING)):
                    yield Fault.DOUBLED_LINE, f"{where}: {partition} {position_text(key[1])}"
                seen.add((name, key))

    def anomalies(self, summary: Summary) -> Anomalies:
        """In the order of their identities."""
        return Anomalies(self.names, summary.table.where(by_identity(summary.table)))


def wrong_name(claim: Claim, item: DataObject, ordinal: int) -> tuple[Fault, str] | None:
    """What is wrong with an object's key: it is that of its claim's minute."""
    value = ""
    if claim.layout.partition_keys:
        values = claim.partition_values
        value = values[ordinal] if ordinal < len(values) else REST
    try:
        wanted = object_key(
            claim.chain, claim.layout, start=claim.start, minute_ms=claim.minute_ms, ordinal=ordinal, value=value
        )
    except UsageError as error:
        return Fault.UNREADABLE_CLAIM, f"{claim.key}: {error}"
    if item.key == wanted:
        return None
    same_name = item.key.rpartition("/")[2] == wanted.rpartition("/")[2]
    fault = Fault.WRONG_MINUTE if same_name else Fault.WRONG_NAME
    return fault, f"{item.key}: by its claim it is {wanted}"


def as_keys(marks: Sequence[Mark]) -> dict[str, Key]:
    """Marks by source partition."""
    return {mark.partition: (mark.run, mark.position, mark.ordinal) for mark in marks}


def _expelled(claim: Claim) -> Callable[[Source], bool]:
    before, after = as_keys(claim.marks_before), as_keys(claim.marks_after)

    def expelled(source: Source) -> bool:
        key: Key = source[2:]
        low, high = before.get(source.partition, NOTHING), after.get(source.partition, NOTHING)
        return source.pipeline != claim.pipeline or not low < key <= high

    return expelled
