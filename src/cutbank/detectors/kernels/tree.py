"""Growing and pruning one tree of a forest. Own the invariant of layout.py: cuts separate, boxes are exact.

Source: Guha, Mishra, Roy, Schrijvers, "Robust random cut forest based anomaly detection on streams" (2016),
algorithms 1 (forget) and 2 (insert). Points are float64 (D,), finite, within ± MAGNITUDE_MAX.
"""

import numpy as np
from numpy.typing import NDArray

from cutbank.detectors.kernels.compiling import compiled
from cutbank.detectors.kernels.layout import NO_NODE, Forest
from cutbank.detectors.kernels.randomness import next_uniform


@compiled
def first_free_leaf(forest: Forest, tree: int) -> int:
    """The lowest leaf that is free, 0..C-1; the tree must have one."""
    leaf = 0
    while forest.mass[tree, leaf] != 0:
        leaf += 1
    return leaf


@compiled
def first_free_inner(forest: Forest, tree: int) -> int:
    """The lowest inner node that is free, 0..C-1; the tree must have one."""
    node = 0
    while forest.left[tree, node] != NO_NODE:
        node += 1
    return node


@compiled
def new_leaf(forest: Forest, tree: int, point: NDArray[np.float64]) -> int:
    """A leaf that holds `point` once, not yet joined to the tree."""
    leaf = first_free_leaf(forest, tree)
    forest.mass[tree, leaf] = 1
    for j in range(point.shape[0]):
        forest.point[tree, leaf, j] = point[j]
    return leaf


@compiled
def side_low(forest: Forest, tree: int, node: int, j: int) -> float:
    """The lower end of a node's box in dimension j; a leaf's box is its point."""
    capacity = forest.weight.shape[1]
    if node >= capacity:
        return float(forest.point[tree, node - capacity, j])
    return float(forest.low[tree, node, j])


@compiled
def side_high(forest: Forest, tree: int, node: int, j: int) -> float:
    """The upper end of a node's box in dimension j."""
    capacity = forest.weight.shape[1]
    if node >= capacity:
        return float(forest.point[tree, node - capacity, j])
    return float(forest.high[tree, node, j])


@compiled
def rebuild_box(forest: Forest, tree: int, node: int) -> None:
    """The box of an inner node from those of its two children. Plain twin: box."""
    left = forest.left[tree, node]
    right = forest.right[tree, node]
    span = 0.0
    for j in range(forest.point.shape[2]):
        low = min(side_low(forest, tree, left, j), side_low(forest, tree, right, j))
        high = max(side_high(forest, tree, left, j), side_high(forest, tree, right, j))
        forest.low[tree, node, j] = low
        forest.high[tree, node, j] = high
        span += high - low
    forest.span[tree, node] = span


@compiled
def outside_of(forest: Forest, tree: int, node: int, point: NDArray[np.float64]) -> float:
    """How far `point` lies outside a node's box, summed over the dimensions; 0 within it. Plain twin: outside."""
    outside = 0.0
    for j in range(point.shape[0]):
        low = side_low(forest, tree, node, j)
        high = side_high(forest, tree, node, j)
        if point[j] < low:
            outside += low - point[j]
        elif point[j] > high:
            outside += point[j] - high
    return outside


@compiled
def grow_box(forest: Forest, tree: int, node: int, point: NDArray[np.float64]) -> None:
    """Stretch an inner node's box until it holds `point`."""
    span = 0.0
    for j in range(point.shape[0]):
        forest.low[tree, node, j] = min(forest.low[tree, node, j], point[j])
        forest.high[tree, node, j] = max(forest.high[tree, node, j], point[j])
        span += forest.high[tree, node, j] - forest.low[tree, node, j]
    forest.span[tree, node] = span


@compiled
def random_cut(forest: Forest, tree: int, node: int, point: NDArray[np.float64], outside: float) -> tuple[int, float]:
    """A random cut of the box around a node and `point`: (dimension, value) if it parts the two, (-1, 0) if not.

    A dimension is drawn in proportion to the box's side, then a place on it, uniform, both from one number. `outside`
    > 0 is what `outside_of` said. Between two leaves every cut parts; where rounding says otherwise, the first
    dimension in which they differ is cut at its lower end. Plain twin: PlainTree.random_cut.
    """
    capacity = forest.weight.shape[1]
    span = 0.0 if node >= capacity else forest.span[tree, node]
    place = next_uniform(forest.random_state, tree) * (span + outside)
    for j in range(point.shape[0]):
        low = side_low(forest, tree, node, j)
        high = side_high(forest, tree, node, j)
        start = min(low, point[j])
        end = max(high, point[j])
        if place <= end - start and end > start:
            cut = start + place
            if cut >= end:
                cut = start
            if point[j] <= cut < low or high <= cut < point[j]:
                return j, cut
            break
        place -= end - start
    if node >= capacity:
        for j in range(point.shape[0]):
            other = forest.point[tree, node - capacity, j]
            if point[j] != other:
                return j, min(point[j], other)
    return -1, 0.0


