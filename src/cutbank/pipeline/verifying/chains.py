"""Walks one chain of claims and proves it: whole, every object as claimed, no anomaly twice.

The proof that nothing is there twice needs no list of what was seen: within a chain the anomalies of a source
partition only go up, so each claim's must lie above the highest of the claims before it. Across chains, the first and
the last of each source partition tell whether two of them interleave.

Memory: what `ahead` holds, the columns of one claim's lines (60 bytes a line), and a mark for each source partition.
Event-loop only; one task; objects are looked into in a thread, one at a time.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from cutbank.errors import ObjectMissing, PartitionStopped
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.findings import Findings
from cutbank.pipeline.sinking.claims import MARKS_MAX, Birth, ChainId, Claim, DataObject, Mark, decode
from cutbank.pipeline.verifying.ahead import (
    SMALL_BYTES,
    Ahead,
    ReadClaim,
    ReadObject,
    Step,
    Whole,
    claim_weight,
    read_claim,
)
from cutbank.pipeline.verifying.claimed import Claimed, Summary, as_keys, wrong_name
from cutbank.pipeline.verifying.faults import ChainAccount, Fault
from cutbank.pipeline.verifying.index import Anomalies
from cutbank.pipeline.verifying.listing import Listing
from cutbank.pipeline.verifying.quick import Found, look
from cutbank.pipeline.verifying.tables import Key
from cutbank.records import Position, position_text

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which claims are audited: of the minutes from `from_ms` to before `to_ms`, ms since the epoch; None: all."""

    from_ms: int | None = None
    to_ms: int | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.from_ms is None and self.to_ms is None


@dataclass(frozen=True, slots=True)
class Examined:
    """A claim that was looked at, for whoever wants to know more."""

    claim: Claim
    minute_before_ms: int | None
    """Of the claim before it; 0 for a chain's first one; None where the chain is not whole there."""
    anomalies: Anomalies
    """The claim's own pipeline's, of those objects that are as claimed."""
    given_up: bool


class Observer(Protocol):
    """Who wants to know more of the claims that are looked at."""

    def born(self, chain: ChainId, start: Position | None) -> None:
        """A chain is looked at, which began at that position of its stream; None: nobody knows."""
        ...

    def begin(self, before: Claim) -> None:
        """The last claim before the span of time that is audited, if there is one."""
        ...

    async def observe(self, examined: Examined) -> None:
        """A claim was looked at; they come in order."""
        ...


class Listener(Protocol):
    """Who is told how far the audit of a chain is."""

    def began(self, claims: int) -> None:
        """It has that many claims to look at, at most."""
        ...

    def object_done(self, lines: int) -> None:
        """An object with so many lines was looked at."""
        ...

    def claim_done(self, claim: Claim) -> None:
        """A claim that could be read was looked at, with all its objects."""
        ...

    def missing(self, item: DataObject) -> None:
        """An object is not there."""
        ...

    def unreadable(self, start: Position) -> None:
        """A claim can't be read."""
        ...


@dataclass(slots=True)
class Stretch:
    """Where the anomalies of one source partition begin and end in one chain."""

    chain: ChainId
    first: Key
    last: Key


