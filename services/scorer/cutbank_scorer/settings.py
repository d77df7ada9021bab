"""The scorer's settings: what every service is told, how the scorer runs, and where it keeps its state. Values only."""

from pydantic import Field

from cutbank.pipeline.scoring import ScorerConfig
from cutbank.runtime.settings import ServiceSettings


class ScorerSettings(ScorerConfig, ServiceSettings):
    """Settings of `cutbank score` and `python -m cutbank_scorer`."""

    state_url: str = Field(default="file://data/state", min_length=1)
    """The object store that keeps births and snapshots: file://FOLDER, or s3://BUCKET/ROOT with parameters."""
    thread_switch_ms: float = Field(default=0.5, ge=0.05, le=100.0)
    """Milliseconds that a thread may keep the interpreter while another one waits for it, 0.05 to 100. Python's own 5
    would be added to every step of a publish, or of packing an object; much less costs throughput."""
