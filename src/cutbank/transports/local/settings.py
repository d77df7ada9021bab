"""What can be set on the embedded log, and the URL that names it. Values only; no I/O.

`local:///absolute/path/log.db` or `local://relative/path/log.db`; query parameters set the fields of `LocalSettings`,
as in `local://data/log.db?durability=process-crash&heartbeat_ms=250`. Paths may be percent-encoded.
"""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote

from pydantic import Field, model_validator

from cutbank.errors import UsageError
from cutbank.settings import Settings, settings_of

SCHEME = "local"

SESSION_BEATS_MIN = 3
"""A session time-out spans at least as many heartbeats, so that one late beat kills nobody."""


class LocalSettings(Settings):
    """How the embedded log behaves for this process. Processes on one file may differ: members bring their own."""

    durability: Literal["power-loss", "process-crash"] = "power-loss"
    """What an acknowledged write survives. power-loss: every commit is synced to disk. process-crash: faster, and a
    power failure or kernel crash may take the last commits, never the log's consistency."""
    heartbeat_ms: int = Field(default=500, ge=10, le=60_000)
    """Pause between two heartbeats of a group member, ms, 10 to 60000."""
    session_timeout_ms: int = Field(default=5_000, ge=30, le=600_000)
    """A member whose counter stands still for so long, as the others see it, has left, ms; at least 3 heartbeats."""
    hand_over_ms: int = Field(default=10_000, ge=0, le=600_000)
    """Time to give a revoked partition back, ms; then it is taken away."""
    poll_ms: int = Field(default=10, ge=1, le=1_000)
    """Longest pause between two looks at the file while somebody waits for records, ms; after news it is 2 ms."""
    busy_ms: int = Field(default=10_000, ge=10, le=600_000)
    """How long a call waits for the file's write lock before it raises StreamUnavailable, ms."""
    retention_check_ms: int = Field(default=10_000, ge=10, le=3_600_000)
    """Pause between two searches for records past retention, ms, in a process that writes."""

    @model_validator(mode="after")
    def _session_spans_beats(self) -> Self:
        if self.session_timeout_ms < SESSION_BEATS_MIN * self.heartbeat_ms:
            raise ValueError(
                f"session_timeout_ms ({self.session_timeout_ms}) must be at least {SESSION_BEATS_MIN} times "
                f"heartbeat_ms ({self.heartbeat_ms})"
            )
        return self


def parse_url(url: str) -> tuple[Path, LocalSettings]:
    """The file and the settings that a URL names. Raises UsageError: one line that names the part that is wrong."""
    scheme, separator, rest = url.partition("://")
    if scheme != SCHEME or not separator:
        raise UsageError(f"transport URL {url!r}: expected local:///absolute/log.db or local://relative/log.db")
    path_text, _, _ = rest.partition("?")
    path = unquote(path_text)
    if not path or path.endswith("/") or "\0" in path:
        raise UsageError(f"transport URL {url!r}: no file is named; write for example local://data/log.db")
    return Path(path), settings_of("transport URL", url, LocalSettings)
