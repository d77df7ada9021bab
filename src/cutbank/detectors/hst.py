"""`hst`: River's HalfSpaceTrees behind its MinMaxScaler, River's own classes, one record at a time.

Owns a River model and its state as plain arrays; no pickle. Invariant: scores are bit-equal to River's pipeline from
the same seed, features named f0, f1, ... in order. One task at a time; River is Python, so calls hold the GIL.

The forest's parameters (trees, sample, decay, shingle) are River's defaults, not those of RANDOM_CUT_FOREST.
"""

import hashlib
import struct
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from river import anomaly, preprocessing

from cutbank.detectors.base import Features, Scores, checked_features
from cutbank.detectors.parameters import Parameters
from cutbank.detectors.state import Arrays, State, encode_state, expect_arrays
from cutbank.errors import SnapshotUnusable

NAME = "hst"
ALGORITHM_VERSION = 1

TREES = 10
HEIGHT = 8
WINDOW_RECORDS = 250
"""River's defaults. Scores are 0 for the first window."""

_NODES: int = 2 ** (HEIGHT + 1) - 1
_NODE_BYTES = 256
"""What a node of River's takes in memory with its share of the lists, at most: 233 bytes were measured."""
_FEATURE_BYTES = 640
"""What a feature takes in River's scaler and its name, at most: 400 bytes were measured."""

_LAYOUT: dict[str, tuple[str, tuple[int, ...]]] = {
    "counter": ("int64", (1,)),
    "first_window": ("int64", (1,)),
    "learning_mass": ("int16", (TREES, _NODES)),
    "scoring_mass": ("int16", (TREES, _NODES)),
    "cuts_digest": ("uint8", (32,)),
}


def _layout(parameters: Parameters) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        **_LAYOUT,
        "least": ("float64", (parameters.dimensions,)),
        "greatest": ("float64", (parameters.dimensions,)),
    }


def model_bytes(parameters: Parameters) -> int:
    """Memory of the model, bytes, at most: River's nodes are Python objects, so a tenth of it may stay free."""
    return TREES * _NODES * _NODE_BYTES + parameters.dimensions * _FEATURE_BYTES


class HalfSpaceTrees:
    """Half-space trees. Source: Tan, Ting, Liu, IJCAI 2011; River's anomaly.HalfSpaceTrees.

    Scores lie between 0 and 1; around 0.5 to 0.9 is usual, so 1 is no threshold for this detector alone.
    """

    name = NAME
    algorithm_version = ALGORITHM_VERSION

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._names = [f"f{index}" for index in range(parameters.dimensions)]
        self._scaler: Any = preprocessing.MinMaxScaler()
        self._trees: Any = anomaly.HalfSpaceTrees(
            n_trees=TREES, height=HEIGHT, window_size=WINDOW_RECORDS, seed=parameters.seed
        )
        # River builds its trees at the first record, from the names and the seed alone: build them now, then forget it.
        self._trees.learn_one(dict.fromkeys(self._names, 0.0))
        self._nodes: list[list[Any]] = [list(tree.iter_dfs()) for tree in self._trees.trees]
        self._set_masses(np.zeros((TREES, _NODES), np.int16), np.zeros((TREES, _NODES), np.int16))
        self._trees.counter = 0

    @property
    def dimensions(self) -> int:
        """Number of features a record has."""
        return self.parameters.dimensions

    def score_then_learn(self, features: Features) -> Scores:
        """As `Detector.score_then_learn`."""
        given = checked_features(features, dimensions=self.dimensions)
        scores = np.zeros(len(given), np.float64)
        scaler, trees, names = self._scaler, self._trees, self._names
        for index, row in enumerate(given.tolist()):
            record = dict(zip(names, row, strict=True))
            scores[index] = trees.score_one(scaler.transform_one(record))
            scaler.learn_one(record)
            trees.learn_one(scaler.transform_one(record))
        return scores

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the state consists of; the trees' cuts follow from the seed, and their digest proves it."""
        return {
            "counter": np.array([self._trees.counter], np.int64),
            "first_window": np.array([self._trees._first_window], np.int64),  # noqa: SLF001  # River has no other way to its state
            "learning_mass": np.array([[node.l_mass for node in nodes] for nodes in self._nodes], np.int16),
            "scoring_mass": np.array([[node.r_mass for node in nodes] for nodes in self._nodes], np.int16),
            "cuts_digest": np.frombuffer(self._cuts_digest(), np.uint8),
            "least": np.array([self._scaler.min[name].get() for name in self._names], np.float64),
            "greatest": np.array([self._scaler.max[name].get() for name in self._names], np.float64),
        }

    def to_bytes(self) -> bytes:
        """As `Detector.to_bytes`."""
        return encode_state(State(self.name, self.algorithm_version, self.parameters, self.arrays()))

    @classmethod
    def restore(cls, state: State) -> Self:
        """The model whose state this is. Raises SnapshotUnusable where it is not one of these trees'."""
        return cls.from_arrays(state.parameters, state.arrays)

    @classmethod
    def from_arrays(cls, parameters: Parameters, arrays: Arrays) -> Self:
        """The inverse of `arrays`. Raises SnapshotUnusable: nothing in them is trusted."""
        expect_arrays(arrays, _layout(parameters))
        model = cls(parameters)
        if arrays["cuts_digest"].tobytes() != model._cuts_digest():
            raise SnapshotUnusable("detector state: this River, or this Python, builds other trees from the same seed")
        counter, first_window = int(arrays["counter"][0]), int(arrays["first_window"][0])
        if not 0 <= counter < WINDOW_RECORDS or first_window not in (0, 1):
            raise SnapshotUnusable("detector state: a window's count is out of range")
        for field in ("learning_mass", "scoring_mass"):
            if not ((arrays[field] >= 0) & (arrays[field] <= WINDOW_RECORDS)).all():
                raise SnapshotUnusable(f"detector state: {field} is out of range")
        least, greatest = arrays["least"], arrays["greatest"]
        if np.isnan(least).any() or np.isnan(greatest).any():
            raise SnapshotUnusable("detector state: a feature's range is not a number")
        model._set_masses(arrays["learning_mass"], arrays["scoring_mass"])
        model._trees.counter = counter
        model._trees._first_window = bool(first_window)  # noqa: SLF001  # River has no other way to its state
        for name, low, high in zip(model._names, least.tolist(), greatest.tolist(), strict=True):
            model._scaler.min[name].update(low)
            model._scaler.max[name].update(high)
        return model

    def _set_masses(self, learning: NDArray[np.int16], scoring: NDArray[np.int16]) -> None:
        for tree, nodes in enumerate(self._nodes):
            for node, left, right in zip(nodes, learning[tree].tolist(), scoring[tree].tolist(), strict=True):
                node.l_mass, node.r_mass = left, right

    def _cuts_digest(self) -> bytes:
        """SHA-256 of every inner node's feature and threshold, tree by tree, parents first."""
        digest = hashlib.sha256()
        for nodes in self._nodes:
            for node in nodes:
                if hasattr(node, "threshold"):
                    digest.update(struct.pack("<Hd", self._names.index(node.feature), node.threshold))
        return digest.digest()
