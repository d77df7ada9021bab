"""What audits say: findings by name, each counted and with a few examples. Values and one collector; no I/O.

Two audits share this: the recount of a whole pipeline (`accounts`) and the audit of a bucket (`verifying`). Each owns
the names of what can be wrong in it.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

EXAMPLES_MAX = 5
"""How many examples a finding names; the rest is counted."""


class Kind(Enum):
    """What can be wrong: a name for people, and what it says. An audit's own kinds derive from this."""

    label: str
    meaning: str


K = TypeVar("K", bound=Kind)


@dataclass(frozen=True, slots=True)
class Finding(Generic[K]):
    """One thing that is wrong, how often, and where for example."""

    kind: K
    count: int
    examples: tuple[str, ...]
    """Up to `EXAMPLES_MAX` places."""

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.kind.label}: {self.count:,} ({self.kind.meaning}): {'; '.join(self.examples)}{more}"


@dataclass(slots=True)
class _Found:
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Findings(Generic[K]):
    """Collects findings. One task or thread at a time."""

    def __init__(self, kinds: type[K]) -> None:
        self._kinds = kinds
        self._found: dict[K, _Found] = {}

    def note(self, kind: K, example: str) -> None:
        """One more of this kind."""
        found = self._found.setdefault(kind, _Found())
        found.count += 1
        if len(found.examples) < EXAMPLES_MAX:
            found.examples.append(example)

    def all(self) -> tuple[Finding[K], ...]:
        """What was found, in the order of the kinds."""
        return tuple(
            Finding(kind, self._found[kind].count, tuple(self._found[kind].examples))
            for kind in self._kinds
            if kind in self._found
        )
