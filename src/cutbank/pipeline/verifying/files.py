"""Files that no claim names: what lies in a root beside the objects.

Every file is known by a claim that was audited, or, at the edges of a span of time, by the claim that its name leads
to. A file with the name of a missing object is that object in another folder.
Memory: 8 bytes for each object of the claims audited. Event-loop only; one task.
"""

import hashlib
import re
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from urllib.parse import unquote

import numpy as np

from cutbank.errors import ObjectMissing, PartitionStopped, UsageError
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.findings import Findings
from cutbank.pipeline.sinking.claims import CLAIMS_ROOT, ChainId, Claim, DataObject, Layout, decode
from cutbank.pipeline.sinking.inspect import data_objects
from cutbank.pipeline.sinking.prefix import folders
from cutbank.pipeline.verifying.chains import Scope
from cutbank.pipeline.verifying.faults import Fault
from cutbank.pipeline.verifying.listing import TOLD_EVERY
from cutbank.records import Position, position_from_text

LAYOUTS_MAX = 1000
"""Most layouts whose empty hours are looked into; every change of a sink's settings is one."""

HOURS_MAX = 24 * 366 * 10
"""Most hours of a span whose folders are looked into where no claim names them: ten years."""

_HOUR_MS = 3_600_000
_NAME = re.compile(r"(.+)-([^-]+)-([^-]+)-([0-9]+(?:\.[0-9]+)?)-([0-9]+)\.[a-z.]+")


class Files:
    """What the claims name, and what is there beside it."""

    def __init__(self, store: ObjectStore, *, scope: Scope, findings: Findings[Fault]) -> None:
        self.unaudited = 0
        """Files in the folders of the span that claims outside of it name."""
        self._store = store
        self._scope = scope
        self._findings = findings
        self._named = array("Q")
        self._unreadable = array("Q")
        self._folders: set[str] = set()
        self._layouts: dict[Layout, None] = {}
        self._minutes: list[int] = []

    def claimed(self, claim: Claim) -> None:
        """These objects are a claim's."""
        self._named.extend(_digest(item.key) for item in claim.objects)
        if self._scope.whole:
            return
        self._folders.update(item.key.rpartition("/")[0] + "/" for item in claim.objects)
        if len(self._layouts) < LAYOUTS_MAX and not claim.layout.partition_keys:
            self._layouts[claim.layout] = None
        self._minutes = [min([claim.minute_ms, *self._minutes]), max([claim.minute_ms, *self._minutes])]

    def unreadable(self, chain: ChainId, start: Position) -> None:
        """What this claim names is not known."""
        self._unreadable.append(_digest(chain.claim_key(start)))

    async def check(self, *, missing: dict[str, DataObject], told: Callable[[int], None]) -> None:
        """Name every file that is nobody's. What is found of `missing` elsewhere is taken out of it.

        `told` is told how many files have been looked at.
        """
        for digests in (self._named, self._unreadable):
            np.frombuffer(digests, dtype=np.uint64).sort()  # in place
        by_name = {key.rpartition("/")[2]: key for key in missing}
        count = 0
        async for key in self._listed():
            count += 1
            if count % TOLD_EVERY == 0:
                told(count)
            if _among(self._named, key):
                continue
            link = _link(key)
            if link is not None and _among(self._unreadable, link[0].claim_key(link[1])):
                continue  # its claim has been named already
            if link is not None and await self._in_claim(key, *link):
                self.unaudited += 1
                continue
            moved = by_name.get(key.rpartition("/")[2])
            if moved is not None and moved in missing:
                del missing[moved]
                self._findings.note(Fault.WRONG_MINUTE, f"{key}: its claim says {moved}")
            else:
                self._findings.note(Fault.FOREIGN_FILE, key)

    async def _listed(self) -> AsyncIterator[str]:
        if self._scope.whole:
            async for info in data_objects(self._store):
                yield info.key
            return
        self._add_empty_hours()
        done: str | None = None
        for folder in sorted(self._folders):
            if done is not None and folder.startswith(done):
                continue
            done = folder
            async for info in self._store.list(folder):
                if not info.key.startswith(CLAIMS_ROOT):
                    yield info.key

    def _add_empty_hours(self) -> None:
        """Folders of hours in which nothing was claimed; without an end of the span, up to the last claim's."""
        scope, known = self._scope, self._minutes
        if not known and (scope.from_ms is None or scope.to_ms is None):
            return
        first_ms = known[0] if scope.from_ms is None else scope.from_ms
        end_ms = known[1] + 1 if scope.to_ms is None else scope.to_ms
        first_ms -= first_ms % _HOUR_MS
        for layout in self._layouts or {Layout(): None}:
            for at_ms in range(first_ms, min(end_ms, first_ms + HOURS_MAX * _HOUR_MS), _HOUR_MS):
                try:
                    self._folders.add(folders(layout, max(at_ms, 0)))
                except UsageError:
                    break  # a zone that this machine does not know

    async def _in_claim(self, key: str, chain: ChainId, start: Position) -> bool:
        """Whether the claim that a file's name leads to names it."""
        claim_key = chain.claim_key(start)
        try:
            claim = decode(await self._store.read(claim_key), Claim, key=claim_key)
        except (ObjectMissing, PartitionStopped, ValueError):
            return False
        return any(item.key == key for item in claim.objects)


def _link(key: str) -> tuple[ChainId, Position] | None:
    """The chain and the claim's start that a file's name leads to; None: it is no object's name."""
    match = _NAME.fullmatch(key.rpartition("/")[2])
    if match is None:
        return None
    try:
        return ChainId(*(unquote(part) for part in match.group(1, 2, 3))), position_from_text(match[4])
    except ValueError:
        return None


def _among(digests: "array[int]", key: str) -> bool:
    """Whether a key's digest is among these, which are sorted."""
    digest = _digest(key)
    at = bisect_left(digests, digest)
    return at < len(digests) and digests[at] == digest


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