@compiled
def replace_child(forest: Forest, tree: int, parent: int, old: int, new: int) -> None:
    """Hang `new` where `old` hung: below inner node `parent`, or at the root where that is NO_NODE."""
    if parent == NO_NODE:
        forest.root[tree] = new
    elif forest.left[tree, parent] == old:
        forest.left[tree, parent] = new
    else:
        forest.right[tree, parent] = new


@compiled
def split(
    forest: Forest, tree: int, parent: int, node: int, point: NDArray[np.float64], dimension: int, cut: float
) -> int:
    """Put a new inner node above `node`, with a new leaf for `point` on its side of the cut. Returns the leaf."""
    leaf = new_leaf(forest, tree, point)
    leaf_node = leaf + forest.weight.shape[1]
    inner = first_free_inner(forest, tree)
    forest.cut_dimension[tree, inner] = dimension
    forest.cut_value[tree, inner] = cut
    if point[dimension] <= cut:
        forest.left[tree, inner] = leaf_node
        forest.right[tree, inner] = node
    else:
        forest.left[tree, inner] = node
        forest.right[tree, inner] = leaf_node
    rebuild_box(forest, tree, inner)
    replace_child(forest, tree, parent, node, inner)
    return leaf


@compiled
def insert_point(forest: Forest, tree: int, point: NDArray[np.float64]) -> int:
    """Insert `point` into a tree that has room. Returns its leaf, 0..C-1; equal points share one.

    From the root down, cut the box around the node and the point at random: the first cut that parts them is where the
    new leaf hangs. Source: algorithm 2 of the paper. Plain twin: PlainTree.insert.
    """
    capacity: int = forest.weight.shape[1]
    node = int(forest.root[tree])
    if node == NO_NODE:
        leaf = new_leaf(forest, tree, point)
        forest.root[tree] = leaf + capacity
        return leaf
    parent = NO_NODE
    while True:
        outside = outside_of(forest, tree, node, point)
        if outside > 0.0:
            dimension, cut = random_cut(forest, tree, node, point, outside)
            if dimension >= 0:
                return split(forest, tree, parent, node, point, dimension, cut)
            grow_box(forest, tree, node, point)
        elif node >= capacity:
            forest.mass[tree, node - capacity] += 1
            return node - capacity
        parent = node
        if point[forest.cut_dimension[tree, node]] <= forest.cut_value[tree, node]:
            node = int(forest.left[tree, node])
        else:
            node = int(forest.right[tree, node])


@compiled
def walk_down(forest: Forest, tree: int, point: NDArray[np.float64]) -> tuple[int, int]:
    """Follow the cuts from the root of a tree that is not empty to a leaf: (leaf 0..C-1, its depth).

    The inner nodes on the way are left in `forest.path`, from the root down. Plain twin: PlainTree.walk.
    """
    capacity = forest.weight.shape[1]
    node = int(forest.root[tree])
    depth = 0
    while node < capacity:
        forest.path[depth] = node
        depth += 1
        if point[forest.cut_dimension[tree, node]] <= forest.cut_value[tree, node]:
            node = int(forest.left[tree, node])
        else:
            node = int(forest.right[tree, node])
    return node - capacity, depth


@compiled
def strictly_inside(forest: Forest, tree: int, node: int, point: NDArray[np.float64]) -> bool:
    """Whether `point` touches no side of an inner node's box."""
    inside = True
    for j in range(point.shape[0]):
        inside = inside and bool(forest.low[tree, node, j] < point[j] < forest.high[tree, node, j])
    return inside


@compiled
def forget_sample(forest: Forest, tree: int, leaf: int) -> None:
    """Take one sample out of a leaf; an empty leaf leaves the tree, its sibling takes their parent's place.

    Boxes above shrink until one did not touch the point. Source: algorithm 1 of the paper.
    Plain twin: PlainTree.forget.
    """
    forest.mass[tree, leaf] -= 1
    if forest.mass[tree, leaf] > 0:
        return
    point = forest.point[tree, leaf]
    depth = walk_down(forest, tree, point)[1]
    if depth == 0:
        forest.root[tree] = NO_NODE
        return
    parent = int(forest.path[depth - 1])
    node = leaf + forest.weight.shape[1]
    sibling = forest.right[tree, parent] if forest.left[tree, parent] == node else forest.left[tree, parent]
    replace_child(forest, tree, forest.path[depth - 2] if depth > 1 else NO_NODE, parent, int(sibling))
    forest.left[tree, parent] = NO_NODE
    for level in range(depth - 2, -1, -1):
        if strictly_inside(forest, tree, forest.path[level], point):
            break
        rebuild_box(forest, tree, forest.path[level])
