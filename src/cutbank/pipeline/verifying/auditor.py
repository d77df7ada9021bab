"""Audits a root: every chain, every object, every file; and with a log beside it, that nothing is missing.

Owns the order of the parts and what becomes of what one part leaves to another. Reads only, so it may run beside the
sinks. Event-loop only; objects are looked into in a thread, one at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from cutbank.objects.base import ObjectStore
from cutbank.pipeline.findings import Finding, Findings
from cutbank.pipeline.scoring.model import DetectorSource
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.sinking.claims import CLAIMS_ROOT, ChainId, Claim, DataObject
from cutbank.pipeline.sinking.inspect import chains
from cutbank.pipeline.spec import PipelineSpec
from cutbank.pipeline.verifying.chains import ChainAudit, Extent, Scope
from cutbank.pipeline.verifying.completeness import LogAudit, Proof
from cutbank.pipeline.verifying.contents import CLOCKS_APART_MS
from cutbank.pipeline.verifying.faults import ChainAccount, Fault
from cutbank.pipeline.verifying.files import Files
from cutbank.records import Position
from cutbank.transports.base import Transport

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

    claims: int = 0
    """Looked at."""
    claims_max: int = 0
    """To be looked at, of the chains listed so far."""
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
        self._newest: dict[ChainId, Claim] = {}
        self._unreadable: set[tuple[ChainId, Position]] = set()
        self._extents: dict[tuple[str, str], list[Extent]] = {}
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
        accounts = [await self._chain(chain) async for chain in chains(self._store)]
        self._check_extents()
        await self._files.check(missing=self._missing, unreadable=self._unreadable)
        await self._check_missing()
        proof = None if self._log is None else await self._log.prove(self._foretold)
        return Verdict(tuple(accounts), self._findings.all(), self._files.unaudited, proof)

    async def _chain(self, chain: ChainId) -> ChainAccount:
        audit = ChainAudit(
            self._store,
            chain,
            scope=self._scope,
            findings=self._findings,
            observer=self._log,
            clocks_apart_ms=self._clocks_apart_ms,
        )
        await audit.run(listed=self._listed, after_claim=self._claim)
        self._missing |= audit.missing
        self._unreadable |= {(chain, start) for start in audit.unreadable}
        for name, extent in audit.extents.items():
            self._extents.setdefault(name, []).append(extent)
        return audit.account

    def _listed(self, claims: int) -> None:
        self._progress.claims_max += claims
        self._told(self._progress)

    def _claim(self, claim: Claim) -> None:
        self._files.claimed(claim)
        self._newest[claim.chain] = claim
        self._progress.claims += 1
        self._told(self._progress)

    def _foretold(self, count: int) -> None:
        self._progress.foretold = count
        self._told(self._progress)

    def _check_extents(self) -> None:
        """A source partition goes into one chain; when streams are cut anew it may go on in another, once."""
        for (_, partition), extents in self._extents.items():
            extents.sort(key=lambda extent: extent.first)
            for one, other in pairwise(extents):
                if other.first <= one.last:
                    self._findings.note(Fault.TWO_CHAINS, f"{partition}: {one.chain} and {other.chain}")

    async def _check_missing(self) -> None:
        """Look once more: of a sink at work the newest object may just have come."""
        newest = {item.key: claim for claim in self._newest.values() for item in claim.objects}
        for key, item in self._missing.items():
            claim = newest.get(key)
            if not await self._store.exists(key):
                hint = "" if claim is None else _UNFINISHED
                self._findings.note(Fault.MISSING_OBJECT, f"{key} ({item.count:,} lines){hint}")
            elif claim is not None and self._log is not None:
                self._log.came_late(claim)