class ChainAudit:
    """One chain, from its first claim in scope on."""

    def __init__(
        self,
        store: ObjectStore,
        listing: Listing,
        *,
        scope: Scope,
        findings: Findings[Fault],
        observer: Observer | None,
        listener: Listener,
        clocks_apart_ms: int,
        unpacker: Executor,
        checker: Executor,
    ) -> None:
        self.account = ChainAccount(listing.chain)
        self.stretches: dict[tuple[str, str, bool], Stretch] = {}
        """By pipeline, source partition and whether they have a score: error records lie between anomalies."""
        self._store = store
        self._listing = listing
        self._scope = scope
        self._findings = findings
        self._observer = observer
        self._listener = listener
        self._clocks_apart_ms = clocks_apart_ms
        self._unpacker = unpacker
        self._checker = checker
        self._before: Claim | None = None
        self._linked = True
        self._end: Position | None = None
        """Where the last claim that could be read ended, or the birth's start."""
        self._marks: dict[str, Key] = {}
        self._open: Claimed | None = None
        self._ahead: Ahead | None = None

    async def run(self) -> None:
        """Audit it."""
        listing = self._listing
        start = await self._birth()
        if self._observer is not None:
            self._observer.born(listing.chain, start)
        first = await self._first_in_scope()
        if first > 0:
            self._enter(await read_claim(self._store, listing, listing.start(first - 1)))
        elif self._scope.from_ms is None or (listing.starts and listing.start(0) == start):
            self._end = start
            self._linked = start is not None
        else:
            self._linked = False  # what came before the scope may have expired
        self._listener.began(len(listing.starts) - first)
        if self._scope.whole:
            for nowhere in sorted(listing.lost):
                if not listing.has(nowhere):
                    self._findings.note(Fault.FOREIGN_FILE, listing.chain.lost_key(nowhere))
        self._ahead = Ahead(self._store, listing, first=first, to_ms=self._scope.to_ms, unpacker=self._unpacker)
        await self._ahead.walk(self._step)

    def _enter(self, read: ReadClaim) -> None:
        """The last claim before the scope."""
        self._before = read.claim
        self._linked = read.claim is not None
        if read.claim is None:
            self._findings.note(Fault.UNREADABLE_CLAIM, read.why)
            return
        self._end = read.claim.end
        self._marks = as_keys(read.claim.marks_after)
        if self._observer is not None:
            self._observer.begin(read.claim)

    async def _birth(self) -> Position | None:
        """Where the chain begins."""
        key = self._listing.chain.birth_key
        if not self._listing.born:
            self._findings.note(Fault.MISSING_BIRTH, key)
            return None
        try:
            return decode(await self._store.read(key), Birth, key=key).start
        except (PartitionStopped, ObjectMissing) as error:
            self._findings.note(Fault.UNREADABLE_CLAIM, str(error))
            return None

    async def _first_in_scope(self) -> int:
        """The index of the first claim whose minute is in scope: minutes only go up along a chain."""
        if self._scope.from_ms is None:
            return 0
        low, high = 0, len(self._listing.starts)
        while low < high:
            middle = (low + high) // 2
            claim = (await read_claim(self._store, self._listing, self._listing.start(middle))).claim
            if claim is None:
                # Its minute is unknown: everything from the lowest that may be in scope on is looked at.
                return low
            if claim.minute_ms < self._scope.from_ms:
                low = middle + 1
            else:
                high = middle
        return low

    async def _step(self, step: Step) -> None:
        if isinstance(step, ReadObject):
            assert self._open is not None, "an object comes after its claim"
            assert self._ahead is not None, "it walks"
            await self._object(self._open, step)
            self._ahead.objects.free(step.weight)
            return
        if isinstance(step, Whole):
            await self._close()
            return
        if step.claim is None:
            self._findings.note(Fault.UNREADABLE_CLAIM, step.why)
            self._listener.unreadable(step.start)
            self._linked = False
            return
        if step.lost_why:
            self._findings.note(Fault.UNREADABLE_CLAIM, step.lost_why)
        self._open = self._opened(step.claim, step)

    def _opened(self, claim: Claim, read: ReadClaim) -> Claimed:
        overlaps = self._link(claim)
        given_up = read.lost is not None or not claim.objects
        self.account.claims += 1
        self.account.given_up += given_up
        if self.account.minute_first_ms is None:
            self.account.minute_first_ms = claim.minute_ms
        self.account.minute_last_ms = claim.minute_ms
        excused = frozenset() if read.lost is None else frozenset(read.lost.missing)
        return Claimed(claim, overlaps, given_up, excused)

    async def _close(self) -> None:
        """What the claim's objects say together, and how it stands in the chain."""
        assert self._open is not None, "a claim ends after it has begun"
        opened, self._open = self._open, None
        claim = opened.claim
        summary = await self._checked(opened.bytes, opened.summed_up)
        if summary.suspect or opened.below(summary, self._marks):
            await self._checked(opened.bytes, partial(self._name_lines, opened))
        self._advance(opened, summary)
        if self._observer is not None:
            minute_ms = 0 if self._before is None else self._before.minute_ms
            anomalies = await self._checked(opened.bytes, partial(opened.anomalies, summary))
            await self._observer.observe(
                Examined(claim, minute_ms if self._linked else None, anomalies, opened.given_up)
            )
        self._before, self._linked = claim, True
        assert self._ahead is not None, "it walks"
        self._ahead.claims.free(claim_weight(claim))
        self._listener.claim_done(claim)

    async def _checked(self, size: int, work: Callable[[], T]) -> T:
        """What is done with so many bytes of lines, in the thread that is for it, or at once."""
        if size <= SMALL_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._checker, work)

    def _link(self, claim: Claim) -> bool:
        """Check that it follows from the claim before it; whether it begins before that one ended."""
        where = f"{claim.key}: {position_text(claim.start)} to {position_text(claim.end)}"
        end, self._end = self._end, claim.end if self._end is None else max(self._end, claim.end)
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

    async def _object(self, opened: Claimed, read: ReadObject) -> None:
        claim, item = opened.claim, read.item
        misnamed = None if opened.overlaps else wrong_name(claim, item, read.ordinal)
        if misnamed is not None:
            self._findings.note(*misnamed)
        try:
            unpacked = await read.unpacked.get()
        except ObjectMissing:
            opened.clean = False
            if item.key not in opened.excused:
                self._listener.missing(item)
            return
        except PartitionStopped as error:  # too large to be read
            opened.clean = False
            self._findings.note(Fault.CHANGED_BYTE, str(error))
            return
        self.account.objects += 1
        self.account.bytes += len(unpacked.body)
        size = len(unpacked.body if unpacked.inside is None else unpacked.inside)
        found = await self._checked(
            size,
            partial(
                look,
                claim,
                item,
                unpacked,
                names=opened.names,
                expelled=opened.expelled,
                clocks_apart_ms=self._clocks_apart_ms,
                digests=self._observer is not None,
            ),
        )
        opened.clean = self._note(item, found) and opened.clean
        opened.tables.append((item, found.table))
        opened.bytes += size
        self._listener.object_done(len(found.table))

    def _note(self, item: DataObject, found: Found) -> bool:
        """Whether the object is as claimed."""
        if found.fault is not None:
            self._findings.note(found.fault, f"{item.key}: {found.detail}")
            return False
        for fault, detail in found.notes:
            self._findings.note(fault, f"{item.key}: {detail}")
        self.account.lines += len(found.table)
        self.account.unidentified += int((found.table.names < 0).sum())
        return True

    def _name_lines(self, opened: Claimed) -> None:
        """In a thread, while the task waits for it."""
        for fault, detail in opened.named(self._marks):
            self._findings.note(fault, detail)

    def _advance(self, opened: Claimed, summary: Summary) -> None:
        """The marks at the claim's end: from its lines, and as it says; they have to be the same."""
        claim = opened.claim
        for extent in summary.extents:
            partition = opened.partition(extent)
            self._marks[partition] = max(self._marks.get(partition, extent.last), extent.last)
        for kind, extent in summary.by_kind:
            name = (claim.pipeline, opened.partition(extent), kind)
            stretch = self.stretches.setdefault(name, Stretch(claim.chain, extent.first, extent.last))
            stretch.first, stretch.last = min(stretch.first, extent.first), max(stretch.last, extent.last)
        if opened.overlaps or not opened.clean:
            self._raise(claim.marks_after)  # the lines are not all known: the claim says where they ended
        elif not _same_marks(self._marks, as_keys(claim.marks_after)):
            self._findings.note(Fault.WRONG_MARKS, f"{claim.key}: at its end")

    def _raise(self, marks: Sequence[Mark]) -> None:
        for partition, key in as_keys(marks).items():
            self._marks[partition] = max(self._marks.get(partition, key), key)


def _same_marks(ours: dict[str, Key], claimed: dict[str, Key]) -> bool:
    """A claim may have forgotten the oldest when it has as many as it can hold; we have not."""
    if any(ours.get(partition) != key for partition, key in claimed.items()):
        return False
    return len(ours) == len(claimed) or len(claimed) >= MARKS_MAX
