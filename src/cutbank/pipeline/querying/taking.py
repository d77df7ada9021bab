"""Takes the lines of a period out of the objects that claims name, into a database. Reads only.

Invariant: every line of every object that a claim of the period names is a row, or its object is in `Taken.troubles`;
an object that is not exactly as its claim says gives no rows. Objects are read a few ahead of what is loaded, as many
as `AHEAD_BYTES_MAX` and `AHEAD_MAX` allow; one is always read. Event-loop only; decoding and loading are in threads,
one step at a time.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from cutbank.errors import ObjectMissing, ObjectUnreadable, PartitionStopped, UsageError
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.querying.claimed import Claimed, ClaimedObject, Links, first_of, listed, read_claim
from cutbank.pipeline.querying.database import Database
from cutbank.pipeline.querying.loading import Loader
from cutbank.pipeline.querying.period import Period, Tail
from cutbank.pipeline.querying.tables import Table
from cutbank.pipeline.sinking.claims import ChainId, Layout
from cutbank.pipeline.sinking.inspect import chains
from cutbank.pipeline.sinking.rendering import CONTENT_BYTES_MAX, content, content_bytes_max, lines
from cutbank.records import Position

T = TypeVar("T")
R = TypeVar("R")

AHEAD_MAX = 16
"""Objects or claims that are read at once, ahead of what is loaded."""

AHEAD_BYTES_MAX = 64 << 20
"""Most bytes of lines of the objects that are read ahead; a larger object is read alone."""

OBJECTS_MAX = 500_000
"""Most objects of a query: what claims say of them is in memory."""

TROUBLES_MAX = 20
"""How many troubles are told one by one; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be taken."""

    pipelines: tuple[str, ...]
    streams: tuple[tuple[str, Table], ...]
    """Streams and the table that each becomes."""
    period: Period = field(default_factory=Period)
    read_bytes_max: int = 8 << 30
    """Most bytes of lines, uncompressed, that are read."""


class Trouble(NamedTuple):
    """An object whose lines are not in the tables."""

    key: str
    why: str


@dataclass(slots=True)
class Progress:
    """How far it is."""

    lines: int = 0
    bytes: int = 0
    bytes_max: int = 0


@dataclass(slots=True)
class Taken:
    """What was taken."""

    chains: int = 0
    objects: int = 0
    lines: int = 0
    """Read; those of other times are no rows."""
    rows: int = 0
    given_up: int = 0
    """Objects that were given up for lost by `accept_lost`."""
    troubles: list[Trouble] = field(default_factory=list)
    """The first `TROUBLES_MAX`."""
    troubles_count: int = 0

    def note(self, key: str, why: str) -> None:
        """One more trouble."""
        self.troubles_count += 1
        if len(self.troubles) < TROUBLES_MAX:
            self.troubles.append(Trouble(key, why))


async def take(
    store: ObjectStore, database: Database, request: Request, *, progress: Callable[[Progress], None]
) -> Taken:
    """Read the period. Raises UsageError (nothing of these pipelines, too much), and what the store raises."""
    found = [chain async for chain in chains(store)]
    taking = _Taking(store, database, request, progress)
    wanted = [
        (chain, table)
        for stream, table in request.streams
        for chain in found
        if chain.stream == stream and chain.pipeline in request.pipelines
    ]
    missing = [stream for stream, _ in request.streams if not any(chain.stream == stream for chain, _ in wanted)]
    if missing:
        raise UsageError(_nothing_of(store, request, missing, found))
    for chain, table in wanted:
        await taking.find(chain, table)
    await taking.load_all()
    return taking.taken


def _nothing_of(store: ObjectStore, request: Request, missing: Sequence[str], found: Sequence[ChainId]) -> str:
    there = sorted({f"{chain.pipeline}/{chain.stream}" for chain in found})
    shown = ", ".join(there[:10]) + (", …" if len(there) > 10 else "")
    return f"{store.url}: no objects of stream {', '.join(missing)} of pipeline {', '.join(request.pipelines)}; " + (
        f"there are: {shown}; --pipeline or --spec names another" if there else "no sink has written there yet"
    )


@dataclass(slots=True)
class _Chain:
    table: Table
    links: Links
    claims: list[Claimed]
    """Of the period's minutes."""
    rest: list[Position]
    """Starts of later claims."""


