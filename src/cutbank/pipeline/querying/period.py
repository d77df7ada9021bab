"""The period of a query, and which claims may hold lines of it. Values only.

A line belongs to the period in which its time lies (ROWTIME; of an error, ERROR_TIME), which is when its record
arrived; one without a time belongs to the minute of its claim. Claims are found by the minute in which the *line*
arrived, which is that of the record or later: by milliseconds as a rule, by hours if the scorer was behind. Along a
chain the times of one source partition never go back, so reading goes on past the end until the lines are of later
times, and `LATE_MS` further, for source partitions that are behind the others.
"""

from dataclasses import dataclass

from cutbank.pipeline.sinking.claims import MINUTE_MS

EARLY_MS = 60_000
"""How much earlier than its ROWTIME a line's minute may be: the clocks of two brokers differ."""

LATE_MS = 600_000
"""How much longer claims are read after the last one that held a line of the period, ms of their minutes."""


@dataclass(frozen=True, slots=True)
class Period:
    """From `from_ms` to before `to_ms`, milliseconds since the epoch; None: without end."""

    from_ms: int | None = None
    to_ms: int | None = None

    def __contains__(self, time_ms: int) -> bool:
        return (self.from_ms is None or self.from_ms <= time_ms) and (self.to_ms is None or time_ms < self.to_ms)

    @property
    def minute_first_ms(self) -> int | None:
        """Claims of earlier minutes hold nothing of it."""
        return None if self.from_ms is None else (self.from_ms - EARLY_MS) // MINUTE_MS * MINUTE_MS

    def is_within(self, minute_ms: int) -> bool:
        """Whether a claim of this minute is read in any case; later ones as far as `Tail` says."""
        return self.to_ms is None or minute_ms < self.to_ms


class Tail:
    """How far a chain is read past the period's end. One chain's, in order."""

    def __init__(self, period: Period) -> None:
        assert period.to_ms is not None, "without an end nothing is past it"
        self._until_ms = period.to_ms + LATE_MS
        self._read = False

    def wants(self, minute_ms: int) -> bool:
        """Whether the next claim is read: the first one always, since after an outage it is where lines go on."""
        return not self._read or minute_ms < self._until_ms

    def was_read(self, minute_ms: int, *, rows: int) -> None:
        """A claim gave so many lines of the period."""
        self._read = True
        if rows:
            self._until_ms = max(self._until_ms, minute_ms + LATE_MS)
