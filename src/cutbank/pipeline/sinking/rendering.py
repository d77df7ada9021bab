"""Bodies of data objects: from lines to bytes and back, in each format and compression. Pure.

Invariant: the content, which is the body before compression, is a function of layout and lines, byte for byte, on any
machine. The compressed body is not: another zlib may pack tighter. So bodies are compared by their content.

CSV is RFC 4180: UTF-8, CR LF, a header with the layout's columns and `OTHER_FIELDS`. A string is its text, null and
missing are empty; numbers, true, false, arrays and objects are the JSON text as it came, digit for digit. What has no
column stands in `OTHER_FIELDS` as a JSON object, so nothing of a record is lost.
Blocking (megabytes are hashed and compressed): for a thread.
"""

import csv
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from cutbank.errors import ObjectUnreadable
from cutbank.pipeline.sinking.claims import OTHER_FIELDS, DataObject, Layout

GZIP_LEVEL = 6
"""zlib's own middle: a third of the time of 9, and a few percent larger."""

CHUNK_BYTES = 1 << 20
"""Lines are formatted and compressed, and bodies decompressed, so many bytes at a time: after each piece the thread
waits for the interpreter, which others hold."""

CONTENT_BYTES_MAX = 1 << 30
"""Most that `chunks` and `content` decompress where the caller does not know better, bytes."""

_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""RFC 1952: deflate, no name, no time, no particular system."""

_GZIP_WBITS = 31


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
    """The body of these lines, at least one, in this order, each without its end."""
    if layout.format == "ndjson" and layout.compression == "none":
        body = b"\n".join([*lines, b""])
        return Rendered(len(lines), len(body), hashlib.sha256(body).hexdigest(), None, body)
    body_of = _Body(layout)
    of_lines, line_bytes = hashlib.sha256(), 0
    if layout.format == "csv":
        body_of.write(_csv([(*layout.columns, OTHER_FIELDS)]))
    for part in _parts(lines):
        chunk = b"\n".join([*part, b""])
        of_lines.update(chunk)
        line_bytes += len(chunk)
        body_of.write(chunk if layout.format == "ndjson" else _csv(_row(layout.columns, line) for line in part))
    content_sha256, body = body_of.close()
    sha256 = of_lines.hexdigest()
    return Rendered(len(lines), line_bytes, sha256, content_sha256 if layout.format == "csv" else None, body)


def content_bytes_max(layout: Layout, *, count: int, line_bytes: int, objects: int = 1) -> int:
    """Most bytes that so many lines take in this format, before compression, in so many objects.

    CSV doubles at most every character, and adds a comma for each column.
    """
    if layout.format == "ndjson":
        return line_bytes
    row_bytes = len(layout.columns) + 8
    return 2 * line_bytes + count * row_bytes + objects * len(_csv([(*layout.columns, OTHER_FIELDS)]))


def body_bytes_max(layout: Layout, *, count: int, line_bytes: int, objects: int = 1) -> int:
    """Most bytes of so many lines' bodies; gzip adds a little to what it can't compress."""
    content_bytes = content_bytes_max(layout, count=count, line_bytes=line_bytes, objects=objects)
    return content_bytes if layout.compression == "none" else content_bytes + content_bytes // 1000 + 64 * objects


def chunks(layout: Layout, body: bytes, *, bytes_max: int = CONTENT_BYTES_MAX) -> Iterator[bytes]:
    """The content of a body, piece by piece. Raises ObjectUnreadable: damaged, or more than `bytes_max`."""
    pieces = iter((body,)) if layout.compression == "none" else _gunzipped(body)
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > bytes_max:
            raise ObjectUnreadable(f"the object's content exceeds {bytes_max} bytes")
        yield piece


def content(layout: Layout, body: bytes, *, bytes_max: int = CONTENT_BYTES_MAX) -> bytes:
    """The body before compression. Raises ObjectUnreadable."""
    return b"".join(chunks(layout, body, bytes_max=bytes_max))


def is_content_of(layout: Layout, item: DataObject, body: bytes) -> bool:
    """Whether a body holds exactly what the claim says of this object, however it was compressed."""
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

    NDJSON: byte for byte; a last line without its end is one too. CSV: ANOMALY_SCORE, ROWTIME, SOURCE, other numbers,
    arrays and objects as they were; but null where a field was missing, null or empty, and a string that reads as
    JSON of another type has become that. So lines of CSV tell an anomaly's identity, not its bytes.
    """
    if layout.format == "ndjson":
        found = content.split(b"\n")
        return found if found[-1] else found[:-1]
    rows = _rows(content)
    header = next(rows, None)
    if header != [*layout.columns, OTHER_FIELDS]:
        raise ObjectUnreadable(f"the header is not that of the claim: {str(header)[:200]}")
    return [_line(layout.columns, row) for row in rows]


