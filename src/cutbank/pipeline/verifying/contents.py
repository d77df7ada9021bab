"""One data object against what its claim says of it: what it holds, and if it is not that, what was done to it.

An object that is not as claimed gets one name: the smallest change that turns it back into what was hashed. An object
that is as claimed is looked at line by line: count, order, minute. `quick` says of most objects in a fraction of the
time that there is nothing to find here. Pure and blocking (megabytes): for a thread.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cutbank.errors import ObjectUnreadable
from cutbank.objects.base import OBJECT_BYTES_MAX
from cutbank.pipeline.sinking.claims import MINUTE_MS, Claim, DataObject, Layout
from cutbank.pipeline.sinking.lines import Line, LineReader, Source
from cutbank.pipeline.sinking.rendering import content, content_bytes_max, is_cut_off, lines, render
from cutbank.pipeline.verifying.faults import Fault
from cutbank.records import Position

CLOCKS_APART_MS = 5_000
"""How far a ROWTIME may lie past its claim's minute, by default: the clocks of two brokers differ, or one goes back."""

SLACK_BYTES = 64 << 20
"""Most that an object's content may exceed what its claim says of it and still be looked into."""

_GZIP_HEADER_BYTES = 10

Expelled = Callable[[Source], bool]
"""Whether an anomaly can't be in this claim, by its marks or its pipeline."""


@dataclass(frozen=True, slots=True)
class Content:
    """What was found in one object."""

    fault: Fault | None = None
    """Not as claimed; then nothing is said of its lines."""
    detail: str = ""
    lines: Sequence[Line] = ()
    notes: list[tuple[Fault, str]] = field(default_factory=list)
    """As claimed, and still wrong."""


def examine(
    claim: Claim, item: DataObject, body: bytes, *, expelled: Expelled, clocks_apart_ms: int = CLOCKS_APART_MS
) -> Content:
    """Look at one object of a claim."""
    layout = claim.layout
    most = inside_bytes_max(layout, item)
    try:
        inside = content(layout, body, bytes_max=most)
        texts = lines(layout, inside)
    except ObjectUnreadable as error:
        return Content(_unreadable(layout, item, body, bytes_max=most), str(error))
    if hashlib.sha256(inside).hexdigest() == (item.content_sha256 or item.sha256):
        if not sound_header(layout, body):
            return Content(Fault.CHANGED_BYTE, "in the gzip header")
        return _as_claimed(claim, item, _read(texts), clocks_apart_ms=clocks_apart_ms)
    return _diagnosed(layout, item, inside, texts, expelled)


def inside_bytes_max(layout: Layout, item: DataObject) -> int:
    """Most bytes of an object's content that are looked into."""
    wanted_bytes = content_bytes_max(layout, count=item.count, line_bytes=item.line_bytes)
    return min(wanted_bytes, OBJECT_BYTES_MAX) + SLACK_BYTES


def late_second(claim: Claim, clocks_apart_ms: int) -> int:
    """The last second that a line of this claim may be of."""
    return (claim.minute_ms + MINUTE_MS + clocks_apart_ms) // 1000


def sound_header(layout: Layout, body: bytes) -> bool:
    """Whether the first bytes are those that such an object has: of gzip they never change, no checksum covers them."""
    if layout.compression != "gzip" or layout.format == "parquet":
        return True
    return body[:_GZIP_HEADER_BYTES] == render(layout, [b"{}"]).body[:_GZIP_HEADER_BYTES]


def _read(texts: Sequence[bytes]) -> list[Line]:
    """The lines as the sink has seen them; what is not ours has no second of its own."""
    reader = LineReader()
    return [reader.line(text, position=Position(0), arrival_ms=0) for text in texts]


def _digest(layout: Layout, texts: Sequence[bytes]) -> str:
    """SHA-256 of the content that these lines make."""
    if not texts:
        return ""
    rendered = render(layout.model_copy(update={"compression": "none"}), texts)
    return rendered.content_sha256 or rendered.sha256


