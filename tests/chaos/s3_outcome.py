"""What a run on S3 came to: as a table for people, as JSON for the page that is made of it. Values only."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.outcome import scenario
from chaos.played import FIGURES, Played
from chaos.s3_faults import FAULTS

_KILLED = re.compile(r"killed (?!with )|scorer killed")
"""Of what happened: a process killed, each named once so."""


@dataclass
class S3Outcome:
    """Everything that is reported."""

    seed: int
    server: str
    short: bool = False
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

    def result(self) -> dict[str, Any]:
        """As JSON."""
        faults = {played.name: _fault(self.seed, played) for played in self.played}
        return {
            "form": "chaos-s3",
            "seed": self.seed,
            "ok": self.right,
            "server": self.server,
            "short": self.short,
            "seconds": round(self.seconds, 1),
            **_sums(faults),
            "faults": faults,
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
                yield f"    {count:6}  {what}"
        for plant, played in self.planted.items():
            yield f"planted {plant}, under {played.name}: {played.caught or 'NOT CAUGHT'}; {played.seconds:.0f} s"
        yield (
            f"{self.server}, {self.result()['kills_total']} processes killed, {self.seconds:.0f} s, seed {self.seed}: "
            f"{'all promises kept' if self.right else 'FAILED'}"
        )


def kills_in(happened: Mapping[str, int]) -> int:
    """How many of what happened were kills."""
    return sum(count for what, count in happened.items() if _KILLED.match(what))


def renewed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A result with those faults that were played again in place of what they came to before, and all sums anew."""
    faults, plants = {**before["faults"], **now["faults"]}, {**before["plants"], **now["plants"]}
    anew = tuple([f"{name}: " for name in now["faults"]] + [f"planted bug {plant} " for plant in now["plants"]])
    return {
        **now,
        "short": now["short"] or before["short"],
        "ok": all(fault["ok"] for fault in faults.values()) and all(one["caught"] for one in plants.values()),
        "seconds": round(sum(fault["seconds"] for fault in faults.values()), 1),
        **_sums(faults),
        "faults": {fault.name: faults[fault.name] for fault in FAULTS if fault.name in faults},
        "plants": plants,
        "findings": [*(old for old in before["findings"] if not old.startswith(anew)), *now["findings"]],
    }


def _sums(faults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    fell: Counter[str] = Counter()
    for fault in faults.values():
        fell.update({what: count for what, count in fault["happened"].items() if _KILLED.match(what)})
    return {
        **{figure: sum(fault.get(figure, 0) for fault in faults.values()) for figure in FIGURES},
        "kills_total": sum(fell.values()),
        "fell": dict(sorted(fell.items())),
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