class _Body:
    """A body that grows by pieces of its content."""

    def __init__(self, layout: Layout) -> None:
        self._gzip = layout.compression == "gzip"
        self._packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._digest = hashlib.sha256()
        self._crc = 0
        self._size = 0
        self._out = io.BytesIO()
        if self._gzip:
            self._out.write(_GZIP_HEADER)

    def write(self, piece: bytes) -> None:
        self._digest.update(piece)
        if not self._gzip:
            self._out.write(piece)
            return
        self._crc = zlib.crc32(piece, self._crc)
        self._size += len(piece)
        self._out.write(self._packer.compress(piece))

    def close(self) -> tuple[str, bytes]:
        """The content's SHA-256, hex, and the body."""
        if self._gzip:
            self._out.write(self._packer.flush())
            self._out.write(self._crc.to_bytes(4, "little") + (self._size & 0xFFFF_FFFF).to_bytes(4, "little"))
        return self._digest.hexdigest(), self._out.getvalue()


def _parts(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines in parts of about `CHUNK_BYTES`."""
    part: list[bytes] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line)
        if size >= CHUNK_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _gunzipped(body: bytes) -> Iterator[bytes]:
    """The content of one gzip member and nothing else."""
    unpacker = zlib.decompressobj(wbits=_GZIP_WBITS)
    view = memoryview(body)
    first = 0
    try:
        for first in range(0, len(body), CHUNK_BYTES):
            data: bytes | memoryview = view[first : first + CHUNK_BYTES]
            while len(data) and not unpacker.eof:
                yield unpacker.decompress(data, CHUNK_BYTES)
                data = unpacker.unconsumed_tail
            if unpacker.eof:
                break
        # What it has taken in but not given out, since each piece is bounded.
        while not unpacker.eof and (piece := unpacker.decompress(b"", CHUNK_BYTES)):
            yield piece
    except zlib.error as error:
        raise ObjectUnreadable(f"the object is no gzip file: {error}") from None
    if not unpacker.eof or len(body) - first > CHUNK_BYTES or unpacker.unused_data:
        raise ObjectUnreadable("the object is a gzip file that is cut off or followed by something else")


_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_MEMBER = re.compile(rf'\s*[{{,]\s*({_STRING})\s*:\s*(?:({_STRING})|([^\s,{{}}\[\]"]+)|(?=[\[{{]))')
_STRUCTURE = re.compile(rf"{_STRING}|([\[{{])|([\]}}])")
_END = re.compile(r"\s*(?:\{\s*)?\}\s*")
_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n]*))(,|\r\n)')


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue().encode()


def _row(columns: Sequence[str], line: bytes) -> list[str]:
    """The cells of one line, which is a JSON object."""
    cells = dict.fromkeys(columns, "")
    others: dict[str, str] = {}
    text = line.decode()
    at = 0
    # Not json.loads: it would round numbers, and recurse into what is nested deeply.
    while (match := _MEMBER.match(text, at)) is not None:
        name_text, string, scalar = match.groups()
        at = match.end()
        if string is None and scalar is None:
            at = _nested_end(text, at)
            scalar = text[match.end() : at]
        name = _unquoted(name_text)
        if name not in cells:
            others[name] = f"{name_text}:{string or scalar}"
        elif string is not None:
            cells[name] = _unquoted(string)
        else:
            cells[name] = "" if scalar == "null" else scalar
    assert _END.fullmatch(text, at), "a line is a JSON object"
    return [*cells.values(), f"{{{','.join(others.values())}}}" if others else ""]


def _unquoted(text: str) -> str:
    """The text of a JSON string."""
    if "\\" not in text:
        return text[1:-1]
    return str(json.loads(text))


def _nested_end(text: str, at: int) -> int:
    """Where the array or object ends that begins there."""
    depth = 0
    for match in _STRUCTURE.finditer(text, at):
        depth += bool(match[1]) - bool(match[2])
        if not depth:
            return match.end()
    raise AssertionError("a line is valid JSON")


def _rows(content: bytes) -> Iterator[list[str]]:
    """The cells of each row of RFC 4180. Not the csv module: its longest field is a setting of the whole process."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ObjectUnreadable("the object is not UTF-8") from None
    row: list[str] = []
    at = 0
    while at < len(text):
        match = _CELL.match(text, at)
        if match is None:
            raise ObjectUnreadable(f"no CSV from character {at} on")
        at = match.end()
        quoted, plain, end = match.groups()
        row.append(plain if quoted is None else quoted.replace('""', '"'))
        if end != ",":
            yield row
            row = []
    if row:
        raise ObjectUnreadable("the last row is cut off")


def _line(columns: Sequence[str], row: Sequence[str]) -> bytes:
    if len(row) != len(columns) + 1:
        raise ObjectUnreadable(f"a row has {len(row)} cells, its header {len(columns) + 1}")
    members = [orjson.dumps(name) + b":" + _json(cell) for name, cell in zip(columns, row, strict=False)]
    others = row[-1].strip()[1:-1].encode()
    return b"{" + b",".join([*members, others] if others else members) + b"}"


def _json(cell: str) -> bytes:
    """The JSON that a cell was made of, as far as it tells."""
    if not cell:
        return b"null"
    text = cell.encode()
    if cell[0] in "-0123456789tf[{":
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        else:
            return text
    return orjson.dumps(cell)
