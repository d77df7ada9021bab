"""Reads a chain's claims and objects ahead of whoever checks them, and gives them in their order.

Invariant: what comes, and in which order, is what reading one after the other would give; an error of a read comes
where its document or object would have come. Everything read and not yet handed back counts in one of two `Held`, so
memory does not grow with the chain: an object or claim that is larger than its limit is held alone.
Event-loop only; one task feeds, reads are tasks of their own, all of one TaskGroup; bodies are unpacked in a thread.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cutbank.errors import CutbankError, ObjectMissing, PartitionStopped
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.claims import Claim, DataObject, Lost, decode
from cutbank.pipeline.sinking.rendering import body_bytes_max, content_bytes_max
from cutbank.pipeline.verifying.listing import Listing
from cutbank.pipeline.verifying.quick import Unpacked, unpack
from cutbank.records import Position

AHEAD_BYTES_MAX = 96 << 20
"""Most bytes of objects, as stored and unpacked, that are read ahead, with the one that is being checked."""

CLAIMS_BYTES_MAX = 64 << 20
"""Most bytes of memory of claims that are read ahead, with the one that is being checked."""

AHEAD_MAX = 32
"""Most claims, and most objects, that are asked for ahead: on S3 each takes a round trip."""

SMALL_BYTES = 16 << 10
"""What is no larger is unpacked and looked into without a thread, which would take longer than it does."""

CLAIM_BYTES = 4 << 10
"""Memory of the smallest claim, decoded."""

ITEM_BYTES = 1 << 10
"""Memory that each object and mark adds to a claim, decoded."""

T = TypeVar("T")


class Held:
    """How many bytes are held, at most so many; what is larger is held alone. First come, first served; one waits."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.bytes_peak = 0
        self._bytes_max = bytes_max
        self._freed = asyncio.Event()

    async def take(self, count: int) -> None:
        """Wait until there is room for these."""
        while self.bytes and self.bytes + count > self._bytes_max:
            self._freed.clear()
            await self._freed.wait()
        self.add(count)

    def add(self, count: int) -> None:
        """So many more are held than was thought, whether there is room or not."""
        self.bytes += count
        self.bytes_peak = max(self.bytes_peak, self.bytes)

    def free(self, count: int) -> None:
        """These are done with."""
        self.bytes -= count
        self._freed.set()


@dataclass(frozen=True, slots=True)
class ReadClaim:
    """A claim, or why there is none."""

    start: Position
    claim: Claim | None
    why: str = ""
    lost: Lost | None = None
    lost_why: str = ""
    """Why its `.lost` mark can't be read."""


class Outcome(Generic[T]):
    """What a read has given, or the error that it has ended with."""

    def __init__(self, work: Awaitable[T]) -> None:
        self._work = work
        self._done = asyncio.Event()
        self._value: T
        self._error: CutbankError | None = None

    async def run(self) -> None:
        """The task: read."""
        try:
            self._value = await self._work
        except CutbankError as error:
            self._error = error
        self._done.set()

    async def get(self) -> T:
        """What was read. Raises what reading raised."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value


@dataclass(slots=True)
class ReadObject:
    """An object of the claim before it in the order."""

    ordinal: int
    item: DataObject
    weight: int
    """What it takes of `Ahead.objects`; more where it is larger than claimed."""
    unpacked: Outcome[Unpacked] = field(init=False)
    """Raises ObjectMissing, PartitionStopped (too large to be read) and what the store raises."""


@dataclass(frozen=True, slots=True)
class Whole:
    """All objects of a claim have come."""


Step = ReadClaim | ReadObject | Whole
"""A claim, its objects, `Whole`; where a claim can't be read only what says so."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """A read has ended with an error, here in the order."""

    error: CutbankError


async def read_claim(store: ObjectStore, listing: Listing, start: Position) -> ReadClaim:
    """One claim of a chain, with what was given up of it."""
    key = listing.chain.claim_key(start)
    try:
        claim = decode(await store.read(key), Claim, key=key)
    except (PartitionStopped, ObjectMissing) as error:
        return ReadClaim(start, None, str(error))
    if start not in listing.lost:
        return ReadClaim(start, claim)
    key = listing.chain.lost_key(start)
    try:
        return ReadClaim(start, claim, lost=decode(await store.read(key), Lost, key=key))
    except (PartitionStopped, ObjectMissing) as error:
        return ReadClaim(start, claim, lost_why=str(error))


