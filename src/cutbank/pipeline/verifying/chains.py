"""Walks one chain of claims and proves it: whole, every object as claimed, no anomaly twice.

The proof that nothing is there twice needs no list of what was seen: within a chain the anomalies of a source
partition only go up, so each claim's must lie above the highest of the claims before it. Across chains, the first and
the last of each source partition tell whether two of them interleave.

Memory: a position for each claim of the chain, one claim, one of its objects with its lines, the identities of the
claim's anomalies, and a mark for each source partition. Event-loop only; one task.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from cutbank.errors import ObjectMissing, PartitionStopped, UsageError
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.findings import Findings
from cutbank.pipeline.sinking.claims import (
    MARKS_MAX,
    Birth,
    ChainId,
    Claim,
    DataObject,
    Lost,
    Mark,
    decode,
    link_from_key,
)
from cutbank.pipeline.sinking.layout import object_key
from cutbank.pipeline.sinking.lines import Line, Source
from cutbank.pipeline.sinking.prefix import REST
from cutbank.pipeline.verifying.contents import Content, examine
from cutbank.pipeline.verifying.faults import ChainAccount, Fault
from cutbank.pipeline.verifying.index import digest_of
from cutbank.records import Position, position_text

Key = tuple[int, Position, int]
"""An anomaly within its source partition: run, position, ordinal."""

NOTHING: Key = (-1, Position(0), 0)
"""Before every anomaly."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which claims are audited: of the minutes from `from_ms` to before `to_ms`, ms since the epoch; None: all."""

    from_ms: int | None = None
    to_ms: int | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.from_ms is None and self.to_ms is None


@dataclass(slots=True)
class Listing:
    """What a chain's folder holds."""

    born: bool = False
    starts: list[Position] = field(default_factory=list)
    """Of claims, increasing."""
    lost: set[Position] = field(default_factory=set)
    """Starts of claims of which somebody has given up objects or records."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A claim that was looked at, for whoever wants to know more."""

    claim: Claim
    minute_before_ms: int | None
    """Of the claim before it; 0 for a chain's first one; None where the chain is not whole there."""
    anomalies: Sequence[tuple[Source, bytes]]
    """The claim's own pipeline's, with the digests of their lines; of those objects that are as claimed."""
    given_up: bool


class Observer(Protocol):
    """Who wants to know more of the claims that are looked at."""

    def begin(self, before: Claim) -> None:
        """The last claim before the span of time that is audited, if there is one."""
        ...

    async def observe(self, examined: Examined) -> None:
        """A claim was looked at; they come in order."""
        ...


@dataclass(slots=True)
class Extent:
    """Where the anomalies of one source partition begin and end in one chain."""

    chain: ChainId
    first: Key
    last: Key


async def list_chain(store: ObjectStore, chain: ChainId) -> Listing:
    """List a chain's folder."""
    found = Listing()
    async for info in store.list(chain.prefix):
        link = link_from_key(info.key)
        if link is None:
            continue
        if link.kind == "birth":
            found.born = True
        elif link.start is not None and link.kind == "claim":
            found.starts.append(link.start)
        elif link.start is not None:
            found.lost.add(link.start)
    found.starts.reverse()  # a listing gives the newest first
    return found


