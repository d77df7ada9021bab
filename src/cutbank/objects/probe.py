"""Checks by doing it that a store keeps the promises that the chain of claims stands on.

Works on the protocol alone, so every store uses it. Leaves nothing behind, unless deleting is not permitted, which
the sink does not need. Event-loop only; any number of probes may run at once.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

from cutbank.errors import AlreadyExists, CutbankError, StoreRefused
from cutbank.objects.base import ObjectStore

PROBE_PREFIX = "_cutbank/_probe/"
"""Where probes lie while they last. No pipeline's name begins with an underscore."""

CREATORS = 8
"""How many create the same key at once."""


async def probe_store(
    store: ObjectStore,
    *,
    put: Callable[[str, bytes], Awaitable[None]] | None = None,
    deletes: bool = False,
    accept_overwrite: bool = False,
) -> bool:
    """Create one key from several tasks at once, read it, find it by listing, delete it.

    `put`: how to create, where that is not `store.create`. `deletes`: deleting must be permitted. `accept_overwrite`:
    a store that ignores create-only puts is taken. Whether they work here.

    Raises StoreRefused when the store keeps a promise less, and what its calls raise (StoreRefused names the missing
    permission; StoreUnavailable: ask again).
    """
    key = PROBE_PREFIX + secrets.token_hex(16)
    bodies = [b"probe %d" % number for number in range(CREATORS)]
    try:
        won = await _race(put or store.create, key, bodies)
        if len(won) != 1 and not (won and accept_overwrite):
            raise StoreRefused(
                f"{store.url} ignores create-only puts: {len(won)} of {CREATORS} creators of one key succeeded. "
                "Use a store that honours them (S3: If-None-Match), else anomalies could be lost or doubled"
            )
        if await store.read(key) not in won:
            raise StoreRefused(f"{store.url}: a new object's body is not its creator's; use another store")
        if not await store.exists(key) or key not in [info.key async for info in store.list(key)]:
            raise StoreRefused(f"{store.url}: a new object is not listed at once; use a store with consistent listings")
    except BaseException:
        with suppress(CutbankError):
            await store.delete(key)
        raise
    try:
        await store.delete(key)
    except StoreRefused:
        # A sink without the right to delete is a good idea; a probe of a few bytes may stay then.
        if deletes:
            raise
    return len(won) == 1


async def _race(put: Callable[[str, bytes], Awaitable[None]], key: str, bodies: list[bytes]) -> list[bytes]:
    """Create `key` with every body at once; the bodies that won."""
    answers = await asyncio.gather(*(put(key, body) for body in bodies), return_exceptions=True)
    for answer in answers:
        if answer is not None and not isinstance(answer, AlreadyExists):
            raise answer
    return [body for body, answer in zip(bodies, answers, strict=True) if answer is None]
