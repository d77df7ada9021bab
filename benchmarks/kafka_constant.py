"""The scorer service with the fastest detector of all, one that returns a constant: what everything else costs.

`python -m kafka_constant`, told by the same environment as `python -m cutbank_scorer`. Owns nothing.
"""

import dataclasses
import os
import sys
from typing import Self

import numpy as np

from cutbank.detectors.base import Features, Scores
from cutbank.objects import open_store
from cutbank.pipeline.scoring import DetectorSource, run_scorer
from cutbank.pipeline.spec import load_spec
from cutbank.runtime.service import Runtime, service_main
from cutbank.transports import open_transport
from cutbank_scorer.app import SERVICE
from cutbank_scorer.settings import ScorerSettings

DIMENSIONS = 2


class Constant:
    """Scores 0, below every threshold; learns nothing."""

    name = "constant"
    algorithm_version = 1
    dimensions = DIMENSIONS

    def score_then_learn(self, features: Features) -> Scores:
        """See `Detector`."""
        return np.zeros(len(features))

    def to_bytes(self) -> bytes:
        """No state."""
        return b"constant"

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """The inverse."""
        assert state == b"constant"
        return cls()


async def run(settings: ScorerSettings, runtime: Runtime) -> None:
    """As cutbank_scorer.app.run, with another detector."""
    clock, metrics = runtime.clock, runtime.metrics
    async with (
        open_transport(settings.transport_url, clock=clock, metrics=metrics) as transport,
        open_store(settings.state_url, clock=clock, metrics=metrics) as state_store,
    ):
        await run_scorer(
            transport,
            state_store,
            load_spec(settings.spec),
            settings,
            clock=clock,
            metrics=metrics,
            stop=runtime.stop,
            rng=runtime.rng,
            detectors=DetectorSource(algorithm_version=1, create=Constant, restore=Constant.from_bytes),
        )


if __name__ == "__main__":
    sys.exit(service_main(dataclasses.replace(SERVICE, run=run), sys.argv[1:], os.environ))