def _unreadable(layout: Layout, item: DataObject, body: bytes, *, bytes_max: int) -> Fault:
    """Cut off, if what is there is good as far as it goes; else changed, as what holds too much."""
    if layout.compression != "none" or layout.format == "parquet":
        cut = is_cut_off(layout, body, bytes_max=bytes_max)
        return Fault.CUT_OBJECT if cut else Fault.CHANGED_BYTE
    cut = len(body) <= bytes_max and body.count(b"\n") <= item.count
    return Fault.CUT_OBJECT if cut else Fault.CHANGED_BYTE


def _diagnosed(layout: Layout, item: DataObject, inside: bytes, texts: list[bytes], expelled: Expelled) -> Content:
    """The name of what was done to an object that is not as claimed."""
    wanted = item.content_sha256 or item.sha256
    known = _read(texts)
    unique = _without_repeats(known)
    if len(unique) < len(known) and wanted in _arranged_digests(layout, unique):
        return Content(Fault.DOUBLED_LINE, f"{len(texts)} lines instead of {item.count}")
    if _digest(layout, texts) != wanted and wanted in _arranged_digests(layout, known):
        return Content(Fault.WRONG_ORDER, f"its {item.count} lines are those of the claim")
    kept = [line for line in unique if line.source is None or not expelled(line.source)]
    if len(kept) < len(unique) and wanted in _arranged_digests(layout, kept):
        return Content(Fault.DOUBLED_LINE, f"{len(texts)} lines instead of {item.count}, some of another claim's")
    short = len(inside) < item.line_bytes if layout.format == "ndjson" else len(texts) < item.count
    if short:
        return Content(Fault.CUT_OBJECT, f"{len(texts)} lines, {len(inside)} bytes; {item.count} lines claimed")
    return Content(Fault.CHANGED_BYTE, f"{len(texts)} lines, {len(inside)} bytes; {item.count} lines claimed")


def _without_repeats(known: Sequence[Line]) -> list[Line]:
    """Each anomaly once. Lines that are nobody's anomaly may well be equal."""
    seen: set[bytes] = set()
    unique: list[Line] = []
    for line in known:
        if line.source is not None and line.text in seen:
            continue
        seen.add(line.text)
        unique.append(line)
    return unique


def _arranged_digests(layout: Layout, known: Sequence[Line]) -> set[str]:
    """Digests of these lines in the object's order; equals as they stand, and as their source positions say."""
    as_they_stand = sorted(known, key=lambda line: (line.second, -line.score))
    by_source = sorted(known, key=lambda line: (line.second, -line.score, line.source or ()))
    return {_digest(layout, [line.text for line in order]) for order in (known, as_they_stand, by_source)}


def _as_claimed(claim: Claim, item: DataObject, known: Sequence[Line], *, clocks_apart_ms: int) -> Content:
    found = Content(lines=known)
    if len(known) != item.count:
        found.notes.append((Fault.WRONG_COUNT, f"{len(known)} lines instead of {item.count}"))
    late_s = late_second(claim, clocks_apart_ms)
    before: Line | None = None
    for number, line in enumerate(known, 1):
        if line.source is None:
            continue  # its second was that of its arrival, which is not in it
        if before is not None and not _in_order(before, line):
            found.notes.append((Fault.WRONG_ORDER, f"line {number}"))
        before = line
        if line.second > late_s:
            found.notes.append((Fault.WRONG_MINUTE, f"line {number} is of a later minute than its claim"))
    return found


def _in_order(before: Line, line: Line) -> bool:
    """Whether `line` may follow. Of equals of two source partitions nobody knows which was published first."""
    one, other = (before.second, -before.score), (line.second, -line.score)
    if one != other or before.source is None or line.source is None:
        return one <= other
    return before.source[:2] != line.source[:2] or before.source <= line.source
