"""What a chaos run came to: as a table for people, as JSON for the page that is made of it. Values only."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chaos.checks import Verdict
from chaos.freezes import Zombies
from chaos.full_disk import Fullness
from chaos.kills import EXACT, Sort, Tally
from chaos.points import NEEDED, Point


@dataclass
class Outcome:
    """Everything that is reported."""

    seed: int
    plants: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)
    aimed: bool = False
    """Whether kills were aimed, so that each needed point must have been hit."""
    stops: int = 0
    """SIGTERMs in the middle of something; each ended with exit code 0 in time."""
    zombies: Zombies = field(default_factory=Zombies)
    fullness: Fullness = field(default_factory=Fullness)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By scenario: kills, and full disk."""
    trouble: str = ""
    """Why the run could not go on; empty: it did."""
    seconds: float = 0.0

    @property
    def never_hit(self) -> list[Point]:
        """Points that a run has to hit and that no kill fell on."""
        return [point for point in NEEDED if not self.tally.at(point)]

    @property
    def findings(self) -> list[str]:
        """Everything that is wrong, for people."""
        found = [self.trouble] if self.trouble else []
        found += self.tally.findings + self.zombies.findings + self.fullness.findings
        for name, verdict in self.verdicts.items():
            found += [f"{name}: {finding}" for finding in verdict.findings]
            found += [f"{name}, {finding}" for finding in verdict.examples]
        if self.aimed:
            found += [f"no kill fell {point}: not tested" for point in self.never_hit]
        return found

    @property
    def right(self) -> bool:
        """Whether the run shows what it is to show."""
        return not self.findings and all(verdict.right for verdict in self.verdicts.values())

    def result(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "form": "chaos",
            "seed": self.seed,
            "ok": self.right,
            "plants": list(self.plants),
            "seconds": round(self.seconds, 1),
            "records": sum(verdict.records for verdict in self.verdicts.values()),
            "anomalies": sum(verdict.written.expected for verdict in self.verdicts.values()),
            "lost": sum(verdict.published.lost + verdict.written.lost for verdict in self.verdicts.values()),
            "repeated": sum(
                verdict.published.repeated + verdict.written.repeated for verdict in self.verdicts.values()
            ),
            "different": sum(
                verdict.published.different + verdict.written.different for verdict in self.verdicts.values()
            ),
            "positions_ahead": len(self.tally.findings),
            "lag": sum(verdict.lag for verdict in self.verdicts.values()),
            "kills_total": self.tally.kills.total(),
            "kills": {str(sort): self.tally.of(sort) for sort in Sort},
            "kills_by_service": {
                role: sum(count for (who, _, _), count in self.tally.kills.items() if who == role) for role in EXACT
            },
            "points": {
                str(point): {
                    str(sort): sum(
                        count for (_, how, where), count in self.tally.kills.items() if where is point and how is sort
                    )
                    for sort in Sort
                }
                for point in Point
            },
            "stops_in_the_middle": self.stops,
            "zombies": {
                "count": self.zombies.zombies,
                "stopped_inside_a_transaction": self.zombies.held_lock,
                "outcomes": dict(self.zombies.outcomes),
            },
            "full_disk": {"how": self.fullness.how, "refused_writes": self.fullness.refused},
            "scenarios": {name: scenario(verdict) for name, verdict in self.verdicts.items()},
            "findings": self.findings,
        }

    def table(self) -> Iterator[str]:
        """The lines to print."""
        yield f"{'kill -9 fell':44}" + "".join(f"{sort:>9}" for sort in Sort) + f"{'all':>9}"
        for point in Point:
            counts = [
                sum(n for (_, how, where), n in self.tally.kills.items() if where is point and how is sort)
                for sort in Sort
            ]
            mark = " *" if point in NEEDED else ""
            yield f"  {point + mark:42}" + "".join(f"{count:>9}" for count in counts) + f"{sum(counts):>9}"
        yield f"{'kills':44}" + "".join(f"{self.tally.of(sort):>9}" for sort in Sort) + f"{self.tally.kills.total():>9}"
        by_role = ", ".join(f"{role} {count}" for role, count in self.result()["kills_by_service"].items())
        yield "  * has to be hit. Publish and commit are one transaction here: inside that call, begun and not returned"
        yield f"  by service: {by_role}; positions ahead of durable output after a kill: {len(self.tally.findings)}"
        yield f"SIGTERM in the middle of a write: {self.stops}, each ended with exit code 0 within its grace period"
        outcomes = ", ".join(f"{what} {count}" for what, count in sorted(self.zombies.outcomes.items()))
        yield (
            f"zombies: {self.zombies.zombies} ({outcomes or 'none'}); "
            f"stopped inside a transaction and woken again: {self.zombies.held_lock}"
        )
        refused = ", ".join(f"{who} {count}" for who, count in self.fullness.refused.items())
        yield f"disk full: {self.fullness.how or 'not done'}; writes refused: {refused or 'none'}"
        for name, verdict in self.verdicts.items():
            lines = verdict.written
            yield (
                f"{name}: {verdict.records:,} records, {lines.expected:,} anomalies, {verdict.objects:,} objects; "
                f"lost {lines.lost}, repeated {lines.repeated}, different {lines.different}, foreign {lines.foreign}; "
                f"lag {verdict.lag}"
            )
        yield f"{self.seconds:.0f} s, seed {self.seed}: {'all promises kept' if self.right else 'FAILED'}"


def scenario(verdict: Verdict) -> dict[str, Any]:
    return {
        "records": verdict.records,
        "objects": verdict.objects,
        "stream": verdict.published.figures(),
        "written": verdict.written.figures(),
        "error_records": verdict.refused.found,
        "lag": verdict.lag,
        "ok": verdict.right,
    }
