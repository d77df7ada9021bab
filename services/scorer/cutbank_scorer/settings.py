"""The scorer's settings: what every service is told, how the scorer runs, and where it keeps its state. Values only."""

from pydantic import Field

from cutbank.pipeline.scoring import ScorerConfig
from cutbank.runtime.settings import ServiceSettings


class ScorerSettings(ScorerConfig, ServiceSettings):
    """Settings of `cutbank score` and `python -m cutbank_scorer`."""

    state_url: str = Field(default="file://data/state", min_length=1)
    """The object store that keeps births and snapshots: file://FOLDER."""
