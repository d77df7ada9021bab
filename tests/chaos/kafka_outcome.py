"""What a run on Kafka came to: as a table for people, as JSON for the page that is made of it. Values only."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.kafka_faults import FAULTS
from chaos.kafka_kills import kills_in
from chaos.kills import EXACT, Sort
from chaos.outcome import scenario
from chaos.played import FIGURES, Played
from chaos.points import Point


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