class _Taking:
    """One query's way through the chains."""

    def __init__(
        self, store: ObjectStore, database: Database, request: Request, progress: Callable[[Progress], None]
    ) -> None:
        self.taken = Taken()
        self._store = store
        self._request = request
        self._chains: list[_Chain] = []
        self._now = Progress()
        self._show = progress
        self._loaders = {table.name: Loader(database, table, request.period) for _, table in request.streams}
        self._late: list[tuple[Table, Claimed, ClaimedObject]] = []
        self._layouts: dict[Layout, Layout] = {}
        self._objects = 0

    async def find(self, chain: ChainId, table: Table) -> None:
        """The chain's claims of the period."""
        period = self._request.period
        links = await listed(self._store, chain, minute_first_ms=period.minute_first_ms)
        first = await first_of(self._store, links, minute_first_ms=period.minute_first_ms)
        kept = _Chain(table, links, [], [])
        self._chains.append(kept)
        self.taken.chains += 1
        starts = links.starts[first:]
        async with aclosing(_ahead(len(starts), lambda n: self._claim(links, starts[n]))) as claims:
            async for index, claim in claims:
                if claim is not None and not period.is_within(claim.minute_ms):
                    kept.rest = list(starts[index:])
                    return
                if claim is not None:
                    self._count(claim)
                    kept.claims.append(claim)

    async def load_all(self) -> None:
        """The objects' lines."""
        self._show(self._now)
        for chain in self._chains:
            items = [(claim, item) for claim in chain.claims for item in claim.objects]
            await self._load(chain.table, items)
            if chain.rest:
                await self._tail(chain)
        for table, claim, item in self._late:
            await self._load(table, [(claim, item)], again=True)
        for loader in self._loaders.values():
            await self._flush(loader)

    async def _tail(self, chain: _Chain) -> None:
        """Claims after the period, as long as they hold lines of it."""
        tail = Tail(self._request.period)
        loader = self._loaders[chain.table.name]
        await self._flush(loader)
        for start in chain.rest:
            claim = await self._claim(chain.links, start)
            if claim is None:
                continue
            if not tail.wants(claim.minute_ms):
                return
            self._count(claim)
            before = self.taken.rows
            await self._load(chain.table, [(claim, item) for item in claim.objects])
            await self._flush(loader)
            tail.was_read(claim.minute_ms, rows=self.taken.rows - before)

    async def _claim(self, links: Links, start: Position) -> Claimed | None:
        try:
            claim = await read_claim(self._store, links, start)
        except (PartitionStopped, ObjectMissing) as error:
            self.taken.note(links.chain.claim_key(start), f"unreadable claim: {error}")
            return None
        # Claims share their layouts, of which there are a few.
        return claim._replace(layout=self._layouts.setdefault(claim.layout, claim.layout))

    def _count(self, claim: Claimed) -> None:
        """Refuse what is too much, before it is read."""
        self._objects += len(claim.objects)
        self._now.bytes_max += sum(item.line_bytes for item in claim.objects)
        if self._now.bytes_max > self._request.read_bytes_max:
            raise UsageError(
                f"the period's objects hold more than --read-bytes-max {self._request.read_bytes_max:,} bytes of "
                "lines: bring --from and --to closer together, or raise it"
            )
        if self._objects > OBJECTS_MAX:
            raise UsageError(f"the period has more than {OBJECTS_MAX:,} objects: bring --from and --to closer together")

    async def _load(self, table: Table, items: list[tuple[Claimed, ClaimedObject]], *, again: bool = False) -> None:
        """The lines of these objects."""

        async def read(index: int) -> bytes | None:
            with suppress(ObjectMissing):
                return await self._store.read(items[index][1].key)
            return None

        sizes = [item.line_bytes for _, item in items]
        async with aclosing(_ahead(len(items), read, sizes)) as bodies:
            async for index, body in bodies:
                await self._take(table, *items[index], body, again=again)

    async def _take(
        self, table: Table, claim: Claimed, item: ClaimedObject, body: bytes | None, *, again: bool
    ) -> None:
        """The lines of one object."""
        if body is None:
            self._missing(table, claim, item, again=again)
            return
        text = await asyncio.to_thread(_lines_of, claim, item, body)
        if text is None:
            self.taken.note(item.key, "not as its claim says: `cutbank verify` says what was done to it")
            return
        loader = self._loaders[table.name]
        added = asyncio.to_thread(loader.add, text, minute_ms=claim.minute_ms)
        self.taken.rows += await to_its_end(added, loader.interrupt)
        self.taken.objects += 1
        self.taken.lines += item.count
        self._now.lines += item.count
        self._now.bytes += item.line_bytes
        self._show(self._now)

    async def _flush(self, loader: Loader) -> int:
        rows = await to_its_end(asyncio.to_thread(loader.flush), loader.interrupt)
        self.taken.rows += rows
        return rows

    def _missing(self, table: Table, claim: Claimed, item: ClaimedObject, *, again: bool) -> None:
        if claim.given_up:
            self.taken.given_up += 1
        elif claim.newest and not again:
            self._late.append((table, claim, item))  # its sink may be putting it just now
        elif claim.newest:
            self.taken.note(item.key, "not there yet: a sink at work puts it soon, a killed one when it starts again")
        else:
            self.taken.note(item.key, "missing")


def _lines_of(claim: Claimed, item: ClaimedObject, body: bytes) -> bytes | None:
    """The object's lines, with a line feed between them; None: they are not what the claim says."""
    layout = claim.layout
    most = min(content_bytes_max(layout, count=item.count, line_bytes=item.line_bytes), CONTENT_BYTES_MAX)
    try:
        inside = content(layout, body, bytes_max=most)
        if hashlib.sha256(inside).hexdigest() != (item.content_sha256 or item.sha256):
            return None
        return inside if layout.format == "ndjson" else b"\n".join(lines(layout, inside))
    except ObjectUnreadable:
        return None


async def to_its_end(work: Awaitable[R], interrupt: Callable[[], None]) -> R:
    """A thread's work; cancelled, it is ended before anybody closes what it works on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        interrupt()
        with suppress(Exception):
            await task
        raise


async def _ahead(
    count: int, read: Callable[[int], Awaitable[T]], sizes: Sequence[int] | None = None
) -> AsyncGenerator[tuple[int, T], None]:
    """What `read` gives for each index, in order, several at once; at least one, however large."""
    tasks: dict[int, asyncio.Future[T]] = {}
    held = following = 0
    try:
        for index in range(count):
            while following < count and len(tasks) < AHEAD_MAX:
                size = sizes[following] if sizes is not None else 0
                if tasks and held + size > AHEAD_BYTES_MAX:
                    break
                tasks[following] = asyncio.ensure_future(read(following))
                held += size
                following += 1
            found = await tasks[index]
            del tasks[index]
            held -= sizes[index] if sizes is not None else 0
            yield index, found
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
