"""What one fault of a run came to, whatever the servers: figures, findings, a line for people. Values only."""

from collections import Counter
from dataclasses import dataclass

from chaos.checks import Verdict
from chaos.kills import Tally
from chaos.points import NEEDED
from chaos.stage import Stage

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

NOT_TESTED = ": not tested"
"""How a finding ends that is none of the services', but of a run that has missed what it was to hit."""

CAUGHT_CHARACTERS = 100
"""Of a finding, in a word on how a planted bug was caught."""


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
        lines = verdict.lines
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
    def wrong_objects(self) -> list[str]:
        """Findings about objects: without a claim, missing, or of other content."""
        return [] if self.verdict is None else [each for each in self.verdict.findings if each.startswith("object ")]

    @property
    def caught(self) -> str:
        """Of a planted bug: by what it was caught; empty: it was not."""
        wrong = ("lost", "repeated", "different", "foreign", "positions_ahead")
        found = [f"{name.replace('_', ' ')} {self.figures[name]}" for name in wrong if self.figures.get(name)]
        if self.stage is not None:
            findings = (*self.stage.findings, *self.stage.zombies.findings)
            said = [finding for finding in findings if not finding.endswith(NOT_TESTED)]
            found += [finding.splitlines()[0][:CAUGHT_CHARACTERS] for finding in said[:1]]
        if self.wrong_objects:
            found.append(f"{len(self.wrong_objects)} objects not as claimed")
        if not self.figures and self.ahead:
            found.append(f"positions ahead {len(self.ahead)}")
        return ", ".join(found)
