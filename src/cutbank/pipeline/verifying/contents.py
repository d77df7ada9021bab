"""One data object against what its claim says of it: what it holds, and if it is not that, what was done to it.

An object that is not as claimed gets one name: the smallest change that turns it back into what was hashed. An object
that is as claimed is looked at line by line: count, order, minute. Pure and blocking (megabytes): for a thread.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cutbank.errors import ObjectUnreadable
from cutbank.objects.base import OBJECT_BYTES_MAX
from cutbank.pipeline.sinking.claims import MINUTE_MS, Claim, DataObject, Layout
from cutbank.pipeline.sinking.lines import Line, LineReader, Source
from cutbank.pipeline.sinking.rendering import content, content_bytes_max, lines, render
from cutbank.pipeline.verifying.faults import Fault
from cutbank.records import Position

CLOCKS_APART_MS = 5_000
"""How far a ROWTIME may lie past its claim's minute, by default: the clocks of two brokers differ, or one goes back."""

SLACK_BYTES = 64 << 20
"""Most that an object's content may exceed what its claim says of it and still be looked into."""

_GZIP_WBITS = 31
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
    wanted_bytes = content_bytes_max(layout, count=item.count, line_bytes=item.line_bytes)
    most = min(wanted_bytes, OBJECT_BYTES_MAX) + SLACK_BYTES
    try:
        inside = content(layout, body, bytes_max=most)
        texts = lines(layout, inside)
    except ObjectUnreadable as error:
        return Content(_unreadable(layout, item, body, bytes_max=most), str(error))
    if hashlib.sha256(inside).hexdigest() == (item.content_sha256 or item.sha256):
        if body[:_GZIP_HEADER_BYTES] != _header(layout, body):
            return Content(Fault.CHANGED_BYTE, "in the gzip header")
        return _as_claimed(claim, item, _read(texts), clocks_apart_ms=clocks_apart_ms)
    return _diagnosed(layout, item, inside, texts, expelled)


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


def _header(layout: Layout, body: bytes) -> bytes:
    """The first bytes that such an object has: those of gzip are always the same, no checksum covers them."""
    if layout.compression == "none":
        return body[:_GZIP_HEADER_BYTES]
    return render(layout, [b"{}"]).body[:_GZIP_HEADER_BYTES]


def _unreadable(layout: Layout, item: DataObject, body: bytes, *, bytes_max: int) -> Fault:
    """Cut off, if what is there is good as far as it goes; else changed, as what holds too much."""
    if layout.compression == "gzip":
        unpacker = zlib.decompressobj(wbits=_GZIP_WBITS)
        try:
            inside = unpacker.decompress(body, bytes_max + 1)
        except zlib.error:
            return Fault.CHANGED_BYTE
        whole = unpacker.eof or len(inside) > bytes_max
        return Fault.CHANGED_BYTE if whole else Fault.CUT_OBJECT
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
    late_s = (claim.minute_ms + MINUTE_MS + clocks_apart_ms) // 1000
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
