"""Audits a root: every chain, every object, every file; and with a log beside it, that nothing is missing.

Owns the order of the parts and what becomes of what one part leaves to another. Reads only, so it may run beside the
sinks. Event-loop only; objects are looked into in a thread, one at a time.
"""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from cutbank.objects.base import ObjectStore
from cutbank.pipeline.findings import Finding, Findings
from cutbank.pipeline.scoring.model import DetectorSource
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.sinking.claims import CLAIMS_ROOT, ChainId, Claim, DataObject
from cutbank.pipeline.spec import PipelineSpec
from cutbank.pipeline.verifying.chains import ChainAudit, Scope, Stretch
from cutbank.pipeline.verifying.completeness import LogAudit, Proof
from cutbank.pipeline.verifying.contents import CLOCKS_APART_MS
from cutbank.pipeline.verifying.faults import ChainAccount, Fault
from cutbank.pipeline.verifying.files import Files
from cutbank.pipeline.verifying.listing import Listing, list_chains
from cutbank.records import Position
from cutbank.transports.base import Transport

MISSING_MAX = 10_000
"""Most missing objects that are looked for once more, and in other folders; each takes a kilobyte."""

_UNFINISHED = "; of the newest claim audited: a sink that was killed puts it when it starts again"
"""Said of a missing object that may yet come."""


@dataclass(frozen=True, slots=True)
class Log:
    """What completeness is proven from."""

    transport: Transport
    spec: PipelineSpec
    state: StateRoom | None
    """None: one run from the oldest record retained is taken for granted."""
    detectors: DetectorSource | None = None
    """Another detector than the spec names, for tests."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit has found."""

    chains: tuple[ChainAccount, ...]
    findings: tuple[Finding[Fault], ...]
    """Everything that is wrong, in the order of the faults; empty for a clean root."""
    unaudited: int
    """Files in the folders of the span that claims outside of it name."""
    proof: Proof | None
    """None where no log was given."""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


@dataclass(slots=True)
class Progress:
    """How far an audit has come."""

    listed: int = 0
    """Claims found so far, while they are listed."""
    claims: int = 0
    """Looked at."""
    claims_max: int = 0
    """To be looked at, at most; 0 while they are listed."""
    lines: int = 0
    """In the objects that were looked at."""
    files: int = 0
    """Of which it is known whose they are, once all claims were looked at."""
    foretold: int = 0
    """Anomalies that the replay has come to."""


async def is_root(store: ObjectStore) -> bool:
    """Whether any sink has ever written here."""
    async for _ in store.list(CLAIMS_ROOT):
        return True
    return False


