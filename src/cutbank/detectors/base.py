"""The detector protocol: an online model that scores each record, then learns it.

Same score, always: scores depend only on the parameters, the seed and the records before, never on how records were
cut into batches, on threads, on snapshots or on the machine. A detector belongs to one partition and one task; its
calls are CPU-bound, release the GIL where they can, and are made off the event loop.
"""

from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Features: TypeAlias = NDArray[np.float64]
"""float64 (records, dimensions), C-contiguous, every value finite."""

Scores: TypeAlias = NDArray[np.float64]
"""float64 (records,), finite, >= 0; 0 during warm-up."""


class Detector(Protocol):
    """An anomaly detector over numeric features."""

    @property
    def name(self) -> str:
        """Its name in the registry."""
        ...

    @property
    def algorithm_version(self) -> int:
        """Changes only when a score would: part of the spec's hash."""
        ...

    @property
    def dimensions(self) -> int:
        """Number of features a record has."""
        ...

    def score_then_learn(self, features: Features) -> Scores:
        """For each record in order: score it, then learn it. `features` (n, dimensions), n >= 0; returns (n,).

        Raises ValueError for another shape, type or a value that is not finite; then nothing was learnt.
        """
        ...

    def to_bytes(self) -> bytes:
        """The whole state, parameters included, with name, format version and checksum; no pickle.

        `detectors.from_bytes` of it goes on bit-identically.
        """
        ...


def checked_features(features: Features, *, dimensions: int) -> Features:
    """`features`, C-contiguous, after proof that it is what `score_then_learn` takes. Raises ValueError."""
    kind = getattr(features, "dtype", type(features).__name__)
    if kind != np.float64:
        raise ValueError(f"features must be a float64 array, not {kind}")
    if features.ndim != 2 or features.shape[1] != dimensions:
        raise ValueError(f"features must have the shape (records, {dimensions}), not {features.shape}")
    if not np.isfinite(features).all():
        record, feature = np.argwhere(~np.isfinite(features))[0]
        raise ValueError(f"feature {feature} of record {record} is not finite")
    return np.ascontiguousarray(features)
