"""Proof that the arrays of a forest from outside are a forest, and the boxes that they leave out.

Invariant: a forest that passes can be scored and learnt for ever without an index out of its array. Reads each index
only after checking it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cutbank.detectors.kernels.compiling import compiled
from cutbank.detectors.kernels.layout import MAGNITUDE_MAX, NO_NODE, Forest
from cutbank.detectors.kernels.tree import rebuild_box, side_high, side_low

FAULTS = (
    "none",
    "a tree holds more samples than fit, or fewer than none",
    "a sample's weight is not finite or not in heap order",
    "a sample's leaf is out of range",
    "a leaf's mass is not its number of samples",
    "a point is not finite",
    "a node is out of range",
    "a node has two parents, or is free",
    "a node hangs nowhere",
    "a cut's dimension is out of range",
    "a cut does not part its points",
)
"""What the numbers that `tree_fault` returns mean."""


@compiled
def sample_fault(forest: Forest, tree: int, counts: NDArray[np.int64]) -> int:
    """0, or what is wrong with a tree's samples and leaves. counts: int64 (C,), scratch."""
    capacity = forest.weight.shape[1]
    size = forest.size[tree]
    if size < 0 or size > capacity:
        return 1
    counts[:] = 0
    for slot in range(size):
        weight = forest.weight[tree, slot]
        if not math.isfinite(weight) or (slot > 0 and forest.weight[tree, (slot - 1) >> 1] < weight):
            return 2
        leaf = forest.sample_leaf[tree, slot]
        if leaf < 0 or leaf >= capacity:
            return 3
        counts[leaf] += 1
    for leaf in range(capacity):
        if forest.mass[tree, leaf] != counts[leaf]:
            return 4
        if counts[leaf] > 0:
            for j in range(forest.point.shape[2]):
                if not abs(forest.point[tree, leaf, j]) <= MAGNITUDE_MAX:
                    return 5
    return 0


@compiled
def walk_fault(forest: Forest, tree: int, order: NDArray[np.int64], reached: NDArray[np.int64]) -> tuple[int, int]:
    """(0 or what is wrong, inner nodes met): walks from the root, checking every node id before it is used.

    order: int64 (2C,), filled with the inner nodes, parents before children. reached: int64 (2C,), 0s at the start.
    """
    capacity = forest.weight.shape[1]
    root = forest.root[tree]
    if root == NO_NODE:
        return (0 if forest.size[tree] == 0 else 8), 0
    if root < 0 or root >= 2 * capacity:
        return 6, 0
    reached[root] = 1
    inner = 0
    if root < capacity:
        order[0] = root
        inner = 1
    done = 0
    while done < inner:
        node = order[done]
        done += 1
        if not 0 <= forest.cut_dimension[tree, node] < forest.point.shape[2]:
            return 9, inner
        for side in range(2):
            child = forest.left[tree, node] if side == 0 else forest.right[tree, node]
            if child < 0 or child >= 2 * capacity:
                return 6, inner
            if reached[child] != 0:
                return 7, inner
            reached[child] = 1
            if child < capacity:
                order[inner] = child
                inner += 1
    return 0, inner


@compiled
def tree_fault(
    forest: Forest, tree: int, counts: NDArray[np.int64], order: NDArray[np.int64], reached: NDArray[np.int64]
) -> int:
    """0, or what is wrong with a tree (an index into FAULTS); where 0, its boxes have been rebuilt from its points."""
    capacity = forest.weight.shape[1]
    fault = sample_fault(forest, tree, counts)
    if fault != 0:
        return fault
    reached[:] = 0
    fault, inner = walk_fault(forest, tree, order, reached)
    if fault != 0:
        return fault
    for node in range(capacity):
        if (reached[node] != 0) != (forest.left[tree, node] != NO_NODE):
            return 8
        if (reached[node + capacity] != 0) != (forest.mass[tree, node] > 0):
            return 8
    for place in range(inner - 1, -1, -1):
        node = order[place]
        rebuild_box(forest, tree, node)
        j = forest.cut_dimension[tree, node]
        below = side_high(forest, tree, forest.left[tree, node], j)
        above = side_low(forest, tree, forest.right[tree, node], j)
        if not below <= forest.cut_value[tree, node] < above:
            return 10
    return 0


@compiled
def first_fault(forest: Forest) -> tuple[int, int]:
    """(0, 0), or what is wrong and with which tree. Rebuilds all boxes on the way."""
    trees, capacity = forest.weight.shape
    counts = np.zeros(capacity, np.int64)
    order = np.zeros(2 * capacity, np.int64)
    reached = np.zeros(2 * capacity, np.int64)
    for tree in range(trees):
        fault = tree_fault(forest, tree, counts, order, reached)
        if fault != 0:
            return fault, tree
    return 0, 0
