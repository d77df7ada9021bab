"""Every error that Cutbank raises, in one tree. An error's type carries the reaction that is right for it.

- `retryable`: the same call may be made again, after a pause; nothing was done, or doing it again is harmless.
- `OutcomeUnknown`: it may have been done. Fence, read the committed position, then decide.
- `Fenced`: the partition belongs to somebody else. Drop its output and model; take it up again from the start.
- `PartitionStopped` and below: loud. The partition stops until somebody acts; the message says what to do.
- `UsageError`: the command line, a setting or the spec is wrong; exit code 2.

No I/O, no state.
"""

from typing import ClassVar


class CutbankError(Exception):
    """The root. The message says what, where, and what to do."""

    retryable: ClassVar[bool] = False


class UsageError(CutbankError):
    """A wrong setting, option, URL or spec: one line that names it. The command line answers with exit code 2."""


class MissingExtra(UsageError):
    """An optional dependency is not installed; the message names the extra."""


class StreamError(CutbankError):
    """A transport's error."""


class StreamUnavailable(StreamError):
    """The broker can't be reached, is busy or throttles; nothing was done. Retry."""

    retryable = True


class OutcomeUnknown(StreamError):
    """A write was sent and its answer lost. It may be there: fence, then read the committed position."""


class StreamMissing(StreamError):
    """The stream does not exist; the message says how to make it."""


class Fenced(StreamError):
    """The right to this partition has passed to somebody else: given up."""


class MessageTooLarge(StreamError):
    """A message exceeds what the stream takes."""

    def __init__(self, message: str, *, bytes_max: int) -> None:
        super().__init__(message)
        self.bytes_max = bytes_max


class StoreError(CutbankError):
    """An object store's error."""


class StoreUnavailable(StoreError):
    """The store can't be reached, is busy or full; a put may have been done. Retry: puts are create-only."""

    retryable = True


class AlreadyExists(StoreError):
    """A create-only put found its key taken. Not a failure: whoever asks reads what is there."""


class ObjectMissing(StoreError):
    """No object under this key."""


class ObjectUnreadable(StoreError):
    """An object's body is not what its layout says: cut, damaged, or larger than it may be when decompressed."""


class StoreRefused(UsageError):
    """The store can't be used as asked: no permission, no such bucket, or it ignores create-only puts."""


class SnapshotUnusable(CutbankError):
    """A snapshot is corrupt, cut off, of another version or of another spec. The one before it is tried."""


class PartitionStopped(CutbankError):
    """What cannot be kept: this partition stops, loudly, until somebody acts."""

    reason: ClassVar[str] = "stopped"
    """One word for the log line "partition stopped"."""


class PositionLost(PartitionStopped):
    """The position to go on from is past retention: records are gone that nobody has read."""

    reason = "position_lost"


class StateLost(PartitionStopped):
    """No usable snapshot is left, and the records to rebuild the model from are gone, or the birth is missing."""

    reason = "state_lost"


class AnotherStream(PartitionStopped):
    """A stream of another identity has taken this one's name."""

    reason = "another_stream"


class ObjectsLost(PartitionStopped):
    """A claim's objects are missing and its records are no longer retained."""

    reason = "objects_lost"


class LogDamaged(PartitionStopped):
    """The log itself is damaged, or its file was removed or replaced while it was in use."""

    reason = "log_damaged"


class DetectorMismatch(CutbankError):
    """A detector's scores of the fixed input differ from the frozen digest: it refuses to run on this machine."""
