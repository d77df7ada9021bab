"""The verdict on a world that has come to its end: all lines against the oracle, all chains link by link.

Reads the log and the stores as they lie; shares nothing with the services but the documents' format, and nothing with
the referee that watched, but what was published. Event-loop only.
"""

from collections import Counter
from collections.abc import Mapping

from cutbank.pipeline.oracle import Expected, undisturbed
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.sinking.claims import CLAIMS_ROOT, Claim
from cutbank.pipeline.sinking.inspect import birth, chain_claims, chains, losses
from cutbank.pipeline.sinking.rendering import is_content_of
from cutbank.testing.memory_store import MemoryStore
from cutbank.transports.base import Transport
from simulation.outcome import Outcome, Violation
from simulation.plan import Plan
from simulation.referee import Referee
from simulation.services import DETECTORS, SPEC, SUNK


async def oracle_lines(transport: Transport, state: MemoryStore, plan: Plan) -> Mapping[str, Counter[bytes]]:
    """What one undisturbed run over the log that resulted publishes, by stream. Raises Violation."""
    room = StateRoom(state.open(), pipeline=SPEC.name, stream=SPEC.source)
    wanted: dict[str, Counter[bytes]] = {}
    async for item in undisturbed(transport, room, SPEC, detectors=DETECTORS, emit=plan.emit):
        if not isinstance(item, Expected) or not item.certain:
            raise Violation("the oracle can't tell", str(item))
        wanted.setdefault(item.output.stream, Counter())[item.output.value] += 1
    return wanted


def check_lines(referee: Referee, wanted: Mapping[str, Counter[bytes]], outcome: Outcome) -> None:
    """I1, I2 and I3: what was published and what is in objects against what was wanted. Raises Violation."""
    for stream, lines in wanted.items():
        found = Counter(referee.published.get(stream, Counter()))
        if not referee.repeats_allowed and (again := found - lines):
            raise Violation("published twice", f"to {stream}: {_some(again)}")
        # Where lines may be published again, each still has to be there, and no other.
        _compare(f"in {stream}", lines, Counter(set(found)), outcome)
    sunk = sum((wanted.get(stream, Counter()) for stream in SUNK), Counter[bytes]())
    _compare("in objects", sunk, referee.durable, outcome)


def _compare(where: str, wanted: Counter[bytes], found: Counter[bytes], outcome: Outcome) -> None:
    if missing := wanted - found:
        outcome.lost += missing.total()
        raise Violation("lost", f"{where}: {_some(missing)}")
    if extra := found - wanted:
        outcome.repeated += sum(count for line, count in extra.items() if line in wanted)
        outcome.different += sum(count for line, count in extra.items() if line not in wanted)
        raise Violation(
            "twice" if any(line in wanted for line in extra) else "not the oracle's", f"{where}: {_some(extra)}"
        )


def _some(lines: Counter[bytes]) -> str:
    return f"{lines.total()} lines, such as {min(lines).decode(errors='replace')[-220:]}"


async def check_chains(objects: MemoryStore, *, whole: bool) -> None:
    """Each chain from its birth on, without a hole; objects as claimed, no others. Raises Violation.

    Not `whole`: the newest claim of a chain may be unfinished.
    """
    store = objects.open()
    named: set[str] = set()
    async for chain in chains(store, SPEC.name):
        end, minute_ms = (await birth(store, chain)).start, 0
        claims = [claim async for claim in chain_claims(store, chain)]
        for claim in claims:
            if claim.start != end:
                raise Violation("a chain is broken", f"{claim.key} starts at {claim.start}, not at {end}")
            if claim.minute_ms < minute_ms:
                raise Violation("a chain is broken", f"{claim.key} goes back to an earlier minute")
            end, minute_ms = claim.end, claim.minute_ms
            named.update(item.key for item in claim.objects)
            _check_objects(objects, claim, unfinished=not whole and claim is claims[-1])
    async for lost in losses(store, SPEC.name):
        raise Violation("given up for lost", f"{lost.key}: {lost.why}")
    for key in objects.objects:
        if not key.startswith(CLAIMS_ROOT) and key not in named:
            raise Violation("object without a claim", key)


def _check_objects(objects: MemoryStore, claim: Claim, *, unfinished: bool) -> None:
    for item in claim.objects:
        body = objects.objects.get(item.key)
        if body is None and not unfinished:
            raise Violation("an object is missing", f"{item.key} of {claim.key}")
        if body is not None and not is_content_of(claim.layout, item, body):
            raise Violation("an object is not its claim's", item.key)