async def verify(
    store: ObjectStore,
    *,
    scope: Scope | None = None,
    log: Log | None = None,
    clocks_apart_ms: int = CLOCKS_APART_MS,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Verdict:
    """Audit all chains of a root in the scope, the files beside them, and with a log, completeness.

    `clocks_apart_ms`: how far a ROWTIME may lie past its claim's minute; the clocks of two brokers differ, and where
    one has gone back, by as much.

    Raises StoreUnavailable, StoreRefused; with a log StreamMissing, StreamUnavailable, DetectorMismatch.
    """
    return await _Audit(store, scope or Scope(), log, progress, clocks_apart_ms=clocks_apart_ms).run()


@dataclass(slots=True)
class _Chain:
    """The chain that is being audited."""

    id: ChainId | None = None
    left: int = 0
    """Claims not looked at."""
    newest: Claim | None = None


class _Audit:
    def __init__(
        self,
        store: ObjectStore,
        scope: Scope,
        log: Log | None,
        progress: Callable[[Progress], None],
        *,
        clocks_apart_ms: int,
    ) -> None:
        self._clocks_apart_ms = clocks_apart_ms
        self._store = store
        self._scope = scope
        self._findings = Findings(Fault)
        self._files = Files(store, scope=scope, findings=self._findings)
        self._told = progress
        self._progress = Progress()
        self._missing: dict[str, DataObject] = {}
        self._chain = _Chain()
        self._newest: list[Claim] = []
        self._stretches: dict[tuple[str, str, bool], list[Stretch]] = {}
        self._log = (
            None
            if log is None
            else LogAudit(
                log.transport,
                log.state,
                log.spec,
                scope=scope,
                findings=self._findings,
                detectors=log.detectors,
            )
        )

    async def run(self) -> Verdict:
        chains = await list_chains(self._store, foreign=self._foreign, told=self._listed)
        self._progress.claims_max = sum(len(listing.starts) for listing in chains.values())
        with ThreadPoolExecutor(1, "unpacker") as unpacker, ThreadPoolExecutor(1, "checker") as checker:
            accounts = [await self._audit(listing, unpacker, checker) for listing in chains.values()]
        self._check_stretches()
        await self._files.check(missing=self._missing, told=self._file)
        await self._check_missing()
        proof = None if self._log is None else await self._log.prove(self._foretold)
        return Verdict(tuple(accounts), self._findings.all(), self._files.unaudited, proof)

    async def _audit(self, listing: Listing, unpacker: Executor, checker: Executor) -> ChainAccount:
        self._chain = _Chain(listing.chain, left=len(listing.starts))
        audit = ChainAudit(
            self._store,
            listing,
            scope=self._scope,
            findings=self._findings,
            observer=self._log,
            listener=self,
            clocks_apart_ms=self._clocks_apart_ms,
            unpacker=unpacker,
            checker=checker,
        )
        await audit.run()
        for name, stretch in audit.stretches.items():
            self._stretches.setdefault(name, []).append(stretch)
        self._progress.claims_max -= self._chain.left  # after the scope
        self._told(self._progress)
        newest = self._chain.newest
        if newest is not None and any(item.key in self._missing for item in newest.objects):
            self._newest.append(newest)
        return audit.account

    def began(self, claims: int) -> None:
        """Of the chain, so many claims are to be looked at, at most."""
        self._progress.claims_max -= self._chain.left - claims
        self._chain.left = claims
        self._told(self._progress)

    def object_done(self, lines: int) -> None:
        """An object was looked at."""
        self._progress.lines += lines
        self._told(self._progress)

    def claim_done(self, claim: Claim) -> None:
        """A claim was looked at."""
        self._files.claimed(claim)
        self._chain.newest = claim
        self._counted()

    def missing(self, item: DataObject) -> None:
        """An object is not there."""
        if len(self._missing) < MISSING_MAX:
            self._missing[item.key] = item
        else:
            self._findings.note(Fault.MISSING_OBJECT, _as_missing(item))

    def unreadable(self, start: Position) -> None:
        """A claim can't be read."""
        assert self._chain.id is not None, "of a chain"
        self._files.unreadable(self._chain.id, start)
        self._counted()

    def _counted(self) -> None:
        self._progress.claims += 1
        self._chain.left -= 1
        self._told(self._progress)

    def _foreign(self, key: str) -> None:
        if self._scope.whole:
            self._findings.note(Fault.FOREIGN_FILE, key)

    def _listed(self, claims: int) -> None:
        self._progress.listed = claims
        self._told(self._progress)

    def _file(self, files: int) -> None:
        self._progress.files = files
        self._told(self._progress)

    def _foretold(self, count: int) -> None:
        self._progress.foretold = count
        self._told(self._progress)

    def _check_stretches(self) -> None:
        """A source partition goes into one chain; when streams are cut anew it may go on in another, once."""
        for (_, partition, _), stretches in self._stretches.items():
            stretches.sort(key=lambda stretch: stretch.first)
            for one, other in pairwise(stretches):
                if other.first <= one.last:
                    self._findings.note(Fault.TWO_CHAINS, f"{partition}: {one.chain} and {other.chain}")

    async def _check_missing(self) -> None:
        """Look once more: of a sink at work the newest object may just have come."""
        newest = {item.key: claim for claim in self._newest for item in claim.objects}
        for key, item in self._missing.items():
            claim = newest.get(key)
            if claim is None:
                self._findings.note(Fault.MISSING_OBJECT, _as_missing(item))
            elif not await self._store.exists(key):
                self._findings.note(Fault.MISSING_OBJECT, f"{_as_missing(item)}{_UNFINISHED}")
            elif self._log is not None:
                self._log.came_late(claim)


def _as_missing(item: DataObject) -> str:
    return f"{item.key} ({item.count:,} lines)"
