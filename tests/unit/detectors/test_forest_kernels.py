"""The trees' kernels one by one: heaps, boxes, insertion, forgetting."""

import heapq

import numpy as np
import pytest

from cutbank.detectors.kernels.checking import FAULTS, first_fault
from cutbank.detectors.kernels.forest import prepare, score_in_tree
from cutbank.detectors.kernels.layout import NO_NODE, Forest, empty_forest
from cutbank.detectors.kernels.sample import pop_sample, push_sample
from cutbank.detectors.kernels.tree import forget_sample, insert_point, walk_down


def one_tree(*, capacity: int = 32, dimensions: int = 2, seed: int = 1) -> Forest:
    forest = empty_forest(trees=1, capacity=capacity, dimensions=dimensions)
    prepare(forest, np.uint64(seed))
    return forest


def add(forest: Forest, point: list[float], weight: float = 0.0) -> int:
    leaf = insert_point(forest, 0, np.array(point))
    push_sample(forest, 0, weight, leaf)
    return leaf


def points_below(forest: Forest, node: int) -> list[list[float]]:
    capacity = forest.weight.shape[1]
    if node >= capacity:
        return [forest.point[0, node - capacity].tolist()]
    return points_below(forest, int(forest.left[0, node])) + points_below(forest, int(forest.right[0, node]))


def test_samples_leave_by_weight() -> None:
    forest = one_tree(capacity=200)
    weights = np.random.default_rng(1).normal(size=200).tolist()
    for leaf, weight in enumerate(weights):
        push_sample(forest, 0, weight, leaf)
    twin = [(-weight, leaf) for leaf, weight in enumerate(weights)]
    heapq.heapify(twin)
    popped = [pop_sample(forest, 0) for _ in range(200)]
    assert popped == [heapq.heappop(twin)[1] for _ in range(200)]
    assert forest.size[0] == 0


def test_boxes_hold_exactly_the_points_below_through_inserting_and_forgetting() -> None:
    forest = one_tree(capacity=40, dimensions=3)
    random = np.random.default_rng(2)
    held: list[tuple[int, list[float]]] = []
    for step in range(400):
        if len(held) == 40 or (held and step % 3 == 0):
            leaf, _ = held.pop(int(random.integers(len(held))))
            forget_sample(forest, 0, leaf)
        else:
            point = random.integers(0, 6, 3).astype(float).tolist()
            held.append((insert_point(forest, 0, np.array(point)), point))
        assert sorted(points_below(forest, int(forest.root[0]))) == sorted(map(list, {tuple(p) for _, p in held}))
        for node in range(40):
            if forest.left[0, node] != NO_NODE:
                below = np.array(points_below(forest, node))
                assert np.array_equal(forest.low[0, node], below.min(axis=0))
                assert np.array_equal(forest.high[0, node], below.max(axis=0))


def test_equal_points_share_a_leaf_and_negative_zero_is_zero() -> None:
    forest = one_tree()
    first = add(forest, [0.0, 1.0])
    assert add(forest, [-0.0, 1.0]) == first
    assert forest.mass[0, first] == 2
    forget_sample(forest, 0, first)
    assert forest.root[0] == first + 32
    forget_sample(forest, 0, first)
    assert forest.root[0] == NO_NODE


def test_neighbouring_floats_are_parted() -> None:
    for seed in range(50):
        forest = one_tree(dimensions=1, seed=seed)
        x = 1.0
        for _ in range(20):
            add(forest, [x])
            x = float(np.nextafter(x, 2.0))
        assert first_fault(forest) == (0, 0)
        assert int((forest.mass[0] > 0).sum()) == 20


def test_every_point_is_found_again_by_its_cuts() -> None:
    forest = one_tree(capacity=256)
    points = np.random.default_rng(3).normal(size=(256, 2))
    leaves = [add(forest, point) for point in points.tolist()]
    assert [walk_down(forest, 0, point)[0] for point in points] == leaves


def test_the_score_of_two_points_by_hand() -> None:
    forest = one_tree(dimensions=1)
    assert score_in_tree(forest, 0, np.array([1.0])) == 0.0, "an empty tree"
    add(forest, [0.0])
    # One leaf at depth 0 that holds one of one sample: (1 - 1/2) / (0 + log2 2) * log2 2.
    assert score_in_tree(forest, 0, np.array([0.0])) == 0.5
    assert score_in_tree(forest, 0, np.array([9.0])) == 1.0
    add(forest, [1.0])
    # At depth 1: (1 - 1/4) / (1 + 1) * log2 3; at 3 the root's box is left by 2 of 3: p = 2/3.
    log2_of_3 = float(forest.log2_of[3])
    assert log2_of_3 == pytest.approx(1.584962500721156, rel=1e-15)
    assert score_in_tree(forest, 0, np.array([1.0])) == pytest.approx(0.375 * log2_of_3, rel=1e-15)
    assert score_in_tree(forest, 0, np.array([3.0])) == pytest.approx((1 / 3 * 0.5 + 2 / 3) * log2_of_3, rel=1e-15)
    # Inside the box, at no point: no chance to be cut off above.
    assert score_in_tree(forest, 0, np.array([0.5])) == pytest.approx(0.5 * log2_of_3, rel=1e-15)


def test_a_cut_is_uniform_over_the_sides() -> None:
    # Points 0 and (3, 1): three quarters of the cuts are in the first dimension, a third of those below 1.
    first, below = 0, 0
    for seed in range(4000):
        forest = one_tree(seed=seed)
        add(forest, [0.0, 0.0])
        add(forest, [3.0, 1.0])
        node = int(forest.root[0])
        if forest.cut_dimension[0, node] == 0:
            first += 1
            below += bool(forest.cut_value[0, node] < 1.0)
    assert abs(first / 4000 - 0.75) < 0.03
    assert abs(below / first - 1 / 3) < 0.04


def test_an_empty_forest_is_sound() -> None:
    assert first_fault(one_tree()) == (0, 0)
    assert FAULTS[0] == "none"
