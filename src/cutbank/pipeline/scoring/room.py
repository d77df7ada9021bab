"""How much a partition may have in hand, given how many there are: one memory limit for all of a process's batches.

Owns the count of partitions at work, no bytes. Invariant: what the partitions at work may receive, score and publish at
the same time is about `batches_bytes_max` together, however many they are; each gets an equal part, down to a least one
that keeps it going. Event-loop only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from cutbank.pipeline.scoring.config import ScorerConfig

RECORDS_MIN = 64
BYTES_MIN = 64 << 10
"""What a batch may hold in any case."""

_BATCHES = 4  # of a partition: one received, one scored, the lines that wait and those that are published
_RECORD_BYTES = 1024  # memory of a small record, parsed


class Room(NamedTuple):
    """Limits of one batch, and of the lines of one step."""

    records_max: int
    bytes_max: int


class Rooms:
    """What all partitions of one process share."""

    def __init__(self, config: ScorerConfig) -> None:
        self._config = config
        self._partitions = 0

    @contextmanager
    def partition(self) -> Iterator[None]:
        """One more is at work."""
        self._partitions += 1
        try:
            yield
        finally:
            self._partitions -= 1

    def room(self) -> Room:
        """Each partition's, now."""
        config = self._config
        share_bytes = config.batches_bytes_max // (_BATCHES * max(1, self._partitions))
        return Room(
            min(config.batch_records_max, max(RECORDS_MIN, share_bytes // _RECORD_BYTES)),
            min(config.batch_bytes_max, max(BYTES_MIN, share_bytes)),
        )
