"""Online anomaly detectors behind one protocol: `create`, `score_then_learn`, `to_bytes`, `from_bytes`.

    from cutbank import detectors

    model = detectors.create("rcf", dimensions=2, seed=7)
    scores = model.score_then_learn(features)      # float64 (n, 2) -> float64 (n,)
    model = detectors.from_bytes(model.to_bytes())  # goes on bit-identically

Cheap to import: numba and River come with the detector that needs them. No event loop, no I/O, no logs.
"""

from cutbank.detectors.base import Detector, Features, Scores
from cutbank.detectors.parameters import Parameters
from cutbank.detectors.registry import (
    DETECTORS,
    MODEL_BYTES_MAX,
    algorithm_version,
    create,
    from_bytes,
    model_bytes,
    self_check,
    warm,
)

__all__ = [
    "DETECTORS",
    "MODEL_BYTES_MAX",
    "Detector",
    "Features",
    "Parameters",
    "Scores",
    "algorithm_version",
    "create",
    "from_bytes",
    "model_bytes",
    "self_check",
    "warm",
]