class Ahead:
    """The claims of one chain from the index `first` on, up to before `to_ms`, each followed by its objects."""

    def __init__(
        self, store: ObjectStore, listing: Listing, *, first: int, to_ms: int | None, unpacker: Executor
    ) -> None:
        self.claims = Held(CLAIMS_BYTES_MAX)
        self.objects = Held(AHEAD_BYTES_MAX)
        self._store = store
        self._listing = listing
        self._first = first
        self._to_ms = to_ms
        self._unpacker = unpacker
        self._queue: asyncio.Queue[Step | _Failed | None] = asyncio.Queue(AHEAD_MAX)
        self._claims_ahead = AHEAD_MAX
        self._tasks: set[asyncio.Task[None]] = set()

    async def walk(self, take: Callable[[Step], Awaitable[None]]) -> None:
        """Give each step to `take`, which says what is done with by `claims.free` and `objects.free`.

        Raises what `take` and the store raise.
        """
        failure: CutbankError | None = None
        async with asyncio.TaskGroup() as group:
            self._spawn(group, self._feed(group))
            try:
                while (step := await self._queue.get()) is not None:
                    if isinstance(step, _Failed):
                        raise step.error
                    await take(step)
            except CutbankError as error:
                failure = error
            for task in self._tasks:
                task.cancel()
        if failure is not None:
            raise failure

    def _spawn(self, group: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
        task = group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _feed(self, group: asyncio.TaskGroup) -> None:
        try:
            async for read in self._claims_in_order(group):
                if read.claim is not None:
                    await self.claims.take(claim_weight(read.claim))
                await self._queue.put(read)
                if read.claim is not None:
                    await self._feed_objects(group, read.claim)
                    await self._queue.put(Whole())
        except CutbankError as error:
            await self._queue.put(_Failed(error))
        await self._queue.put(None)

    async def _claims_in_order(self, group: asyncio.TaskGroup) -> AsyncIterator[ReadClaim]:
        waiting: deque[Outcome[ReadClaim]] = deque()
        at, count = self._first, len(self._listing.starts)
        while True:
            while at < count and len(waiting) < self._claims_ahead:
                waiting.append(Outcome(read_claim(self._store, self._listing, self._listing.start(at))))
                self._spawn(group, waiting[-1].run())
                at += 1
            if not waiting:
                return
            read = await waiting.popleft().get()
            if read.claim is not None:
                if await self._is_past(read.claim, waiting[0] if waiting else None):
                    return
                # The next ones are about as large: together they may take half of what claims may.
                self._claims_ahead = max(1, min(AHEAD_MAX, CLAIMS_BYTES_MAX // 2 // claim_weight(read.claim)))
            yield read

    async def _is_past(self, claim: Claim, following: Outcome[ReadClaim] | None) -> bool:
        """Whether the scope ends before this claim; one that is of a later minute than the next proves nothing."""
        if self._to_ms is None or claim.minute_ms < self._to_ms:
            return False
        after = None if following is None else (await following.get()).claim
        return after is None or after.minute_ms >= self._to_ms

    async def _feed_objects(self, group: asyncio.TaskGroup, claim: Claim) -> None:
        for ordinal, item in enumerate(claim.objects):
            read = ReadObject(ordinal, item, object_weight(claim, item))
            await self.objects.take(read.weight)
            read.unpacked = Outcome(self._fetch(claim, read))
            self._spawn(group, read.unpacked.run())
            await self._queue.put(read)

    async def _fetch(self, claim: Claim, read: ReadObject) -> Unpacked:
        body = await self._store.read(read.item.key)
        self._outgrown(read, len(body))
        if len(body) <= SMALL_BYTES:
            found = unpack(claim, read.item, body)
        else:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._unpacker, unpack, claim, read.item, body)
        if found.inside is not None and found.inside is not body:
            self._outgrown(read, len(body) + len(found.inside))
        return found

    def _outgrown(self, read: ReadObject, count: int) -> None:
        """An object takes more than its claim says: nothing more is read until there is room for it."""
        if count > read.weight:
            self.objects.add(count - read.weight)
            read.weight = count


def claim_weight(claim: Claim) -> int:
    """Memory of a claim, about."""
    return CLAIM_BYTES + ITEM_BYTES * (len(claim.objects) + len(claim.marks_before) + len(claim.marks_after))


def object_weight(claim: Claim, item: DataObject) -> int:
    """Memory of an object that is as claimed, at most: its body, and what is in it where that is not the same."""
    layout = claim.layout
    inside = content_bytes_max(layout, count=item.count, line_bytes=item.line_bytes)
    if layout.compression == "none":
        return inside
    return inside + body_bytes_max(layout, count=item.count, line_bytes=item.line_bytes)
