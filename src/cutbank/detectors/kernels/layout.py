"""The arrays of a random cut forest and what they mean. Values only; the other kernels work on them.

Trees are independent: row t of every array is tree t's. A tree holds `size` samples in at most `capacity` leaves
(equal points share a leaf) joined by inner nodes. A node's id is 0..capacity-1 for an inner node, and
capacity..2*capacity-1 for a leaf; -1 is none.

Invariant: points left of a cut have coordinate <= cut_value there, points right of it have more. `low`, `high` and
`span` of an inner node are the bounding box of the points below it, exactly, and the sum of its sides.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_NODE = -1

MAGNITUDE_MAX = 1e300
"""Features are clipped to ± this, so that a sum of 1,000 box sides stays finite."""


class Forest(NamedTuple):
    """A forest: T trees of up to C samples of D numbers (D = features * shingle size)."""

    seen: NDArray[np.int64]
    """(1,): records seen."""
    shingle: NDArray[np.float64]
    """(D,): the last records, oldest first."""
    random_state: NDArray[np.uint64]
    """(T,): the generators' states."""
    size: NDArray[np.int64]
    """(T,): samples held, 0..C."""
    weight: NDArray[np.float64]
    """(T, C): a max-heap of the samples' weights; the first `size` count. The largest is the next to go."""
    sample_leaf: NDArray[np.int16]
    """(T, C): the leaf (0..C-1) of each sample, moved along with its weight."""
    root: NDArray[np.int16]
    """(T,): id of the root; NO_NODE for an empty tree."""
    left: NDArray[np.int16]
    """(T, C): id of an inner node's left child; NO_NODE marks a free inner node."""
    right: NDArray[np.int16]
    """(T, C): id of its right child."""
    cut_dimension: NDArray[np.int16]
    """(T, C): 0..D-1."""
    cut_value: NDArray[np.float64]
    """(T, C)."""
    mass: NDArray[np.int16]
    """(T, C): samples in a leaf; 0 marks a free leaf."""
    point: NDArray[np.float64]
    """(T, C, D): a leaf's point."""
    low: NDArray[np.float64]
    """(T, C, D): an inner node's box."""
    high: NDArray[np.float64]
    """(T, C, D)."""
    span: NDArray[np.float64]
    """(T, C): sum of the box's sides."""
    log2_of: NDArray[np.float64]
    """(C + 2,): log2 of 0 (unused), 1, 2, ..., C + 1."""
    path: NDArray[np.int16]
    """(C,): scratch; inner nodes from the root down."""


DERIVED = frozenset({"low", "high", "span", "log2_of", "path"})
"""Fields that follow from the others: not kept in snapshots."""


def forest_layout(*, trees: int, capacity: int, dimensions: int) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """Field -> (dtype, shape) of a forest of `trees` trees, `capacity` samples each, points of `dimensions` numbers."""
    each, slots, points = (trees,), (trees, capacity), (trees, capacity, dimensions)
    return {
        "seen": ("int64", (1,)),
        "shingle": ("float64", (dimensions,)),
        "random_state": ("uint64", each),
        "size": ("int64", each),
        "weight": ("float64", slots),
        "sample_leaf": ("int16", slots),
        "root": ("int16", each),
        "left": ("int16", slots),
        "right": ("int16", slots),
        "cut_dimension": ("int16", slots),
        "cut_value": ("float64", slots),
        "mass": ("int16", slots),
        "point": ("float64", points),
        "low": ("float64", points),
        "high": ("float64", points),
        "span": ("float64", slots),
        "log2_of": ("float64", (capacity + 2,)),
        "path": ("int16", (capacity,)),
    }


def empty_forest(*, trees: int, capacity: int, dimensions: int) -> Forest:
    """A forest whose trees are empty. Its generators' states are 0 and its table of logarithms is yet to be filled."""
    layout = forest_layout(trees=trees, capacity=capacity, dimensions=dimensions)
    forest = Forest(**{field: np.zeros(shape, dtype) for field, (dtype, shape) in layout.items()})
    forest.root[:] = NO_NODE
    forest.left[:] = NO_NODE
    return forest
