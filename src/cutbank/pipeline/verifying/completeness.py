"""Proves that the objects are complete: replays the source and finds every anomaly and error record, byte for byte.

Three things are told apart. What is beyond proof is counted and said: records past retention, runs of another spec.
What is on its way is a lag: not scored yet, or published and not in an object yet. All else is a finding.

Order matters on a pipeline that is running: objects first, then how far the scorer has come, then what the sink has
not come to, then the source. Error records are proven where a sink puts them into this root.
Memory: that of both `SunkStream`s. Event-loop only; reads only.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise

from cutbank.errors import StreamMissing
from cutbank.pipeline.accounts import SourceId
from cutbank.pipeline.findings import Findings
from cutbank.pipeline.oracle import FIRST_RUN, Expected, Handovers, Unproven, undisturbed
from cutbank.pipeline.scoring.lines import stream_text
from cutbank.pipeline.scoring.model import DetectorSource
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.sinking.claims import ChainId, Claim
from cutbank.pipeline.spec import PipelineSpec
from cutbank.pipeline.verifying.chains import Examined, Scope
from cutbank.pipeline.verifying.faults import Fault
from cutbank.pipeline.verifying.sunk_stream import FaultNames, SunkStream
from cutbank.pipeline.verifying.tables import Key
from cutbank.records import Partition, Position, position_text
from cutbank.transports.base import StreamInfo, Transport

ANOMALIES = FaultNames(Fault.MISSING_ANOMALY, Fault.DIFFERENT_ANOMALY, Fault.EXTRA_ANOMALY)
ERRORS = FaultNames(Fault.MISSING_ERROR, Fault.DIFFERENT_ERROR, Fault.EXTRA_ERROR)


@dataclass(slots=True)
class Proof:
    """What the replay has shown of the anomalies, or of the error records."""

    pipeline: str
    sunk: bool = True
    """False: no sink puts them into this root, so they were only counted."""
    foretold: int = 0
    """Those of an undisturbed run, of those that can be in the objects audited."""
    met: int = 0
    """Of these, in an object, byte for byte."""
    unscored: int = 0
    """Of these, not scored yet: the scorer lags."""
    unsunk: int = 0
    """Of these, published and not in an object yet: the sink lags."""
    given_up: int = 0
    """Of these, in a stretch that was given up for lost."""
    unsure: int = 0
    """Of these, in no object, and maybe never to be there: a run began anew and nobody knows where it went live, or a
    chain began after the stream did."""
    beyond: int = 0
    """Lines in objects that nothing can be compared with."""
    unproven: list[str] = field(default_factory=list)
    """What can't be computed, and why."""
    errors: "Proof | None" = None
    """Of the error records, beside that of the anomalies."""


