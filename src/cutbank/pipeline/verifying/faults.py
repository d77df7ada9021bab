"""What can be wrong in a bucket, by name. Values only."""

from dataclasses import dataclass

from cutbank.pipeline.findings import Kind
from cutbank.pipeline.sinking.claims import ChainId


class Fault(Kind):
    """Every fault that the audit of a root can find: its name, and what it says."""

    def __init__(self, label: str, meaning: str) -> None:
        self.label = label
        self.meaning = meaning

    MISSING_BIRTH = ("missing birth", "chains without their first link, which no lifecycle rule may remove")
    MISSING_CLAIM = ("missing claim", "holes in a chain: a claim starts after the one before it ended")
    OVERLAPPING_CLAIMS = ("overlapping claims", "claims that start before the one before them ended")
    UNREADABLE_CLAIM = ("unreadable claim", "documents of a chain that can't be read")
    WRONG_MARKS = (
        "wrong marks",
        "claims whose high-water marks do not follow from what came before, or from the lines",
    )
    MISSING_OBJECT = ("missing object", "objects that a claim names and that are not there")
    CUT_OBJECT = ("cut object", "objects that hold less than their claim says")
    CHANGED_BYTE = ("changed byte", "objects whose bytes are not those that their claim has hashed")
    DOUBLED_LINE = ("doubled line", "anomalies that are in the objects more than once")
    FOREIGN_LINE = ("foreign line", "lines of another pipeline's anomalies")
    WRONG_ORDER = ("wrong order", "objects whose lines are not by second, then score, then position")
    WRONG_COUNT = ("wrong count", "objects with another number of lines than their claim says")
    WRONG_MINUTE = ("wrong minute", "objects, lines or claims that lie in another minute, or folder, than theirs")
    WRONG_NAME = ("wrong name", "objects that are not named after their claim")
    TWO_CHAINS = ("one source in two chains", "anomalies of a source partition that lie, interleaved, in two chains")
    FOREIGN_FILE = ("foreign file", "files that no claim names")
    ANOTHER_RECORD = ("another record", "claims whose first record is not the one that the log holds there")
    MISSING_ANOMALY = ("missing anomaly", "anomalies of the log that the pipeline has passed and that are in no object")
    DIFFERENT_ANOMALY = ("different anomaly", "lines that are not what an undisturbed run gives for their record")
    EXTRA_ANOMALY = ("extra anomaly", "lines of records that are no anomaly in an undisturbed run")
    MISSING_ERROR = ("missing error", "error records that the pipeline has passed and that are in no object")
    DIFFERENT_ERROR = ("different error", "error records that are not what an undisturbed run gives for their record")
    EXTRA_ERROR = ("extra error", "error records of records that are none in an undisturbed run")


@dataclass(slots=True)
class ChainAccount:
    """What was found of one chain."""

    chain: ChainId
    claims: int = 0
    objects: int = 0
    """Those that are there."""
    lines: int = 0
    """In objects that are as their claim says."""
    bytes: int = 0
    """As stored."""
    minute_first_ms: int | None = None
    minute_last_ms: int | None = None
    given_up: int = 0
    """Claims with a `.lost` mark, or of records lost unread."""
    unidentified: int = 0
    """Lines that are no anomaly of any pipeline's: published by somebody else, kept as they came."""
