"""What a run on Kafka came to: as a table for people, as JSON for the page that is made of it. Values only."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.checks import Verdict
from chaos.kafka_faults import FAULTS
from chaos.kafka_kills import kills_in
from chaos.kafka_stage import Stage
from chaos.kills import EXACT, Sort, Tally
from chaos.outcome import scenario
from chaos.points import NEEDED, Point

FIGURES = (
    "records",
    "anomalies",
    "error_lines",
    "lost",
    "repeated",
    "different",
    "foreign",
    "positions_ahead",
    "lag",
)
"""What is counted of each fault, and summed."""


@dataclass
class Played:
    """One fault, or a planted bug under it."""

    name: str
    stage: Stage | None = None
    verdict: Verdict | None = None
    """None: it did not come to that."""
    trouble: str = ""
    """Why it could not go on; empty: it did."""
    seconds: float = 0.0

    @property
    def happened(self) -> Counter[str]:
        """What was done, and how often."""
        return Counter() if self.stage is None else self.stage.happened

    @property
    def tally(self) -> Tally:
        """Kills by where they fell."""
        return Tally() if self.stage is None else self.stage.tally

    @property
    def ahead(self) -> list[str]:
        """Where a position was ahead of what is durable."""
        return [] if self.stage is None else [*self.stage.ahead, *self.stage.tally.findings]

    @property
    def findings(self) -> list[str]:
        """Everything that is wrong, for people."""
        found = [self.trouble] if self.trouble else []
        found += self.ahead
        if self.stage is not None:
            found += [*self.stage.findings, *self.stage.zombies.findings]
        if self.verdict is not None:
            found += [*self.verdict.findings, *self.verdict.examples]
        if self.tally.kills:
            found += [f"no kill fell {point}: not tested" for point in NEEDED if not self.tally.at(point)]
        return [f"{self.name}: {finding}" for finding in found]

    @property
    def right(self) -> bool:
        """Whether all promises were kept."""
        return not self.findings and self.verdict is not None and self.verdict.right

    @property
    def figures(self) -> dict[str, int]:
        """The counts of what must not be, and of what there was."""
        if self.verdict is None:
            return {}
        verdict = self.verdict
        lines = (verdict.published, verdict.written, verdict.refused)
        return {
            "records": verdict.records,
            "anomalies": verdict.written.expected,
            "error_lines": verdict.refused.expected,
            "lost": sum(one.lost for one in lines),
            "repeated": sum(one.repeated for one in lines),
            "different": sum(one.different for one in lines),
            "foreign": sum(one.foreign for one in lines),
            "positions_ahead": len(self.ahead),
            "lag": verdict.lag,
        }

    @property
    def summary(self) -> str:
        """One line."""
        counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in self.figures.items())
        return f"{counts or 'did not come to an end'}; {self.seconds:.0f} s{'' if self.right else ': NOT KEPT'}"

    @property
    def caught(self) -> str:
        """Of a planted bug: by what it was caught; empty: it was not."""
        wrong = ("lost", "repeated", "different", "foreign", "positions_ahead")
        found = [f"{name.replace('_', ' ')} {self.figures[name]}" for name in wrong if self.figures.get(name)]
        if self.stage is not None and (self.stage.findings or self.stage.zombies.findings):
            found.append("a zombie's write was taken")
        if not self.figures and self.ahead:
            found.append(f"positions ahead {len(self.ahead)}")
        return ", ".join(found)


@dataclass
class KafkaOutcome:
    """Everything that is reported."""

    seed: int
    broker: str
    played: list[Played] = field(default_factory=list)
    planted: dict[str, Played] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def findings(self) -> list[str]:
        """Everything that is wrong, for people."""
        found = [finding for played in self.played for finding in played.findings]
        for plant, played in self.planted.items():
            if not played.caught:
                found += [f"planted bug {plant} was not caught by: {played.name}", *played.findings]
        return found

    @property
    def right(self) -> bool:
        """Whether the run shows what it is to show."""
        return not self.findings and all(played.right for played in self.played)

    @property
    def kills(self) -> Counter[tuple[str, Sort, Point]]:
        """All of the plans' kills."""
        return sum((played.tally.kills for played in self.played), Counter())

    @property
    def kills_total(self) -> int:
        """Processes killed, whatever fault it was of."""
        return sum(kills_in(played.happened) for played in self.played)

    def result(self) -> dict[str, Any]:
        """As JSON."""
        figures: Counter[str] = Counter()
        for played in self.played:
            figures.update(played.figures)
        return {
            "form": "chaos-kafka",
            "seed": self.seed,
            "ok": self.right,
            "broker": self.broker,
            "seconds": round(self.seconds, 1),
            **figures,
            "kills_total": self.kills_total,
            "kills_at_random": {
                role: sum(n for (who, sort, _), n in self.kills.items() if who == role and sort is Sort.RANDOM)
                for role in EXACT
            },
            "points": {
                str(point): {
                    str(sort): sum(n for (_, how, where), n in self.kills.items() if where is point and how is sort)
                    for sort in Sort
                }
                for point in Point
            },
            "faults": {played.name: _fault(self.seed, played) for played in self.played},
            "plants": {
                plant: {"fault": played.name, "caught": bool(played.caught), "by": played.caught}
                for plant, played in self.planted.items()
            },
            "findings": self.findings,
        }

    def table(self) -> Iterator[str]:
        """The lines to print."""
        for played in self.played:
            yield f"{played.name}: {played.summary}"
            for what, count in sorted(played.happened.items()):
                yield f"    {count:4}  {what}"
        for plant, played in self.planted.items():
            yield f"planted {plant}, under {played.name}: {played.caught or 'NOT CAUGHT'}; {played.seconds:.0f} s"
        yield f"{self.kills_total} processes killed, at random: " + ", ".join(
            f"{role} {count}" for role, count in self.result()["kills_at_random"].items()
        )
        yield (
            f"{self.broker}, {self.seconds:.0f} s, seed {self.seed}: {'all promises kept' if self.right else 'FAILED'}"
        )


def renewed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A result with those faults that were played again in place of what they came to before, and all sums anew."""
    faults, plants = {**before["faults"], **now["faults"]}, {**before["plants"], **now["plants"]}
    anew = tuple([f"{name}: " for name in now["faults"]] + [f"planted bug {plant} " for plant in now["plants"]])
    base = {**before, **now} if "kills" in now["faults"] else {**now, **before}  # whose points are the kills'
    return {
        **base,
        "ok": all(fault["ok"] for fault in faults.values()) and all(one["caught"] for one in plants.values()),
        "seconds": round(sum(fault["seconds"] for fault in faults.values()), 1),
        **{figure: sum(fault.get(figure, 0) for fault in faults.values()) for figure in FIGURES},
        "kills_total": sum(kills_in(fault["happened"]) for fault in faults.values()),
        "faults": {fault.name: faults[fault.name] for fault in FAULTS if fault.name in faults},
        "plants": plants,
        "findings": [*(old for old in before["findings"] if not old.startswith(anew)), *now["findings"]],
    }


def _fault(seed: int, played: Played) -> dict[str, Any]:
    return {
        "seed": seed,
        "ok": played.right,
        "happened": dict(sorted(played.happened.items())),
        **played.figures,
        "seconds": round(played.seconds, 1),
        "detail": None if played.verdict is None else scenario(played.verdict),
    }
