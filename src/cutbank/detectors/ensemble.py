"""`ensemble`, the default: a random cut forest whose score half-space trees may raise, never over 1.

Owns one model of each. Invariant: both have seen the same records. score = max(rcf, 0.84 * hst), 0 for rcf's warm-up.
hst's scores are at most 1, so a record is over 1 exactly where rcf alone says so: `> 1` keeps the meaning that it had
with RANDOM_CUT_FOREST; below 1, hst helps to rank. One task at a time.
"""

from typing import Self

import numpy as np

from cutbank.detectors.base import Features, Scores, checked_features
from cutbank.detectors.hst import HalfSpaceTrees
from cutbank.detectors.hst import model_bytes as hst_bytes
from cutbank.detectors.parameters import Parameters
from cutbank.detectors.rcf import RandomCutForest
from cutbank.detectors.rcf import model_bytes as rcf_bytes
from cutbank.detectors.state import Arrays, State, encode_state
from cutbank.errors import SnapshotUnusable

NAME = "ensemble"
ALGORITHM_VERSION = 1

HST_WEIGHT = 0.84
"""What a half-space score counts for: found by search over labelled point sets."""

_RCF = "rcf."
_HST = "hst."


def model_bytes(parameters: Parameters) -> int:
    """Memory of both models, bytes."""
    return rcf_bytes(parameters) + hst_bytes(parameters)


class Ensemble:
    """Random cut forest and half-space trees together."""

    name = NAME
    algorithm_version = ALGORITHM_VERSION

    def __init__(
        self, parameters: Parameters, *, rcf: RandomCutForest | None = None, hst: HalfSpaceTrees | None = None
    ) -> None:
        self.parameters = parameters
        self._rcf = RandomCutForest(parameters) if rcf is None else rcf
        self._hst = HalfSpaceTrees(parameters) if hst is None else hst

    @property
    def dimensions(self) -> int:
        """Number of features a record has."""
        return self.parameters.dimensions

    def score_then_learn(self, features: Features) -> Scores:
        """As `Detector.score_then_learn`."""
        given = checked_features(features, dimensions=self.dimensions)
        warm_up = max(0, self.parameters.warm_up_records - self._rcf.seen)
        scores = np.maximum(self._rcf.score_then_learn(given), HST_WEIGHT * self._hst.score_then_learn(given))
        scores[:warm_up] = 0.0
        return scores

    def to_bytes(self) -> bytes:
        """As `Detector.to_bytes`."""
        arrays = {_RCF + field: array for field, array in self._rcf.arrays().items()}
        arrays |= {_HST + field: array for field, array in self._hst.arrays().items()}
        return encode_state(State(self.name, self.algorithm_version, self.parameters, arrays))

    @classmethod
    def restore(cls, state: State) -> Self:
        """The model whose state this is. Raises SnapshotUnusable."""
        rcf, hst = _part(state.arrays, _RCF), _part(state.arrays, _HST)
        if len(rcf) + len(hst) != len(state.arrays):
            raise SnapshotUnusable("detector state has other arrays than its two members'")
        return cls(
            state.parameters,
            rcf=RandomCutForest.from_arrays(state.parameters, rcf),
            hst=HalfSpaceTrees.from_arrays(state.parameters, hst),
        )


def _part(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
