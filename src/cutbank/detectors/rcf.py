"""`rcf`: a random cut forest with the semantics of Kinesis Data Analytics' RANDOM_CUT_FOREST.

Owns one forest's arrays; the kernels work on them. Invariant: `seen` counts every record once, and a call that raises
has changed nothing. One task at a time; calls release the GIL.

Features are clipped to ± 1e300, so that no sum of box sides overflows; points are float64, so no feature is rounded.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cutbank.detectors.base import Features, Scores, checked_features
from cutbank.detectors.kernels import checking, forest
from cutbank.detectors.kernels.layout import DERIVED, MAGNITUDE_MAX, Forest, empty_forest, forest_layout
from cutbank.detectors.parameters import Parameters
from cutbank.detectors.state import Arrays, State, encode_state, expect_arrays
from cutbank.errors import SnapshotUnusable

NAME = "rcf"
ALGORITHM_VERSION = 1

_SEEN_MAX = 2**53
"""Records after which an age is no longer an exact float64: 2,800 years at 100,000 a second."""


def _layout(parameters: Parameters) -> dict[str, tuple[str, tuple[int, ...]]]:
    return dict(
        forest_layout(
            trees=parameters.number_of_trees,
            capacity=parameters.sub_sample_size,
            dimensions=parameters.point_dimensions,
        )
    )


def model_bytes(parameters: Parameters) -> int:
    """Memory of the model, bytes: all of its arrays, filled or not."""
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in _layout(parameters).values())


class RandomCutForest:
    """A random cut forest. Source: Guha et al., ICML 2016, and AWS's random-cut-forest library.

    One record costs, for each tree, a walk of about log2(sub_sample_size) nodes and, where the tree accepts it into
    its sample, an eviction and an insertion.
    """

    name = NAME
    algorithm_version = ALGORITHM_VERSION

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._forest: Forest = empty_forest(
            trees=parameters.number_of_trees,
            capacity=parameters.sub_sample_size,
            dimensions=parameters.point_dimensions,
        )
        forest.prepare(self._forest, np.uint64(parameters.seed))

    @property
    def dimensions(self) -> int:
        """Number of features a record has."""
        return self.parameters.dimensions

    @property
    def seen(self) -> int:
        """Records learnt so far."""
        return int(self._forest.seen[0])

    def score_then_learn(self, features: Features) -> Scores:
        """As `Detector.score_then_learn`; scores lie between 0 and about 8 at 256 samples, around 0.7 for the usual."""
        given = checked_features(features, dimensions=self.dimensions)
        scores = np.zeros(len(given), np.float64)
        if len(given) > 0:
            # A copy of its own: the kernel is compiled for one kind of array, writable and contiguous.
            clipped = np.clip(given, -MAGNITUDE_MAX, MAGNITUDE_MAX)
            forest.score_then_learn(self._forest, clipped, scores, float(self.parameters.time_decay))
        return scores

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the state consists of; boxes and tables follow. The model's own arrays: copy or encode them at once."""
        return {field: array for field, array in self._forest._asdict().items() if field not in DERIVED}

    def to_bytes(self) -> bytes:
        """As `Detector.to_bytes`."""
        return encode_state(State(self.name, self.algorithm_version, self.parameters, self.arrays()))

    @classmethod
    def restore(cls, state: State) -> Self:
        """The model whose state this is. Raises SnapshotUnusable where it is not a forest's."""
        return cls.from_arrays(state.parameters, state.arrays)

    @classmethod
    def from_arrays(cls, parameters: Parameters, arrays: Arrays) -> Self:
        """The inverse of `arrays`. Raises SnapshotUnusable: nothing in them is trusted."""
        expect_arrays(arrays, {field: kind for field, kind in _layout(parameters).items() if field not in DERIVED})
        model = cls(parameters)
        for field, array in arrays.items():
            getattr(model._forest, field)[...] = array
        if not 0 <= model.seen <= _SEEN_MAX or not (np.abs(model._forest.shingle) <= MAGNITUDE_MAX).all():
            raise SnapshotUnusable("detector state: the count of records or the shingle is out of range")
        fault, tree = checking.first_fault(model._forest)
        if fault:
            raise SnapshotUnusable(f"detector state is no forest: tree {tree}: {checking.FAULTS[fault]}")
        return model
