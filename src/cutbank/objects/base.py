"""The object store protocol: named, immutable objects with create-only puts.

Keys are relative, `/`-separated, of the characters that `key_check` allows; the store's URL names the root under
which they lie, and is the store's identity. An object is whole or absent; once there it never changes.

Event-loop only; an implementation keeps blocking work off the loop. A cancelled `create` may or may not have been
done; doing it again is harmless.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, Self

KEY_BYTES_MAX = 1024
"""Longest key, bytes in UTF-8, root not counted (S3's limit for a whole key)."""

SEGMENT_BYTES_MAX = 255
"""Longest part between slashes, bytes (what file systems allow)."""

OBJECT_BYTES_MAX = 5 << 28
"""Largest object that is read, bytes: no model, claim or data object of Cutbank's is larger. Reading one that is would
take the process's memory."""

_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()%=@,+:~\- ]+")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One entry of a listing."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """A place for objects. Opened by `objects.open_store`; closed by `async with`."""

    @property
    def url(self) -> str:
        """The root, without secrets, as people read it."""
        ...

    @property
    def key_bytes_max(self) -> int:
        """Longest key that can be put here, bytes: KEY_BYTES_MAX, or what the root leaves of it."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *failure: object) -> None: ...

    async def create(self, key: str, body: bytes) -> None:
        """Put the object unless its key is taken; durable and visible to `list` and `read` when this returns.

        Of several concurrent creators exactly one succeeds. Raises AlreadyExists, StoreUnavailable (it may have been
        done), StoreRefused.
        """
        ...

    async def read(self, key: str) -> bytes:
        """The whole body.

        Raises ObjectMissing, PartitionStopped (larger than OBJECT_BYTES_MAX), StoreUnavailable, StoreRefused.
        """
        ...

    async def exists(self, key: str) -> bool:
        """Whether the object is there, without reading its body."""
        ...

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with `prefix` and sorts after `after`, in the order of the keys' UTF-8 bytes.

        Consistent: an object whose `create` returned before the listing began is in it. Lazy: an early stop costs no
        more than a page.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error. Only old snapshots and probes are ever deleted."""
        ...

    async def probe(self, *, deletes: bool = False) -> None:
        """Check, by doing it with several creators at once, that create-only puts, reads and listings work here.

        `deletes`: whether deleting must work too. Raises StoreRefused, which names the action that failed and what to
        grant or set.
        """
        ...


def key_check(key: str) -> str:
    """Return `key`, or raise ValueError: absolute, with `.`, `..` or empty parts, too long or with odd characters."""
    if (size := len(key.encode())) > KEY_BYTES_MAX:
        raise ValueError(f"object key of {size} bytes, more than KEY_BYTES_MAX ({KEY_BYTES_MAX}): {key[:60]!r}…")
    for segment in key.split("/"):
        if (size := len(segment.encode())) > SEGMENT_BYTES_MAX:
            raise ValueError(
                f"a part of {size} bytes, more than SEGMENT_BYTES_MAX ({SEGMENT_BYTES_MAX}), "
                f"in object key {key[:120]!r}…"
            )
        if segment in ("", ".", "..") or not _SEGMENT.fullmatch(segment):
            raise ValueError(f"bad part {segment[:60]!r} in object key {key[:120]!r}")
    return key
