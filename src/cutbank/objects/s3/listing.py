"""Lists the keys below a prefix in the order of their UTF-8 bytes, a page at a time. Owns nothing.

Amazon's S3 lists in that order. SeaweedFS walks folders, so that `a/b` comes before `a-b`; there each folder is listed
by itself, and its turn among its siblings comes by `name/`. Invariant: a key that comes out of order is never passed
on. Memory: a page for each level of folders, and of a page what the next one may still come before.
Event-loop only.
"""

import heapq
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from cutbank.errors import StoreRefused


@dataclass(frozen=True, slots=True)
class Page:
    """One answer; keys are whole, as the bucket has them."""

    objects: tuple[tuple[str, int], ...]
    """Key and bytes."""
    folders: tuple[str, ...]
    """With their slashes; only where folders were asked for."""
    token: str
    """What to ask the next page with; empty: there is none."""
    server: str
    """As it calls itself."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one page is asked for."""

    prefix: str
    after: str = ""
    token: str = ""
    by_folder: bool = False


Ask: TypeAlias = Callable[[Question], Awaitable[Page]]


async def flat(ask: Ask, *, prefix: str, after: str, url: str) -> AsyncIterator[Page]:
    """Pages in the order of whole keys, as the store gives them. Raises StoreRefused: it gives them in another one."""
    last, token, more = after.encode(), "", True
    while more:
        page = await ask(Question(prefix=prefix, after="" if token else after, token=token))
        for key, _ in page.objects:
            if key.encode() <= last:
                raise StoreRefused(
                    f"{url}: the store does not list keys in the order of their bytes ({key!r} came late): set "
                    "listing=folders in the URL"
                )
            last = key.encode()
        yield page
        token = page.token
        more = bool(token)


async def by_folders(ask: Ask, *, prefix: str, after: str, base: str) -> AsyncIterator[tuple[str, int]]:
    """Keys and sizes below folder `base` (with its slash, or empty), each folder in its turn."""
    waiting: list[tuple[bytes, str, int]] = []
    token, more = "", True
    # Asked with what the prefix says of this folder, so that of a large one only what is wanted comes.
    wanted = prefix if len(prefix) > len(base) and "/" not in prefix[len(base) :] else base
    while more:
        page = await ask(Question(prefix=wanted, token=token, by_folder=True))
        for key, size in page.objects:
            heapq.heappush(waiting, (key.encode(), key, size))
        for folder in page.folders:
            heapq.heappush(waiting, (folder.encode(), folder, -1))
        token = page.token
        more = bool(token)
        names = [*(key for key, _ in page.objects), *(folder.rstrip("/") for folder in page.folders)]
        # What is still to come has a later name, and so comes after every key up to this one.
        safe = max((name.encode() for name in names), default=b"")
        while waiting and (not more or waiting[0][0] <= safe):
            _, key, size = heapq.heappop(waiting)
            if size >= 0:
                if key.startswith(prefix) and key > after:
                    yield key, size
            elif (key.startswith(prefix) or prefix.startswith(key)) and (key > after or after.startswith(key)):
                async for found in by_folders(ask, prefix=prefix, after=after, base=key):
                    yield found