class LogAudit:
    """Looks at each claim with the log beside it, and proves completeness at the end."""

    def __init__(
        self,
        transport: Transport,
        state: StateRoom | None,
        spec: PipelineSpec,
        *,
        scope: Scope,
        findings: Findings[Fault],
        detectors: DetectorSource | None = None,
    ) -> None:
        self.proof = Proof(spec.name, errors=Proof(spec.name))
        self._transport = transport
        self._state = state
        self._spec = spec
        self._scope = scope
        self._findings = findings
        self._detectors = detectors

        def sunk(stream: str, names: FaultNames) -> SunkStream:
            return SunkStream(transport, spec.name, stream, scope=scope, names=names, findings=findings)

        self._anomalies = sunk(spec.destination, ANOMALIES)
        self._errors = sunk(spec.errors, ERRORS)

    def _of(self, chain: ChainId) -> SunkStream | None:
        """The stream of the spec's that a chain is of."""
        for side in (self._anomalies, self._errors):
            if (chain.pipeline, chain.stream) == (self._spec.name, side.stream):
                return side
        return None

    def born(self, chain: ChainId, start: Position | None) -> None:
        """A chain is looked at."""
        side = self._of(chain)
        if side is not None:
            side.born(start)

    def begin(self, before: Claim) -> None:
        """The last claim before the span of time that is audited."""
        side = self._of(before.chain)
        if side is not None:
            side.begin(before)

    async def observe(self, examined: Examined) -> None:
        """Take in a claim that was looked at."""
        side = self._of(examined.claim.chain)
        if side is not None:
            await side.observe(examined)

    def came_late(self, claim: Claim) -> None:
        """An object of this claim was not there when it was looked for, and is there now: a lag, and no loss."""
        side = self._of(claim.chain)
        if side is not None:
            side.came_late(claim)

    async def prove(self, progress: Callable[[int], None]) -> Proof:
        """Replay the source. `progress` is told of the count of anomalies now and then."""
        proof, errors = self.proof, self.proof.errors
        assert errors is not None, "made with it"
        errors.sunk = self._errors.seen
        info = await self._transport.describe(self._spec.source)
        stream = stream_text(info.name, info.identity)
        committed = await self._committed(info)
        sides = {
            self._anomalies.stream: _Side(self._anomalies, proof, await self._anomalies.unsunk(stream)),
            self._errors.stream: _Side(self._errors, errors, await self._unsunk_errors(stream)),
        }
        unproven: list[Unproven] = []
        async for item in undisturbed(
            self._transport, self._state, self._spec, detectors=self._detectors, handovers=self._handovers(stream)
        ):
            if isinstance(item, Unproven):
                unproven.append(item)
                continue
            side = sides.get(item.output.stream)
            if side is not None:
                self._compare(side, item, stream, committed)
                progress(proof.foretold)
        for side in sides.values():
            await self._close(side, info, stream, unproven)
        proof.unproven = [*map(str, unproven), *proof.unproven]
        return proof

    async def _unsunk_errors(self, stream: str) -> set[SourceId]:
        """A log that somebody copied may lack the errors' stream."""
        if not self._errors.seen:
            return set()
        try:
            return await self._errors.unsunk(stream)
        except StreamMissing:
            return set()

    async def _committed(self, info: StreamInfo) -> dict[str, Position]:
        """How far the scorer has come, by source partition."""
        found = {}
        for part in info.partitions:
            position = await self._transport.committed(f"{self._spec.name}.scorer", part.partition)
            found[part.partition.id] = Position(0) if position is None else position
        return found

    def _handovers(self, stream: str) -> Handovers:
        """Where one run's lines end and the next one's begin, as far as the objects tell."""
        seen: dict[str, dict[int, tuple[int, int]]] = {}
        shelves = chain(self._anomalies.index.shelves.items(), self._errors.index.shelves.items())
        for (partition, run), by_chain in shelves:
            name, _, partition_id = partition.rpartition("/")
            if name == stream:
                bounds = [(shelf.positions[0], shelf.positions[-1]) for shelf in by_chain.values()]
                first, last = min(bounds)[0], max(last for _, last in bounds)
                known = seen.setdefault(partition_id, {}).setdefault(run, (first, last))
                seen[partition_id][run] = min(known[0], first), max(known[1], last)
        found = {}
        for partition_id, runs in seen.items():
            for earlier, later in pairwise(sorted(runs)):
                last, first = runs[earlier][1], runs[later][0]
                found[partition_id, later] = Position(min(last + 1, first)), Position(max(last + 1, first))
        return found

    def _compare(self, side: "_Side", item: Expected, stream: str, committed: Mapping[str, Position]) -> None:
        sunk, proof, source = side.sunk, side.proof, item.source
        whole = f"{stream}/{source.partition}"
        key: Key = (source.run, Position(source.position), source.ordinal)
        if not sunk.in_scope(whole, key):
            return
        proof.foretold += 1
        if not proof.sunk:
            return
        found = sunk.index.meet(whole, source.run, Position(source.position), item.output.value)
        for same in found:
            if same:
                proof.met += 1
            else:
                self._findings.note(sunk.names.different, str(source))
        if found:
            return
        if source in side.unsunk or sunk.is_late(whole, key):
            proof.unsunk += 1
        elif source.position >= committed.get(source.partition, 0):
            proof.unscored += 1
        elif sunk.is_given_up(whole, key):
            proof.given_up += 1
        elif not item.certain or sunk.may_precede(whole, key):
            proof.unsure += 1
        else:
            self._findings.note(sunk.names.missing, str(source))

    async def _close(self, side: "_Side", info: StreamInfo, stream: str, unproven: list[Unproven]) -> None:
        """What lies in objects and no undisturbed run has said."""
        oldest = {part.partition.id: await self._oldest_run(part.partition) for part in info.partitions}
        beyond: Counter[str] = Counter()
        for partition, run, position in side.sunk.index.unmet():
            name, _, partition_id = partition.rpartition("/")
            if name != stream:
                beyond[f"stream {name}, which is not the one in the log"] += 1
            elif partition_id not in oldest:
                beyond[f"{partition_id}, which is no partition any more"] += 1
            elif not self._known_run(run, oldest[partition_id]):
                beyond[f"run {run} of {partition_id}, whose birth is not there"] += 1
            elif any(_concerns(item, partition_id, run, position) for item in unproven):
                side.proof.beyond += 1
            else:
                self._findings.note(side.sunk.names.extra, f"{partition_id}/{position_text(position)} (run {run})")
        side.proof.beyond += beyond.total()
        side.proof.unproven = [f"{count:,} line(s) of {what}" for what, count in beyond.items()]

    async def _oldest_run(self, partition: Partition) -> int | None:
        """The first run whose birth is there; None: there is none."""
        if self._state is None:
            return None
        return next(iter((await self._state.inventory(partition)).runs), None)

    def _known_run(self, run: int, oldest: int | None) -> bool:
        """Without a state store the first run is taken to be the only one; births before the oldest one were lost."""
        if self._state is None:
            return run == FIRST_RUN
        return oldest is None or run >= oldest


@dataclass(frozen=True, slots=True)
class _Side:
    """One stream's lines in the objects, and what is to be shown of them."""

    sunk: SunkStream
    proof: Proof
    unsunk: set[SourceId]
    """What the sink has not come to."""


def _concerns(item: Unproven, partition_id: str, run: int, position: Position) -> bool:
    return item.partition == partition_id and item.run in (None, run) and item.start <= position < item.end
