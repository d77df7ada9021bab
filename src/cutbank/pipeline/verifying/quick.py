"""One data object against its claim, in a hurry: whether it is clean, from columns of its lines.

Invariant: an object is clean here exactly when `contents.examine` finds nothing, and that is its plain twin: whatever
is not clean here is examined there, which takes a few times as long and knows the names of faults. So a fault costs
time, and what is sound does not. Blocking (megabytes) and without state: for threads; `unpack` lets the interpreter go.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from cutbank.errors import ObjectUnreadable
from cutbank.pipeline.sinking.claims import Claim, DataObject, Layout
from cutbank.pipeline.sinking.many_lines import RECORDS_BEST
from cutbank.pipeline.sinking.rendering import content, lines
from cutbank.pipeline.verifying.contents import (
    CLOCKS_APART_MS,
    Expelled,
    examine,
    inside_bytes_max,
    late_second,
    sound_header,
)
from cutbank.pipeline.verifying.faults import Fault
from cutbank.pipeline.verifying.tables import Names, Table, TableMaker, in_order

PART_BYTES = 256 << 10
"""Lines are read so many bytes at a time: more at once costs memory and gains nothing."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An object's body and what is in it."""

    body: bytes
    inside: bytes | None
    """The content; None: it can't be unpacked."""
    sha256: str = ""
    """Of the content, hex."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one object."""

    table: Table
    """Of its lines; empty where it is not as claimed."""
    fault: Fault | None = None
    """Not as claimed; then nothing is said of its lines."""
    detail: str = ""
    notes: list[tuple[Fault, str]] = field(default_factory=list)
    """As claimed, and still wrong."""


def unpack(claim: Claim, item: DataObject, body: bytes) -> Unpacked:
    """Unpack and hash a body, in one go, so that other threads go on meanwhile."""
    try:
        inside = content(claim.layout, body, bytes_max=inside_bytes_max(claim.layout, item))
    except ObjectUnreadable:
        return Unpacked(body, None)
    return Unpacked(body, inside, hashlib.sha256(inside).hexdigest())


def look(
    claim: Claim,
    item: DataObject,
    unpacked: Unpacked,
    *,
    names: Names,
    expelled: Expelled,
    clocks_apart_ms: int = CLOCKS_APART_MS,
    digests: bool = False,
) -> Found:
    """Look at one object of a claim. `digests`: the table has those of the lines."""
    maker = TableMaker(names, digests=digests)
    table = _clean(claim, item, unpacked, maker, clocks_apart_ms=clocks_apart_ms)
    if table is not None:
        return Found(table)
    examined = examine(claim, item, unpacked.body, expelled=expelled, clocks_apart_ms=clocks_apart_ms)
    maker = TableMaker(names, digests=digests)
    if examined.lines:
        maker.add_lines(examined.lines)
    return Found(maker.table(), examined.fault, examined.detail, examined.notes)


def _clean(
    claim: Claim, item: DataObject, unpacked: Unpacked, maker: TableMaker, *, clocks_apart_ms: int
) -> Table | None:
    """The table of a clean object's lines; None: it is not clean."""
    inside, layout = unpacked.inside, claim.layout
    if inside is None or unpacked.sha256 != (item.content_sha256 or item.sha256):
        return None
    if not sound_header(layout, unpacked.body):
        return None
    try:
        for texts in _parts(layout, inside):
            maker.add(texts)
    except ObjectUnreadable:
        return None
    table = maker.table()
    if len(table) != item.count or not in_order(table):
        return None
    known = table.identified()
    late = len(known) and known.seconds.max() > late_second(claim, clocks_apart_ms)
    return None if late else table


def _parts(layout: Layout, inside: bytes) -> Iterator[list[bytes]]:
    """The lines of a content as `rendering.lines` gives them, a few at a time."""
    if layout.format != "ndjson":
        texts = lines(layout, inside)
        for first in range(0, len(texts), RECORDS_BEST):
            yield texts[first : first + RECORDS_BEST]
        return
    at = 0
    while at < len(inside):
        end = inside.rfind(b"\n", at, at + PART_BYTES) + 1
        if not end:  # a long line, or the last one without its end
            end = inside.find(b"\n", at + PART_BYTES) + 1 or len(inside)
        yield lines(layout, inside[at:end])
        at = end
