"""Reads what sinks have written, for audits: chains of claims, and the objects beside them. Reads only.

Shares nothing with a running sink but the documents' format. Memory: one position a claim of one partition, one
document at a time. Event-loop only; any number of readers.
"""

from collections.abc import AsyncIterator

from cutbank.objects.base import ObjectInfo, ObjectStore
from cutbank.pipeline.sinking.claims import (
    CLAIMS_ROOT,
    Birth,
    ChainId,
    Claim,
    Link,
    Lost,
    decode,
    link_from_key,
    pipeline_prefix,
)
from cutbank.records import Position

_PAST_CLAIMS = CLAIMS_ROOT + "\U0010ffff"
"""After every claim and before every other key: a listing goes on after it."""


async def links(store: ObjectStore, pipeline: str | None = None) -> AsyncIterator[tuple[str, Link | None]]:
    """Every key among the claims (of one pipeline) with what it names, in key order; None: nothing of ours."""
    prefix = CLAIMS_ROOT if pipeline is None else pipeline_prefix(pipeline)
    async for info in store.list(prefix):
        yield info.key, link_from_key(info.key)


async def chains(store: ObjectStore, pipeline: str | None = None) -> AsyncIterator[ChainId]:
    """Every chain, in key order, each once."""
    last = None
    async for _, link in links(store, pipeline):
        if link is not None and link.chain != last:
            last = link.chain
            yield last


async def birth(store: ObjectStore, chain: ChainId) -> Birth:
    """A chain's birth. Raises ObjectMissing, PartitionStopped (unreadable), and what the store raises."""
    return decode(await store.read(chain.birth_key), Birth, key=chain.birth_key)


async def chain_claims(store: ObjectStore, chain: ChainId) -> AsyncIterator[Claim]:
    """A chain's claims, oldest first, as they are: that each starts where the one before ended is not checked here.

    Raises PartitionStopped for an unreadable one, and what the store raises.
    """
    starts: list[Position] = []
    async for info in store.list(chain.prefix):
        link = link_from_key(info.key)
        if link is not None and link.kind == "claim" and link.start is not None:
            starts.append(link.start)
    for start in reversed(starts):
        key = chain.claim_key(start)
        yield decode(await store.read(key), Claim, key=key)


async def claims(store: ObjectStore, pipeline: str | None = None) -> AsyncIterator[Claim]:
    """All claims, chain by chain, each chain oldest first; births and `.lost` marks left out."""
    async for chain in chains(store, pipeline):
        async for claim in chain_claims(store, chain):
            yield claim


async def losses(store: ObjectStore, pipeline: str | None = None) -> AsyncIterator[Lost]:
    """Everything that was given up for lost by an explicit setting."""
    async for key, link in links(store, pipeline):
        if link is not None and link.kind == "lost":
            yield decode(await store.read(key), Lost, key=key)


async def data_objects(store: ObjectStore) -> AsyncIterator[ObjectInfo]:
    """Everything below the root that is not among the claims, in key order."""
    async for info in store.list(""):
        if info.key.startswith(CLAIMS_ROOT):
            break
        yield info
    async for info in store.list("", after=_PAST_CLAIMS):
        yield info
