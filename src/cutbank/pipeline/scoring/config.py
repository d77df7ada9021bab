"""The scorer's settings: frozen, documented, with units and ranges. Values only."""

from typing import Literal

from pydantic import Field

from cutbank.settings import Settings
from cutbank.transports.base import Start


class ScorerConfig(Settings):
    """How the scorer runs. Nothing here changes a score: that is the spec's."""

    emit: Literal["anomalies", "all"] = "anomalies"
    """anomalies: publish records over the threshold. all: also publish every record with its score, to [scores]."""
    start: Literal["earliest", "latest", "timestamp"] = "earliest"
    """Where the very first run starts: the oldest record, the next one, or the first at start_timestamp_ms or later."""
    start_timestamp_ms: int = Field(default=0, ge=0)
    """With start=timestamp: milliseconds since the epoch, UTC."""
    on_lost_state: Literal["stop", "new_run"] = "stop"
    """When neither snapshots nor records are left to go on from: stop the partition loudly, or begin a new run from the
    oldest record retained."""
    snapshot_s: float = Field(default=60.0, gt=0.0, le=3600.0)
    """Seconds between snapshots of a partition; a restart replays at most about as much."""
    snapshot_stop_s: float = Field(default=6.0, gt=0.0, le=300.0)
    """Seconds that the last snapshot may take when a partition is handed over or the process stops; less than the
    transport's hand_over_ms, since what is scored is published before."""
    batch_records_max: int = Field(default=4096, ge=1, le=65536)
    """Most records scored at once, and most lines published at once."""
    batch_bytes_max: int = Field(default=4 << 20, ge=1024, le=64 << 20)
    """About the most bytes of values scored at once, and of lines published at once."""
    batches_bytes_max: int = Field(default=64 << 20, ge=1 << 20, le=1 << 40)
    """About the most memory for the batches of all partitions together, bytes, 1 MiB and up: with many partitions each
    one's are smaller, down to 64 records."""
    wait_s: float = Field(default=0.5, gt=0.0, le=10.0)
    """Seconds that a read waits for the first record."""
    threads: int = Field(default=2, ge=1, le=64)
    """Threads that decode and score. A partition uses one at a time."""
    models_kept_max: int = Field(default=8, ge=0, le=1024)
    """Models of partitions handed over that stay in memory, in case they come back."""
    models_bytes_max: int = Field(default=4 << 30, ge=1 << 20, le=1 << 44)
    """Most memory for models, live and kept, bytes, 1 MiB and up; a partition whose model has no room waits, loudly."""
    output_partitions: int = Field(default=1, ge=1, le=10_000)
    """Partitions of the output streams where the scorer makes them; existing streams stay as they are."""
    source_wait_s: float = Field(default=60.0, ge=0.0, le=86_400.0)
    """Seconds to wait at start for the source stream to exist: services start in any order."""

    def first_start(self) -> Start:
        """Where the very first run starts, as transports take it."""
        return Start(at=self.start, timestamp_ms=self.start_timestamp_ms)
