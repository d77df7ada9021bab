"""The weighted sample of each tree: a max-heap of weights. Sampling by weight is the kernel `learn` of forest.py's."""

from cutbank.detectors.kernels.compiling import compiled
from cutbank.detectors.kernels.layout import Forest


@compiled
def push_sample(forest: Forest, tree: int, weight: float, leaf: int) -> None:
    """Add a sample to a tree that has room for it: sift up. 0 <= leaf < C. Plain twin: heapq, in plain_forest."""
    weights = forest.weight[tree]
    leaves = forest.sample_leaf[tree]
    slot = forest.size[tree]
    forest.size[tree] = slot + 1
    while slot > 0:
        parent = (slot - 1) >> 1
        if weights[parent] >= weight:
            break
        weights[slot] = weights[parent]
        leaves[slot] = leaves[parent]
        slot = parent
    weights[slot] = weight
    leaves[slot] = leaf


@compiled
def pop_sample(forest: Forest, tree: int) -> int:
    """Take the sample of the largest weight out of a tree that has one: sift down. Returns its leaf, 0..C-1."""
    weights = forest.weight[tree]
    leaves = forest.sample_leaf[tree]
    top = leaves[0]
    count = forest.size[tree] - 1
    forest.size[tree] = count
    weight = weights[count]
    leaf = leaves[count]
    slot = 0
    while True:
        child = 2 * slot + 1
        if child >= count:
            break
        if child + 1 < count and weights[child + 1] > weights[child]:
            child += 1
        if weights[child] <= weight:
            break
        weights[slot] = weights[child]
        leaves[slot] = leaves[child]
        slot = child
    weights[slot] = weight
    leaves[slot] = leaf
    return int(top)
