"""Bodies of data objects: from lines to bytes and back, in each format and compression. Pure.

Invariant: the content, which tells all of an object's lines, is a function of layout and lines, byte for byte, on any
machine. The body is not: another zlib, zstd or pyarrow may pack tighter. So bodies are compared by their content.

NDJSON: the content is the lines, each with its end. CSV (`csv_rows`): the file before compression. Parquet (`parquet`):
its rows as JSON; compression is inside the file. `lines` tells the lines of a content.
Blocking (megabytes are hashed and compressed): for a thread.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from cutbank.errors import MissingExtra, ObjectUnreadable, PartitionStopped
from cutbank.pipeline.sinking import csv_rows, packing, parquet
from cutbank.pipeline.sinking.claims import DataObject, Layout
from cutbank.pipeline.sinking.json_rows import PART_BYTES, parts
from cutbank.pipeline.sinking.packing import CHUNK_BYTES, PACK_BYTES, Hashed, packed_bytes_max, packer, unpacked

__all__ = [
    "CHUNK_BYTES",
    "CONTENT_BYTES_MAX",
    "Rendered",
    "body_bytes_max",
    "chunks",
    "content",
    "content_bytes_max",
    "is_content_of",
    "is_cut_off",
    "lines",
    "render",
]

CONTENT_BYTES_MAX = 1 << 30
"""Most that `chunks` and `content` decompress where the caller does not know better, bytes."""

_NUMBER_BYTES_MAX = 32
"""A number in a column takes no more, whatever its line had, with the comma and the colon before it."""

_SOURCE_BYTES_MAX = 128
"""Names and punctuation of a SOURCE."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An object's body, and what a claim says of it."""

    count: int
    line_bytes: int
    sha256: str
    content_sha256: str | None
    body: bytes

    def described(self, key: str) -> DataObject:
        """As a claim says it."""
        return DataObject(
            key=key,
            count=self.count,
            line_bytes=self.line_bytes,
            sha256=self.sha256,
            content_sha256=self.content_sha256,
        )

    def is_of(self, item: DataObject) -> bool:
        """Whether a claim says this of one of its objects."""
        return self.described(item.key) == item


def render(layout: Layout, lines: Sequence[bytes]) -> Rendered:
    """The body of these lines, at least one, in this order, each without its end.

    Raises PartitionStopped where a claim of somebody else's needs a library that is not installed here.
    """
    if layout.format == "ndjson" and layout.compression == "none":
        body = b"\n".join([*lines, b""])
        return Rendered(len(lines), len(body), hashlib.sha256(body).hexdigest(), None, body)
    if layout.format == "parquet":
        return _rendered_parquet(layout, lines)
    body_of = Hashed(packer(layout.compression))
    of_lines, line_bytes = hashlib.sha256(), 0
    rows = [csv_rows.header(layout.columns)] if layout.format == "csv" else []
    for part in parts(lines, bytes_max=PACK_BYTES):
        chunk = b"\n".join([*part, b""])
        line_bytes += len(chunk)
        if layout.format == "ndjson":
            body_of.write(chunk)
            continue
        of_lines.update(chunk)
        del chunk
        rows += [csv_rows.rows_of(layout.columns, few) for few in parts(part, bytes_max=PART_BYTES)]
        body_of.write(b"".join(rows))
        rows.clear()
    content_sha256, body = body_of.close()
    if layout.format == "ndjson":
        return Rendered(len(lines), line_bytes, content_sha256, None, body)
    return Rendered(len(lines), line_bytes, of_lines.hexdigest(), content_sha256, body)


def _rendered_parquet(layout: Layout, lines: Sequence[bytes]) -> Rendered:
    try:
        body_of = parquet.ParquetBody(layout)
    except MissingExtra:
        # A sink of this layout does not start without it: this is another's claim that is to be finished here.
        raise PartitionStopped(
            "a claim's objects are Parquet files, and pyarrow is not installed here: pip install 'cutbank[parquet]', "
            "or let a sink that has it finish the claim"
        ) from None
    of_lines, of_content, line_bytes = hashlib.sha256(), hashlib.sha256(), 0
    for part in parts(lines, bytes_max=PACK_BYTES):
        chunk = b"\n".join([*part, b""])
        line_bytes += len(chunk)
        of_lines.update(chunk)
        of_content.update(body_of.write(part))
    return Rendered(len(lines), line_bytes, of_lines.hexdigest(), of_content.hexdigest(), body_of.close())


