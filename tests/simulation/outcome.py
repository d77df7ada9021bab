"""What one world gave, and what many gave together. Values; a total is the sum of its outcomes, in any order."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from simulation.history import History
from simulation.plan import EXPIRED, MADE_AGAIN
from simulation.watch import KILL_POINTS


class Violation(Exception):
    """A broken promise: which check found it, and what it found."""

    def __init__(self, check: str, found: str) -> None:
        super().__init__(check, found)
        self.check = check
        self.found = found

    def __str__(self) -> str:
        return f"{self.check}: {self.found}"


@dataclass(slots=True, kw_only=True)
class Figures:
    """What is counted of a world, and summed over many: every field is a number or a Counter."""

    simulated_s: float = 0.0
    records: int = 0
    bad_records: int = 0
    anomalies: int = 0
    claims: int = 0
    objects: int = 0
    lost: int = 0
    """Anomalies that are in no object in the end, bad records that are in no error line."""
    repeated: int = 0
    """Lines in objects more than once."""
    different: int = 0
    """Lines that are not the oracle's: another score, say."""
    published_again: int = 0
    """Lines published more than once where that is allowed: the sinks have dropped them."""
    events: Counter[str] = field(default_factory=Counter)
    """What has really befallen the world; a planned event may find nobody, or a call that never comes."""
    struck: Counter[str] = field(default_factory=Counter)
    """Of those, what happened at a call: kind and call."""
    stops: Counter[str] = field(default_factory=Counter)
    """Loud stops, where they had to be, by role and reason."""
    kills: Counter[str] = field(default_factory=Counter)
    kill_points: Counter[str] = field(default_factory=Counter)
    handovers: Counter[str] = field(default_factory=Counter)
    """What sinks finished of others' claims, and what they were set to themselves."""
    layouts: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    """The services' own counters."""


@dataclass(slots=True, kw_only=True)
class Outcome(Figures):
    """One world's."""

    seed: int
    kind: str
    history: History | None = None
    """Let go of before the outcome leaves its process, unless the seed failed."""
    violation: Violation | None = None
    error: Exception | None = None
    """The harness's own failure."""
    text: str = ""
    """A failed seed's report."""
    digest: str = ""


_COUNTED = ("cutbank_partitions_given_up_total", "cutbank_claims_adopted_total", "cutbank_snapshots_total",
            "cutbank_snapshots_unusable_total", "cutbank_repeats_dropped_total", "cutbank_replayed_records_total",
            "cutbank_partitions_retaken_total", "cutbank_retries_total")  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Total(Figures):
    """Many worlds'."""

    seeds: int = 0
    failed: list[int] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Add one."""
        self.seeds += 1
        self.kinds[outcome.kind] += 1
        if outcome.violation is not None:
            self.failed.append(outcome.seed)
        self.merge({each.name: getattr(outcome, each.name) for each in fields(Figures)})

    @property
    def points_missed(self) -> list[str]:
        """Where no kill has fallen: what happens there was not tested."""
        return [point for point in KILL_POINTS if not self.kill_points[point]]

    def as_json(self) -> dict[str, Any]:
        """For a file, and for `merge`."""
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        values["counters"] = {name: self.counters[name] for name in _COUNTED}
        reasons = sorted(MADE_AGAIN | EXPIRED)
        stops = [f"{role} {reason}" for role in ("scorer", "sink") for reason in reasons]
        values["stops"] = {stop: self.stops[stop] for stop in stops}
        values["kill_points"] = {point: self.kill_points[point] for point in KILL_POINTS}
        return {
            name: dict(sorted(value.items())) if isinstance(value, Mapping) else value for name, value in values.items()
        }

    def merge(self, figures: Mapping[str, Any]) -> None:
        """Add figures by name, such as those that another total gave `as_json`."""
        for name, value in figures.items():
            if isinstance(value, Mapping):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        def listed(counts: Mapping[str, int]) -> str:
            return ", ".join(
                f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: -item[1]) if count
            )

        counters = self.counters
        lines = (
            f"{self.seeds:,} seeds ({listed(self.kinds)}), {len(self.failed)} failed",
            f"{self.simulated_s / 3600:,.1f} simulated hours",
            f"{self.records:,} records ({self.bad_records:,} bad), {self.anomalies:,} anomalies",
            f"{self.claims:,} claims, {self.objects:,} objects: {listed(self.layouts)}",
            f"events: {listed(self.events)}",
            f"loud stops, where they had to be: {listed(self.stops)}",
            f"kills: {self.kills.total():,} ({listed(self.kills)})",
            *(f"kills {point}: {self.kill_points[point]:,}" for point in KILL_POINTS),
            f"handed over: {listed(self.handovers)}",
            f"partitions given up to another owner: {counters['cutbank_partitions_given_up_total']:,}",
            f"claims adopted: {counters['cutbank_claims_adopted_total']:,}",
            f"snapshots: {counters['cutbank_snapshots_total']:,}",
            f"snapshots found unusable: {counters['cutbank_snapshots_unusable_total']:,}",
            f"lines published again, where that is allowed: {self.published_again:,}",
            f"lines dropped by sinks as repeats: {counters['cutbank_repeats_dropped_total']:,}",
            f"lost {self.lost}, twice {self.repeated}, different {self.different}",
        )
        return "\n".join(lines)
