"""Claims as a query needs them: which objects, of which minute, in which layout. Finds those of a period. Reads only.

Minutes only go up along a chain, so a period begins at a place that is found by halving. Event-loop only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cutbank.errors import ObjectMissing, PartitionStopped
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.claims import ChainId, Claim, Layout, decode, link_from_key
from cutbank.records import Position

LOOK_FIRST = 64
"""After so many claims of a listing, and after each doubling, one is read: a listing ends where the period begins."""


@dataclass(frozen=True, slots=True)
class ClaimedObject:
    """What a claim says of an object."""

    key: str
    count: int
    line_bytes: int
    sha256: str
    content_sha256: str | None


class Claimed(NamedTuple):
    """A claim's objects; a tenth of the claim in memory."""

    minute_ms: int
    layout: Layout
    objects: tuple[ClaimedObject, ...]
    given_up: bool
    """Whether somebody accepted that objects of it are lost."""
    newest: bool
    """Whether its objects may still be on their way."""


@dataclass(frozen=True, slots=True)
class Links:
    """A chain's claims, oldest first, as far back as was asked for."""

    chain: ChainId
    starts: Sequence[Position]
    given_up: frozenset[Position]


async def listed(store: ObjectStore, chain: ChainId, *, minute_first_ms: int | None) -> Links:
    """The chain's claims; a listing gives the newest first and ends soon after the first minute that is wanted."""
    starts: list[Position] = []
    given_up: set[Position] = set()
    look_at = LOOK_FIRST
    async for info in store.list(chain.prefix):
        link = link_from_key(info.key)
        if link is None or link.start is None:
            continue
        if link.kind == "lost":
            given_up.add(link.start)
            continue
        starts.append(link.start)
        if minute_first_ms is not None and len(starts) == look_at:
            look_at *= 2
            minute = await _minute(store, chain, link.start)
            if minute is not None and minute < minute_first_ms:
                break
    starts.reverse()
    return Links(chain, starts, frozenset(given_up))


async def first_of(store: ObjectStore, links: Links, *, minute_first_ms: int | None) -> int:
    """The index of the first claim of this minute or later; of one that can't be read the minute is unknown."""
    low, high = 0, len(links.starts)
    while minute_first_ms is not None and low < high:
        middle = (low + high) // 2
        minute = await _minute(store, links.chain, links.starts[middle])
        if minute is None:
            break
        if minute < minute_first_ms:
            low = middle + 1
        else:
            high = middle
    return low


async def read_claim(store: ObjectStore, links: Links, start: Position) -> Claimed:
    """One claim. Raises PartitionStopped, ObjectMissing."""
    key = links.chain.claim_key(start)
    claim = decode(await store.read(key), Claim, key=key)
    return Claimed(
        minute_ms=claim.minute_ms,
        layout=claim.layout,
        objects=tuple(
            ClaimedObject(item.key, item.count, item.line_bytes, item.sha256, item.content_sha256)
            for item in claim.objects
        ),
        given_up=start in links.given_up,
        newest=start == links.starts[-1],
    )


async def _minute(store: ObjectStore, chain: ChainId, start: Position) -> int | None:
    key = chain.claim_key(start)
    try:
        return decode(await store.read(key), Claim, key=key).minute_ms
    except (PartitionStopped, ObjectMissing):
        return None
