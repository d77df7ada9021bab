"""Where a demo's records come from: made up, standard input, or a file known by its first bytes. Values and one read.

A file is gone on with by skipping as many records as the log has, which is right only for the file that those came
from. Its name is no proof: another may have the same, or have taken its place. Blocking, and short.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cutbank.errors import UsageError

STDIN = "-"

HEAD_BYTES = 64 << 10
"""How much of a file is looked at, as it lies there: a compressed one is not unpacked."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the records of a log come from."""

    kind: str
    """`made up`, `standard input`, `file`, or `other` (a pipe, say, which can't be read twice)."""
    bytes: int = 0
    """How many of a file's first bytes are hashed: all of a short one, which may grow."""
    sha256: str = ""
    """Of these, hex; empty where it is no file."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Origin | None":
        """The inverse; None for anything else."""
        try:
            fields = json.loads(text)
            return cls(kind=str(fields["kind"]), bytes=int(fields["bytes"]), sha256=str(fields["sha256"]))
        except (ValueError, KeyError, TypeError):
            return None


def origin_of(path: str | None, *, bytes_max: int = HEAD_BYTES) -> Origin:
    """Of an input as it was asked for (None: made up). Raises UsageError when it can't be read."""
    if path is None:
        return Origin("made up")
    if path == STDIN:
        return Origin("standard input")
    try:
        if not Path(path).is_file():
            return Origin("other")
        with Path(path).open("rb") as file:
            head = file.read(min(bytes_max, HEAD_BYTES))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    return Origin("file", len(head), hashlib.sha256(head).hexdigest())
