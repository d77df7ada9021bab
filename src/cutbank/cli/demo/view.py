"""What the demo shows, as values: a snapshot of the log and the folder of objects. No I/O, no drawing.

A `View` is everything that one frame is drawn from, so a frame is a pure function of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cutbank.pipeline.spec import PipelineSpec

RUNNING = "running"
"""The phase in which records come in."""

STARTING = "starting"
"""What `RUNNING` is called until something has been scored."""

STARTING_LONG = "starting: the first start compiles for a while"
"""What it is called when that takes longer than `STARTING_S`."""

STARTING_S = 10.0
"""Seconds after which somebody who waits deserves a word about why."""

RECENT_S = 10.0
"""Anomalies that arrived within so many seconds count as recent."""

COLUMNS_MAX = 6
"""Most columns of a record shown in the table; features always, others as they fit."""

CELL_CHARACTERS_MAX = 24
"""Longest text in a cell of the table."""

HEADINGS = {"tickerSymbol": "ticker", "tradeType": "side"}
"""What people call the columns of the stock trades."""

HIDDEN = frozenset({"id"})
"""Columns that say nothing in a table that is looked at for a second."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table."""

    name: str
    heading: str
    numeric: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One anomaly."""

    arrival_ms: int
    time: str
    """UTC, `HH:MM:SS.mmm`."""
    cells: tuple[str, ...]
    """As the columns are."""
    score: float


@dataclass(frozen=True, slots=True)
class View:
    """One frame."""

    phase: str
    """What is being done, in words."""
    elapsed_s: float
    total_s: float | None
    """How long records are to be produced; None where the input's end decides."""
    records: int
    """Records in the log since the start of this run."""
    records_total: int | None
    """How many the input holds; None where nobody knows."""
    records_per_s: float
    """Records scored, over the last seconds."""
    scorer_lag: int
    """Records in the log that are not scored yet."""
    sink_lag: int
    """Anomalies that are in no object yet: those of the minute that is still open, and what waits."""
    anomalies: int
    """Since the start of this run."""
    errors: int
    """Since the start of this run."""
    learning: tuple[int, int] | None
    """Records learnt and needed before the detector answers; None once it does."""
    columns: tuple[Column, ...]
    recent: tuple[Row, ...]
    """Newest first."""
    objects: int
    newest_object: str
    """Its key; empty while there is none."""
    notes: tuple[str, ...]
    """What went wrong or was done about it, oldest first."""

    @property
    def share_done(self) -> float | None:
        """0 to 1, by time or by records, whichever is further; None where neither has an end."""
        shares = []
        if self.total_s:
            shares.append(self.elapsed_s / self.total_s)
        if self.records_total:
            shares.append((self.records - self.scorer_lag) / self.records_total)
        return min(max(shares), 1.0) if shares else None


def table_columns(spec: PipelineSpec) -> tuple[Column, ...]:
    """Which of the spec's columns the table shows, in the spec's order."""
    names = [column.name for column in spec.columns if column.name not in HIDDEN or column.name in spec.features]
    if len(names) > COLUMNS_MAX:
        others = [name for name in names if name not in spec.features][: max(COLUMNS_MAX - len(spec.features), 0)]
        kept = {*spec.features[:COLUMNS_MAX], *others}
        names = [name for name in names if name in kept]
    return tuple(
        Column(name, HEADINGS.get(name, name), numeric=not spec.type_of(name).startswith(("VARCHAR", "BOOLEAN")))
        for name in names
    )


def row_of(anomaly: dict[str, Any], columns: Sequence[Column], *, arrival_ms: int) -> Row:
    """A row of the table from a decoded anomaly line."""
    score = anomaly.get("ANOMALY_SCORE")
    return Row(
        arrival_ms=arrival_ms,
        time=printable(str(anomaly.get("ROWTIME", ""))[11:23]),
        cells=tuple(_cell(anomaly.get(column.name)) for column in columns),
        score=float(score) if isinstance(score, int | float) else 0.0,
    )


def printable(text: str) -> str:
    """The text with a question mark for whatever would move a terminal's cursor or change its colours."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.8g}" if isinstance(value, float) else printable(str(value))
    return text if len(text) <= CELL_CHARACTERS_MAX else text[: CELL_CHARACTERS_MAX - 1] + "…"
