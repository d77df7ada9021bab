"""How far one live partition is behind, as gauges: in records, and in seconds.

Owns the two lag gauges of a scorer's partition. What was received and is not published yet counts as behind, so a
publish that hangs shows as a lag that grows, though everything has been read. Event-loop only; asks nobody.
"""

from collections import deque
from dataclasses import dataclass

from cutbank.clock import Clock
from cutbank.metrics import Metrics
from cutbank.records import Batch, Partition, Position

ROLE = "scorer"


@dataclass(frozen=True, slots=True)
class _InHand:
    """A batch that was received and is not published yet."""

    end: Position
    records: int
    arrival_ms_first: int


class LagGauges:
    """The lag of one partition, as long as it is live in this process."""

    def __init__(self, partition: Partition, *, clock: Clock, metrics: Metrics) -> None:
        self._label = str(partition)
        self._clock = clock
        self._metrics = metrics
        # Bounded: a worker has at most three batches of a partition in memory.
        self._in_hand: deque[_InHand] = deque()
        self._unread = 0
        self._waited_s = 0.0

    def received(self, batch: Batch) -> None:
        """Records are in hand, and no longer unread."""
        if len(batch):
            self._in_hand.append(_InHand(batch.end, len(batch), batch.arrivals_ms[0]))
            self._unread = max(0, self._unread - len(batch))

    def published(self, end: Position) -> None:
        """All before this position is durable."""
        while self._in_hand and self._in_hand[0].end <= end:
            self._waited_s = self._since_s(self._in_hand.popleft())

    def unread(self, records: int) -> None:
        """What the log has beyond what was received."""
        self._unread = records

    def tell(self) -> None:
        """Set both, as of now."""
        records = self._unread + sum(batch.records for batch in self._in_hand)
        # Without a batch in hand, what lies unread has waited about as long as the last one had.
        oldest_s = self._since_s(self._in_hand[0]) if self._in_hand else self._waited_s
        self._set(records, oldest_s if records else 0.0)

    def clear(self) -> None:
        """The partition is somebody else's to report."""
        self._set(0, 0.0)

    def _since_s(self, batch: _InHand) -> float:
        return max(0.0, (self._clock.now_ms() - batch.arrival_ms_first) / 1000.0)

    def _set(self, records: int, seconds: float) -> None:
        self._metrics.set("cutbank_lag_records", records, role=ROLE, partition=self._label)
        self._metrics.set("cutbank_lag_seconds", seconds, role=ROLE, partition=self._label)
