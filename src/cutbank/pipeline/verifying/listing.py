"""What lies among the claims of a root: every chain with the starts of its claims, from one listing.

Memory: 8 bytes for each claim (a Python number where positions do not fit 64 bits), a few hundred for each chain.
Event-loop only; one task. Reads no document.
"""

from array import array
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, field

from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.claims import CLAIMS_ROOT, ChainId, Link, link_from_key
from cutbank.records import Position

TOLD_EVERY = 1000
"""Keys after which the listing says how far it is; a page of S3's."""

PROBES = f"{CLAIMS_ROOT}_probe/"
"""Where a sink that starts leaves files for a moment."""


@dataclass(slots=True)
class Listing:
    """What a chain's folder holds."""

    chain: ChainId
    born: bool = False
    starts: MutableSequence[int] = field(default_factory=lambda: array("Q"))
    """Of claims, increasing."""
    lost: set[Position] = field(default_factory=set)
    """Starts of claims of which somebody has given up objects or records."""

    def start(self, index: int) -> Position:
        """Of one claim."""
        return Position(self.starts[index])

    def has(self, start: Position) -> bool:
        """Whether a claim starts there."""
        return start in self.starts

    def add(self, link: Link) -> None:
        """One more document."""
        if link.start is None:
            self.born = True
        elif link.kind == "lost":
            self.lost.add(link.start)
        else:
            try:
                self.starts.append(link.start)
            except OverflowError:  # Kinesis: 256 bits
                self.starts = [*self.starts, link.start]


async def list_chains(
    store: ObjectStore, *, foreign: Callable[[str], None], told: Callable[[int], None]
) -> dict[ChainId, Listing]:
    """Every chain, in key order. `foreign` gets each key that is no document's, `told` the count of claims so far."""
    found: dict[ChainId, Listing] = {}
    claims = 0
    async for info in store.list(CLAIMS_ROOT):
        link = link_from_key(info.key)
        if link is None:
            if not info.key.startswith(PROBES):
                foreign(info.key)
            continue
        found.setdefault(link.chain, Listing(link.chain)).add(link)
        claims += link.kind == "claim"
        if claims % TOLD_EVERY == 0:
            told(claims)
    for listing in found.values():
        listing.starts.reverse()  # a listing gives the newest first
    return found
