"""Compression of data objects' bodies: gzip and Zstandard, piece by piece, both ways. Pure.

Invariant: what was packed comes out as it went in, byte for byte, whoever packed it; a body that is cut off, changed or
followed by something else is told. The packed bytes are not frozen: another zlib or zstd may pack tighter.
Blocking: for a thread. Each call into a library ends with a wait for the interpreter, which other threads hold for
milliseconds; so pieces are large. A packer and an unpacker hold one piece beside their body.
"""

import hashlib
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from cutbank.errors import ObjectUnreadable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_LEVEL = 6
"""zlib's own middle: a third of the time of 9, and a few percent larger."""

ZSTD_LEVEL = 3
"""zstd's own default."""

PACK_BYTES = 4 << 20
"""Content is hashed and packed about so many bytes at a time."""

CHUNK_BYTES = 1 << 20
"""Bodies are unpacked at most so many bytes at a time."""

_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""RFC 1952: deflate, no name, no time, no particular system."""

_GZIP_WBITS = 31


class Packer(Protocol):
    """A body in the making."""

    def write(self, piece: bytes) -> None:
        """The next piece of the content."""
        ...

    def close(self) -> bytes:
        """The body; the packer is of no use any more."""
        ...


class PlainPacker:
    """Nothing is packed."""

    def __init__(self) -> None:
        self._out = io.BytesIO()

    def write(self, piece: bytes) -> None:
        """As `Packer`."""
        self._out.write(piece)

    def close(self) -> bytes:
        """As `Packer`."""
        return self._out.getvalue()


class GzipPacker:
    """One gzip member."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc = 0
        self._size = 0
        self._out = io.BytesIO()
        self._out.write(_GZIP_HEADER)

    def write(self, piece: bytes) -> None:
        """As `Packer`."""
        self._crc = zlib.crc32(piece, self._crc)
        self._size += len(piece)
        self._out.write(self._packer.compress(piece))

    def close(self) -> bytes:
        """As `Packer`."""
        self._out.write(self._packer.flush())
        self._out.write(self._crc.to_bytes(4, "little") + (self._size & 0xFFFF_FFFF).to_bytes(4, "little"))
        return self._out.getvalue()


class ZstdPacker:
    """One Zstandard frame with a checksum."""

    def __init__(self) -> None:
        named = zstd.CompressionParameter
        options: dict[int, int] = {named.compression_level: ZSTD_LEVEL, named.checksum_flag: 1}
        self._packer = zstd.ZstdCompressor(options=options)
        self._out = io.BytesIO()

    def write(self, piece: bytes) -> None:
        """As `Packer`."""
        self._out.write(self._packer.compress(piece))

    def close(self) -> bytes:
        """As `Packer`."""
        self._out.write(self._packer.flush())
        return self._out.getvalue()


class Hashed:
    """A packer that hashes what goes in."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._digest = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        """As `Packer`."""
        self._digest.update(piece)
        self._packer.write(piece)

    def close(self) -> tuple[str, bytes]:
        """The content's SHA-256, hex, and the body."""
        return self._digest.hexdigest(), self._packer.close()


def packer(compression: str) -> Packer:
    """A new packer: `none`, `gzip` or `zstd`."""
    makers: dict[str, Callable[[], Packer]] = {"none": PlainPacker, "gzip": GzipPacker, "zstd": ZstdPacker}
    return makers[compression]()


def packed_bytes_max(compression: str, content_bytes: int, *, objects: int = 1) -> int:
    """Most bytes of bodies with so much content; what can't be compressed gets a little larger."""
    if compression == "none":
        return content_bytes
    share = content_bytes // 1000 if compression == "gzip" else content_bytes // 200
    return content_bytes + share + 64 * objects


def unpacked(compression: str, body: bytes) -> Iterator[bytes]:
    """The content of a body, piece by piece, each at most `CHUNK_BYTES`. Raises ObjectUnreadable."""
    if compression == "none":
        return iter((body,))
    return _gunzipped(body) if compression == "gzip" else _unzstd(body)


def is_cut_off(compression: str, body: bytes, *, bytes_max: int) -> bool:
    """Whether a packed body is good as far as it goes, for at most so many bytes of content, and then just ends."""
    size = 0
    try:
        for piece in _gunzipped(body) if compression == "gzip" else _unzstd(body):
            size += len(piece)
            if size > bytes_max:
                return False
    except Ended:
        return True
    except ObjectUnreadable:
        return False
    return False


class Ended(ObjectUnreadable):
    """The body ends before its content does."""


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
    if not unpacker.eof:
        raise Ended("the object is a gzip file that is cut off")
    if len(body) - first > CHUNK_BYTES or unpacker.unused_data:
        raise ObjectUnreadable("the object is a gzip file that is followed by something else")


def _unzstd(body: bytes) -> Iterator[bytes]:
    """The content of one Zstandard frame and nothing else."""
    unpacker = zstd.ZstdDecompressor()
    view = memoryview(body)
    first = 0
    try:
        while not unpacker.eof:
            data = b""
            if unpacker.needs_input:
                if first >= len(body):
                    break
                data = bytes(view[first : first + CHUNK_BYTES])
                first += len(data)
            if piece := unpacker.decompress(data, CHUNK_BYTES):
                yield piece
    except zstd.ZstdError as error:
        raise ObjectUnreadable(f"the object is no zstd file: {error}") from None
    if not unpacker.eof:
        raise Ended("the object is a zstd file that is cut off")
    if first < len(body) or unpacker.unused_data:
        raise ObjectUnreadable("the object is a zstd file that is followed by something else")
