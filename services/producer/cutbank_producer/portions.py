"""What a producer publishes in one step, and what gives it: the seam between made-up trades and replayed input."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cutbank.records import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Messages that go out together: all of them or none, where the transport can."""

    messages: Sequence[Message]
    """The records, in order, then their labels."""
    records: int
    labels: int = 0
    offset_s: float | None = None
    """Its place in the source's own time, seconds after any fixed start; None: it has none."""
    lines: Sequence[int] = ()
    """Where each record ends in the input; empty for made-up trades."""


class Source(Protocol):
    """Gives portions, one at a time."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    async def next(self, records_max: int) -> Portion | None:
        """The next 1 to `records_max` records; None at the end. Raises UsageError."""
        ...


def round_robin(partition_ids: Sequence[str]) -> Iterator[str]:
    """The partitions in turn, for ever."""
    return itertools.cycle(partition_ids)
