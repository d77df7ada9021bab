"""One partition's chain of claims in a store: finds its newest link, appends the next, puts and counts its objects.

Invariant, kept by the order of calls: claim first, then the objects that it names, and the next claim only when all
of them are there. So only the newest claim can be unfinished, and anybody may finish it.
Owns keys below its prefix and the data objects that its claims name; holds no state, so any number may work on one
chain: the create-only put decides. Event-loop only; waits out an unavailable store.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from cutbank.errors import AlreadyExists, ObjectMissing, PartitionStopped, StoreUnavailable
from cutbank.metrics import Metrics
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.claims import (
    Birth,
    ChainId,
    Claim,
    DataObject,
    Lost,
    decode,
    encode,
    link_from_key,
)
from cutbank.pipeline.sinking.patience import Patience, together
from cutbank.pipeline.sinking.rendering import is_content_of
from cutbank.records import Position

log = structlog.get_logger(__name__)

OBJECTS_AT_ONCE_MAX = 16
"""Objects of one claim that are put, or looked up, at a time."""


class Chain:
    """A chain as the store has it. Every call raises Interrupted, StoreRefused; those that read, PartitionStopped."""

    def __init__(self, store: ObjectStore, chain: ChainId, *, patience: Patience, metrics: Metrics) -> None:
        self.id = chain
        self._store = store
        self._patience = patience
        self._metrics = metrics

    async def birth(self) -> Birth | None:
        """The chain's birth; None: there is none."""
        return await self._birth_of(self.id)

    async def sibling_birth(self, partition: str) -> Birth | None:
        """The birth of the chain of another partition of the same stream; None: there is none."""
        return await self._birth_of(self.id._replace(partition=partition))

    async def _birth_of(self, chain: ChainId) -> Birth | None:
        key = chain.birth_key
        if not await self._patience.store(lambda: self._store.exists(key), operation="look up birth"):
            return None
        body = await self._patience.store(lambda: self._found(key), operation="read birth")
        return decode(body, Birth, key=key)

    async def bear(self, *, start: Position, identity: str) -> Birth:
        """Begin the chain, or find that somebody has: the birth that counts."""
        chain = self.id
        birth = Birth(
            pipeline=chain.pipeline, stream=chain.stream, partition=chain.partition, start=start, identity=identity
        )
        body = await self._decide(birth.key, encode(birth), operation="create birth")
        return decode(body, Birth, key=birth.key)

    async def newest(self) -> Claim | None:
        """The newest claim; None: there is none."""
        key = await self._patience.store(self._newest_key, operation="list claims")
        if key is None:
            return None
        # `exists` makes a name durable whose creator died before it could: what is built upon must not vanish.
        await self._patience.store(lambda: self._store.exists(key), operation="look up claim")
        body = await self._patience.store(lambda: self._found(key), operation="read claim")
        return decode(body, Claim, key=key)

    async def append(self, claim: Claim) -> Claim:
        """Continue the chain with this claim, unless it is continued already: the claim that counts."""
        ours = encode(claim)
        body = await self._decide(claim.key, ours, operation="create claim")
        if body == ours:
            self._metrics.add("cutbank_claims_created_total")
            return claim
        self._metrics.add("cutbank_claims_adopted_total")
        adopted = decode(body, Claim, key=claim.key)
        log.info("claim adopted", chain=str(self.id), start=claim.start, end=adopted.end)
        return adopted

    async def missing(self, claim: Claim) -> list[DataObject]:
        """The claim's objects that are not there yet."""

        async def there(item: DataObject) -> bool:
            return await self._patience.store(lambda: self._store.exists(item.key), operation="look up object")

        found = await together([partial(there, item) for item in claim.objects], at_once=OBJECTS_AT_ONCE_MAX)
        return [item for item, is_there in zip(claim.objects, found, strict=True) if not is_there]

    async def put(self, claim: Claim, bodies: Sequence[bytes]) -> None:
        """Put the claim's objects; one that is there stays. `bodies` are in the order of the claim's objects.

        Raises PartitionStopped when what is there is not the claim's: of a chain whose claims were removed, say.
        """
        puts = [partial(self._put, claim, item, body) for item, body in zip(claim.objects, bodies, strict=True)]
        await together(puts, at_once=OBJECTS_AT_ONCE_MAX)

    async def _put(self, claim: Claim, item: DataObject, body: bytes) -> None:
        try:
            await self._create(item.key, body, operation="create object")
        except AlreadyExists:
            await self._check_same(claim, item, body)
            return
        self._metrics.add("cutbank_objects_created_total")
        self._metrics.add("cutbank_object_bytes_total", len(body))
        log.info("object created", key=item.key, records=item.count, bytes=len(body))

    async def _check_same(self, claim: Claim, item: DataObject, body: bytes) -> None:
        there = await self._patience.store(lambda: self._found(item.key), operation="read object")
        # Another zlib may have packed the same content into other bytes.
        if there != body and not await asyncio.to_thread(is_content_of, claim.layout, item, there):
            raise PartitionStopped(
                f"{self.id}: object {item.key} is there with other content than its claim says; "
                "move it out of the way (it belongs to another chain, or was changed), and restart"
            )

    async def is_lost(self, claim: Claim) -> bool:
        """Whether somebody has said that the claim's missing objects are lost."""
        key = self.id.lost_key(claim.start)
        return await self._patience.store(lambda: self._store.exists(key), operation="look up loss")

    async def give_up(self, claim: Claim, *, missing: Sequence[DataObject], why: str) -> None:
        """Say that the missing objects are lost."""
        lost = Lost(
            pipeline=claim.pipeline,
            stream=claim.stream,
            partition=claim.partition,
            start=claim.start,
            end=claim.end,
            missing=tuple(item.key for item in missing),
            why=why,
        )
        await self._decide(lost.key, encode(lost), operation="create loss")

    async def _newest_key(self) -> str | None:
        async for info in self._store.list(self.id.prefix):
            link = link_from_key(info.key)
            if link is not None and link.kind == "claim":
                return info.key
        return None

    async def _create(self, key: str, body: bytes, *, operation: str) -> None:
        await self._patience.store(lambda: self._store.create(key, body), operation=operation)

    async def _decide(self, key: str, body: bytes, *, operation: str) -> bytes:
        """Create the document unless it is there: the body that counts, ours or another's."""
        try:
            await self._create(key, body, operation=operation)
        except AlreadyExists:
            return await self._patience.store(lambda: self._found(key), operation=f"{operation}: read")
        return body

    async def _found(self, key: str) -> bytes:
        try:
            return await self._store.read(key)
        except ObjectMissing as error:
            raise StoreUnavailable(f"{key} is there and not there: {error}") from error