def content_bytes_max(layout: Layout, *, count: int, line_bytes: int, objects: int = 1) -> int:
    """Most bytes that so many lines take as content in this format, in so many objects.

    CSV doubles at most every character, and adds a comma for each column. Parquet may have every field in its column,
    and again, with a backslash before each quote, in its other fields.
    """
    if layout.format == "ndjson":
        return line_bytes
    if layout.format == "csv":
        return 2 * line_bytes + count * (len(layout.columns) + 8) + objects * len(csv_rows.header(layout.columns))
    names = sum(len(orjson.dumps(name)) + _NUMBER_BYTES_MAX for name in layout.columns)
    sources = layout.types.count("SOURCE") * _SOURCE_BYTES_MAX
    return 3 * line_bytes + count * (names + sources + _NUMBER_BYTES_MAX)


def body_bytes_max(layout: Layout, *, count: int, line_bytes: int, objects: int = 1) -> int:
    """Most bytes of so many lines' bodies, and of what is held beside them while they are made."""
    if layout.format == "parquet":
        return parquet.body_bytes_max(layout, count=count, line_bytes=line_bytes, objects=objects)
    inside = content_bytes_max(layout, count=count, line_bytes=line_bytes, objects=objects)
    if layout.format == "ndjson" and layout.compression == "none":
        return inside
    return packed_bytes_max(layout.compression, inside, objects=objects) + min(inside, 2 * PACK_BYTES)


def chunks(layout: Layout, body: bytes, *, bytes_max: int = CONTENT_BYTES_MAX) -> Iterator[bytes]:
    """The content of a body, piece by piece.

    Raises ObjectUnreadable: damaged, or more than `bytes_max`; MissingExtra: Parquet without pyarrow.
    """
    pieces = parquet.contents(layout, body) if layout.format == "parquet" else unpacked(layout.compression, body)
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > bytes_max:
            raise ObjectUnreadable(f"the object's content exceeds {bytes_max} bytes")
        yield piece


def content(layout: Layout, body: bytes, *, bytes_max: int = CONTENT_BYTES_MAX) -> bytes:
    """The content of a body, whole. Raises as `chunks`."""
    return b"".join(chunks(layout, body, bytes_max=bytes_max))


def is_cut_off(layout: Layout, body: bytes, *, bytes_max: int = CONTENT_BYTES_MAX) -> bool:
    """Whether a body that can't be read is good as far as it goes. Not for what is neither packed nor Parquet."""
    if layout.format == "parquet":
        return parquet.MAGIC.startswith(body[:4]) and not body[4:].endswith(parquet.MAGIC)
    return packing.is_cut_off(layout.compression, body, bytes_max=bytes_max)


def is_content_of(layout: Layout, item: DataObject, body: bytes) -> bool:
    """Whether a body holds exactly what the claim says of this object, however it was packed. Raises MissingExtra."""
    bytes_max = content_bytes_max(layout, count=item.count, line_bytes=item.line_bytes)
    digest = hashlib.sha256()
    try:
        for piece in chunks(layout, body, bytes_max=bytes_max):
            digest.update(piece)
    except ObjectUnreadable:
        return False
    return digest.hexdigest() == (item.content_sha256 or item.sha256)


def lines(layout: Layout, content: bytes) -> list[bytes]:
    """The lines of a content as newline-delimited JSON, without their ends. Raises ObjectUnreadable.

    NDJSON: byte for byte; a last line without its end is one too. Parquet: byte for byte. CSV: ANOMALY_SCORE, ROWTIME,
    SOURCE, other numbers, arrays and objects as they were; but null where a field was missing, null or empty, and a
    string that reads as JSON of another type has become that. So lines of CSV tell who an anomaly is, not its bytes.
    """
    if layout.format == "csv":
        return csv_rows.lines_of(layout.columns, content)
    if layout.format == "parquet":
        return parquet.lines_of(layout, content)
    found = content.split(b"\n")
    return found if found[-1] else found[:-1]
