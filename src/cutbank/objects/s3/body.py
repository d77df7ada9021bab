"""A body on its way to S3, in parts, and the checksum that it is held against there. Owns neither the bytes nor a copy.

aiohttp copies a BytesIO whole and warns of plain bytes; this payload writes slices. The checksum is made in a thread,
in one call that holds no lock of the interpreter. Event-loop only, but for `digest`.
"""

import asyncio
import base64
import hashlib
import zlib
from typing import Any, Literal

from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter

PART_BYTES = 256 << 10
"""Given to the connection at a time, which may copy so much."""

INLINE_BYTES = 32 << 10
"""A smaller body is hashed at once: a thread would take longer."""

Checksum = Literal["sha256", "md5", "crc32"]


class Body:
    """As much of a file as botocore asks for: its length. It is read by `BodyPayload` alone."""

    def __init__(self, data: bytes) -> None:
        self.view = memoryview(data)
        self._at = 0

    def __len__(self) -> int:
        return len(self.view)

    def tell(self) -> int:
        """As of a file."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of a file."""
        self._at = offset + (0, self._at, len(self.view))[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        end = len(self.view) if size < 0 else min(len(self.view), self._at + size)
        part = bytes(self.view[self._at : end])
        self._at = max(self._at, end)
        return part


class BodyPayload(payload.Payload):
    """How aiohttp sends a `Body`."""

    _value: Body

    def __init__(self, value: Body, *args: Any, **kwargs: Any) -> None:
        super().__init__(value, *args, **kwargs)
        self._size = len(value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """As text; for aiohttp's own logs."""
        return bytes(self._value.view).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """All of it."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """All of it, or so many bytes."""
        view = self._value.view if content_length is None else self._value.view[:content_length]
        for at in range(0, len(view), PART_BYTES):
            await writer.write(view[at : at + PART_BYTES])


payload.register_payload(BodyPayload, Body, order=payload.Order.try_first)


async def checked(body: bytes, kind: Checksum) -> dict[str, str]:
    """The argument of PutObject that has the store check the body."""
    found = digest(body, kind) if len(body) <= INLINE_BYTES else await asyncio.to_thread(digest, body, kind)
    name = {"sha256": "ChecksumSHA256", "md5": "ContentMD5", "crc32": "ChecksumCRC32"}[kind]
    return {name: base64.b64encode(found).decode()}


def digest(body: bytes, kind: Checksum) -> bytes:
    """The checksum's bytes."""
    if kind == "crc32":
        return zlib.crc32(body).to_bytes(4, "big")
    return hashlib.new(kind, body, usedforsecurity=False).digest()