class ChainAudit:
    """One chain, from its first claim in scope on."""

    def __init__(
        self,
        store: ObjectStore,
        chain: ChainId,
        *,
        scope: Scope,
        findings: Findings[Fault],
        observer: Observer | None,
        clocks_apart_ms: int,
    ) -> None:
        self.account = ChainAccount(chain)
        self.missing: dict[str, DataObject] = {}
        """Objects that are not there, by key."""
        self.extents: dict[tuple[str, str], Extent] = {}
        """By pipeline and source partition."""
        self.unreadable: set[Position] = set()
        """Starts of claims that can't be read."""
        self.end: Position | None = None
        """Where the last claim that could be read ended, or the birth's start."""
        self._store = store
        self._chain = chain
        self._scope = scope
        self._findings = findings
        self._observer = observer
        self._clocks_apart_ms = clocks_apart_ms
        self._before: Claim | None = None
        self._linked = True
        self._marks: dict[str, Key] = {}

    async def run(self, *, listed: Callable[[int], None], after_claim: Callable[[Claim], None]) -> None:
        """Audit it; `listed` is told how many claims there are at most, `after_claim` of each that was read."""
        listing = await list_chain(self._store, self._chain)
        start = await self._birth(listing)
        first = await self._first_in_scope(listing)
        if first > 0:
            self._before = await self._claim(listing.starts[first - 1])
            self._linked = self._before is not None
            self.end = None if self._before is None else self._before.end
            if self._before is not None:
                self._marks = as_keys(self._before.marks_after)
                if self._observer is not None:
                    self._observer.begin(self._before)
        elif self._scope.from_ms is None or listing.starts[:1] == [start]:
            self.end = start
            self._linked = start is not None
        else:
            self._linked = False  # what came before the scope may have expired
        listed(len(listing.starts) - first)
        if self._scope.whole:
            for nowhere in sorted(listing.lost - set(listing.starts)):
                self._findings.note(Fault.FOREIGN_FILE, self._chain.lost_key(nowhere))
        for at in range(first, len(listing.starts)):
            claim = await self._claim(listing.starts[at])
            if claim is None:
                self.unreadable.add(listing.starts[at])
                self._linked = False
                continue
            if await self._is_past(claim, listing.starts[at + 1 : at + 2]):
                return
            await self._take(claim, await self._lost(claim) if claim.start in listing.lost else None)
            after_claim(claim)

    async def _birth(self, listing: Listing) -> Position | None:
        """Where the chain begins."""
        key = self._chain.birth_key
        if not listing.born:
            self._findings.note(Fault.MISSING_BIRTH, key)
            return None
        try:
            return decode(await self._store.read(key), Birth, key=key).start
        except (PartitionStopped, ObjectMissing) as error:
            self._findings.note(Fault.UNREADABLE_CLAIM, str(error))
            return None

    async def _claim(self, start: Position) -> Claim | None:
        key = self._chain.claim_key(start)
        try:
            return decode(await self._store.read(key), Claim, key=key)
        except (PartitionStopped, ObjectMissing) as error:
            self._findings.note(Fault.UNREADABLE_CLAIM, str(error))
            return None

    async def _first_in_scope(self, listing: Listing) -> int:
        """The index of the first claim whose minute is in scope: minutes only go up along a chain."""
        if self._scope.from_ms is None:
            return 0
        low, high = 0, len(listing.starts)
        while low < high:
            middle = (low + high) // 2
            key = self._chain.claim_key(listing.starts[middle])
            try:
                claim = decode(await self._store.read(key), Claim, key=key)
            except (PartitionStopped, ObjectMissing):
                # Its minute is unknown: everything from the lowest that may be in scope on is looked at.
                return low
            if claim.minute_ms < self._scope.from_ms:
                low = middle + 1
            else:
                high = middle
        return low

    async def _is_past(self, claim: Claim, following: Sequence[Position]) -> bool:
        """Whether the scope ends before this claim; one that is of a later minute than the next proves nothing."""
        to_ms = self._scope.to_ms
        if to_ms is None or claim.minute_ms < to_ms:
            return False
        for start in following:
            key = self._chain.claim_key(start)
            try:
                return decode(await self._store.read(key), Claim, key=key).minute_ms >= to_ms
            except (PartitionStopped, ObjectMissing):
                return True
        return True

    async def _lost(self, claim: Claim) -> Lost | None:
        """What of a claim was given up."""
        key = self._chain.lost_key(claim.start)
        try:
            return decode(await self._store.read(key), Lost, key=key)
        except (PartitionStopped, ObjectMissing) as error:
            self._findings.note(Fault.UNREADABLE_CLAIM, str(error))
            return None

    async def _take(self, claim: Claim, lost: Lost | None) -> None:
        overlaps = self._link(claim)
        given_up = lost is not None or not claim.objects
        self.account.claims += 1
        self.account.given_up += given_up
        if self.account.minute_first_ms is None:
            self.account.minute_first_ms = claim.minute_ms
        self.account.minute_last_ms = claim.minute_ms
        excused = frozenset() if lost is None else frozenset(lost.missing)
        anomalies, clean = await self._objects(claim, excused=excused, overlaps=overlaps)
        self._advance(claim, anomalies, clean=clean and not overlaps)
        if self._observer is not None:
            minute_ms = 0 if self._before is None else self._before.minute_ms
            await self._observer.observe(Examined(claim, minute_ms if self._linked else None, anomalies, given_up))
        self._before, self._linked = claim, True

    def _link(self, claim: Claim) -> bool:
        """Check that it follows from the claim before it; whether it begins before that one ended."""
        where = f"{claim.key}: {position_text(claim.start)} to {position_text(claim.end)}"
        end, self.end = self.end, claim.end if self.end is None else max(self.end, claim.end)
        if end is not None and claim.start < end:
            self._findings.note(Fault.OVERLAPPING_CLAIMS, f"{where}, the one before ends at {position_text(end)}")
            return True
        if end is not None and claim.start > end and self._linked:
            self._findings.note(Fault.MISSING_CLAIM, f"{where}, the one before ends at {position_text(end)}")
            self._linked = False
        if self._before is not None and claim.minute_ms < self._before.minute_ms:
            self._findings.note(Fault.WRONG_MINUTE, f"{where} is of an earlier minute than the claim before it")
        if not self._linked:
            self._raise(claim.marks_before)  # of what was before nothing else is known
        elif not _same_marks(self._marks, as_keys(claim.marks_before)):
            self._findings.note(Fault.WRONG_MARKS, f"{where}: on entry")
        return False

    async def _objects(
        self, claim: Claim, *, excused: frozenset[str], overlaps: bool
    ) -> tuple[list[tuple[Source, bytes]], bool]:
        """The anomalies of its objects, and whether every object is as claimed."""
        anomalies: list[tuple[Source, bytes]] = []
        clean = True
        seen: set[Source] = set()
        for ordinal, item in enumerate(claim.objects):
            if not overlaps:
                self._name(claim, item, ordinal)
            try:
                body = await self._store.read(item.key)
            except ObjectMissing:
                clean = False
                if item.key not in excused:
                    self.missing[item.key] = item
                continue
            except PartitionStopped as error:  # too large to be read
                clean = False
                self._findings.note(Fault.CHANGED_BYTE, str(error))
                continue
            self.account.objects += 1
            self.account.bytes += len(body)
            look = partial(examine, expelled=_expelled(claim), clocks_apart_ms=self._clocks_apart_ms)
            found = await asyncio.to_thread(look, claim, item, body)
            clean = self._note(item, found) and clean
            for number, line in enumerate(found.lines, 1):
                if self._is_ours(claim, line, f"{item.key} line {number}", seen=seen, overlaps=overlaps):
                    assert line.source is not None, "ours have one"
                    anomalies.append((line.source, b"" if self._observer is None else digest_of(line.text)))
        return anomalies, clean

    def _name(self, claim: Claim, item: DataObject, ordinal: int) -> None:
        """Check that an object's key is that of its claim's minute."""
        value = ""
        if claim.layout.partition_keys:
            values = claim.partition_values
            value = values[ordinal] if ordinal < len(values) else REST
        try:
            wanted = object_key(
                claim.chain,
                claim.layout,
                start=claim.start,
                minute_ms=claim.minute_ms,
                ordinal=ordinal,
                value=value,
            )
        except UsageError as error:
            self._findings.note(Fault.UNREADABLE_CLAIM, f"{claim.key}: {error}")
            return
        if item.key != wanted:
            same_name = item.key.rpartition("/")[2] == wanted.rpartition("/")[2]
            fault = Fault.WRONG_MINUTE if same_name else Fault.WRONG_NAME
            self._findings.note(fault, f"{item.key}: by its claim it is {wanted}")

    def _note(self, item: DataObject, found: Content) -> bool:
        """Whether the object is as claimed."""
        if found.fault is not None:
            self._findings.note(found.fault, f"{item.key}: {found.detail}")
            return False
        for fault, detail in found.notes:
            self._findings.note(fault, f"{item.key}: {detail}")
        self.account.lines += len(found.lines)
        return True

    def _is_ours(self, claim: Claim, line: Line, where: str, *, seen: set[Source], overlaps: bool) -> bool:
        """Whether a line is an anomaly of the claim's pipeline; says so if it is there a second time."""
        source = line.source
        if source is None:
            self.account.unidentified += 1
            return False
        if source.pipeline != claim.pipeline:
            self._findings.note(Fault.FOREIGN_LINE, f"{where}: {source.pipeline}")
            return False
        mark = self._marks.get(source.partition)
        if source in seen or (not overlaps and mark is not None and source[2:] <= mark):
            self._findings.note(Fault.DOUBLED_LINE, f"{where}: {source.partition} {position_text(source.position)}")
        seen.add(source)
        return True

    def _advance(self, claim: Claim, anomalies: Sequence[tuple[Source, bytes]], *, clean: bool) -> None:
        """The marks at the claim's end: from its lines, and as it says; they have to be the same."""
        for source, _ in anomalies:
            key: Key = source[2:]
            self._marks[source.partition] = max(self._marks.get(source.partition, key), key)
            extent = self.extents.setdefault((source.pipeline, source.partition), Extent(self._chain, key, key))
            extent.first, extent.last = min(extent.first, key), max(extent.last, key)
        if not clean:
            self._raise(claim.marks_after)  # the lines are not all known: the claim says where they ended
        elif not _same_marks(self._marks, as_keys(claim.marks_after)):
            self._findings.note(Fault.WRONG_MARKS, f"{claim.key}: at its end")

    def _raise(self, marks: Sequence[Mark]) -> None:
        for partition, key in as_keys(marks).items():
            self._marks[partition] = max(self._marks.get(partition, key), key)


def as_keys(marks: Sequence[Mark]) -> dict[str, Key]:
    """Marks by source partition."""
    return {mark.partition: (mark.run, mark.position, mark.ordinal) for mark in marks}


def _same_marks(ours: dict[str, Key], claimed: dict[str, Key]) -> bool:
    """A claim may have forgotten the oldest when it has as many as it can hold; we have not."""
    if any(ours.get(partition) != key for partition, key in claimed.items()):
        return False
    return len(ours) == len(claimed) or len(claimed) >= MARKS_MAX


def _expelled(claim: Claim) -> Callable[[Source], bool]:
    """What tells whether an anomaly can't be in this claim, by its marks."""
    before, after = as_keys(claim.marks_before), as_keys(claim.marks_after)

    def expelled(source: Source) -> bool:
        key: Key = source[2:]
        low, high = before.get(source.partition, NOTHING), after.get(source.partition, NOTHING)
        return source.pipeline != claim.pipeline or not low < key <= high

    return expelled
