"""What a recount found: the accounts of a pipeline, as values. Owns the names of everything that can be wrong.

Record by record, and not only as sums: every record of the source is scored or in the error stream, exactly once;
every anomaly is one line in the objects, byte for byte as it was published, and so is every error where errors are
sunk; every object is as a claim says. Lines of other pipelines are no part of it. Values only; no I/O.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from cutbank.pipeline.findings import Finding, Kind
from cutbank.records import Position, position_from_text, position_text


class Side(Enum):
    """The equation that a finding breaks."""

    RECORDS = "records produced = scored + errors"
    ANOMALIES = "anomalies scored = anomalies in objects"
    ERRORS = "errors = errors in objects"


class FindingKind(Kind):
    """What can be wrong: its name, the equation that it breaks, what it says."""

    def __init__(self, label: str, side: Side, meaning: str) -> None:
        self.label = label
        self.side = side
        self.meaning = meaning

    NOT_PROCESSED = ("not processed yet", Side.RECORDS, "records that the scorer has not come to: it still lags")
    LOST = ("lost record", Side.RECORDS, "records that the scorer has passed, neither scored nor in the error stream")
    SCORED_TWICE = ("scored twice", Side.RECORDS, "records with more than one line in [scores]")
    REFUSED_TWICE = ("refused twice", Side.RECORDS, "records with more than one line in [errors]")
    SCORED_AND_REFUSED = ("scored and refused", Side.RECORDS, "records both in [scores] and in [errors]")
    OF_NO_RECORD = ("of no record", Side.RECORDS, "lines in [scores] or [errors] whose SOURCE is no record")
    UNREADABLE_RECORD = ("unreadable line in the log", Side.RECORDS, "lines in the log that are not as they should be")
    NOT_PUBLISHED = ("anomaly not published", Side.ANOMALIES, "scores over the threshold that are not in [anomalies]")
    PUBLISHED_TWICE = ("anomaly published twice", Side.ANOMALIES, "anomalies that are in [anomalies] more than once")
    NEVER_SCORED = ("anomaly never scored", Side.ANOMALIES, "anomalies in [anomalies] with no such score in [scores]")
    DIFFERS = ("anomaly differs", Side.ANOMALIES, "anomalies whose line in [anomalies] is not that in [scores]")
    NOT_WRITTEN = ("not written yet", Side.ANOMALIES, "anomalies that the sink has not come to: it still lags")
    MISSING_LINE = ("missing line", Side.ANOMALIES, "anomalies that the sink has passed and that are in no object")
    DOUBLED_LINE = ("doubled line", Side.ANOMALIES, "anomalies that are in the objects more than once")
    MISSING_OBJECT = ("missing object", Side.ANOMALIES, "objects that a claim names and that are not there")
    GIVEN_UP = ("given up for lost", Side.ANOMALIES, "stretches of [anomalies] that a setting gave up")
    UNREADABLE_CLAIM = ("unreadable claim", Side.ANOMALIES, "claims that can't be read")
    DIFFERENT_OBJECT = ("object differs from its claim", Side.ANOMALIES, "objects that are not as their claim says")
    UNCLAIMED_OBJECT = ("object without a claim", Side.ANOMALIES, "objects that no claim names")
    ALTERED_LINE = ("altered line", Side.ANOMALIES, "lines in objects that differ from what was published")
    FOREIGN_LINE = ("foreign line", Side.ANOMALIES, "lines in objects that are no anomaly or error of this pipeline")
    ERROR_NOT_WRITTEN = ("error not written yet", Side.ERRORS, "errors that the sink has not come to: it still lags")
    ERROR_MISSING = ("missing error", Side.ERRORS, "errors that the sink has passed and that are in no object")
    ERROR_DOUBLED = ("doubled error", Side.ERRORS, "errors that are in the objects more than once")
    UNREADABLE_LINE = ("unreadable line", Side.ANOMALIES, "lines in objects that are no JSON row with a SOURCE")


@dataclass(frozen=True, slots=True)
class Quality:
    """Anomalies found against the producer's labels, over all scored records, warm-up left out."""

    warm_up: int
    """Records left out: the leading ones of each run whose score is 0."""
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float | None:
        """Share of the anomalies found that are labelled so; None where none was found."""
        found = self.true_positives + self.false_positives
        return self.true_positives / found if found else None

    @property
    def recall(self) -> float | None:
        """Share of the labelled anomalies that were found; None where none is labelled."""
        labelled = self.true_positives + self.false_negatives
        return self.true_positives / labelled if labelled else None


@dataclass(frozen=True, slots=True)
class Accounts:
    """What lies in the log and in the objects."""

    produced: int
    """Records of the source that are retained."""
    scored: int
    """Distinct records in [scores] (a record too large to publish as an anomaly counts as an error)."""
    errors: int
    """Distinct records in [errors]."""
    errors_by_reason: tuple[tuple[str, int], ...]
    """Most frequent first."""
    anomalies: int
    """Records scored over the threshold."""
    lines: int
    """Anomalies' lines in the data objects, those of records past retention left out."""
    objects: tuple[str, ...]
    """Keys of the data objects, in order."""
    past_retention: int
    """Lines about records that the log no longer holds: beyond checking, left out of everything above."""
    findings: tuple[Finding[FindingKind], ...]
    """Everything that is wrong; empty when the accounts balance."""
    quality: Quality | None
    """None where there are no labels."""
    error_lines: int | None = None
    """Errors' lines in the data objects, those of records past retention left out; None: errors are not sunk."""

    @property
    def balanced(self) -> bool:
        """Whether nothing at all is wrong."""
        return not self.findings

    def holds(self, side: Side) -> bool:
        """Whether one equation holds, record by record."""
        return not any(finding.kind.side is side for finding in self.findings)


class SourceId(NamedTuple):
    """An anomaly's identity, as its SOURCE says."""

    partition: str
    position: int
    run: int
    ordinal: int

    def __str__(self) -> str:
        return f"{self.partition}/{position_text(Position(self.position))} (run {self.run})"


def source_id(row: Any, *, pipeline: str) -> SourceId | None:
    """The SOURCE of a decoded line; None: another pipeline's line. Raises ValueError when it has none."""
    try:
        source = row["SOURCE"]
        writer = source["pipeline"]
        run, ordinal, partition = source["run"], source["ordinal"], source["partition"]
        position = position_from_text(source["position"])
    except (KeyError, TypeError, AttributeError):
        raise ValueError("no SOURCE") from None
    if type(writer) is not str or type(run) is not int or type(ordinal) is not int or type(partition) is not str:
        raise ValueError("not a SOURCE")
    return SourceId(partition, position, run, ordinal) if writer == pipeline else None
