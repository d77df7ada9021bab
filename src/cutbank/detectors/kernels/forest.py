"""The random cut forest over a batch: score each record, then learn it, in order. Works on layout.Forest's arrays.

Source of the score: CommonUtils and AnomalyScoreVisitor of AWS's random-cut-forest library (Apache-2.0), whose
semantics RANDOM_CUT_FOREST has; of the sampling: its CompactSampler. Single-threaded per forest; releases the GIL.
"""

import numpy as np
from numpy.typing import NDArray

from cutbank.detectors.kernels.compiling import compiled
from cutbank.detectors.kernels.elementary import LN2, natural_log
from cutbank.detectors.kernels.layout import Forest
from cutbank.detectors.kernels.randomness import next_bits, next_uniform
from cutbank.detectors.kernels.sample import pop_sample, push_sample
from cutbank.detectors.kernels.tree import forget_sample, insert_point, walk_down

ACCEPT_ALL_BELOW = 0.125
"""Up to this share of its capacity a tree takes every record; from there to full, fewer and fewer (AWS's default)."""


@compiled
def prepare(forest: Forest, seed: np.uint64) -> None:
    """Seed a forest's generators and fill its table of logarithms; its trees are not touched.

    Tree t starts from output t, counted from 0, of a SplitMix64 generator whose state is `seed`.
    Plain twin: PlainForest.
    """
    seeds = np.zeros(1, np.uint64)
    seeds[0] = seed
    for tree in range(forest.random_state.shape[0]):
        forest.random_state[tree] = next_bits(seeds, 0)
    for count in range(1, forest.log2_of.shape[0]):
        forest.log2_of[count] = natural_log(float(count)) / LN2


@compiled
def score_in_tree(forest: Forest, tree: int, point: NDArray[np.float64]) -> float:
    """The score of `point` (float64 (D,), finite) in one tree: expected inverse depth; 0 in an empty tree.

    With d the depth of the leaf where the cuts lead, m its samples and n the tree's, times log2(n + 1): a leaf that
    holds the point gives (1 - m / 2n) / (d + log2(m + 1)); another 1 / (d + 1), then from there up, for each box that
    the point lies outside of, with p its probability to be cut off there: (1 - p) * score + p / (depth + 1).
    Plain twin: PlainTree.score.
    """
    size = forest.size[tree]
    if size == 0:
        return 0.0
    dimensions = point.shape[0]
    leaf, depth = walk_down(forest, tree, point)
    same = True
    for j in range(dimensions):
        same = same and point[j] == forest.point[tree, leaf, j]
    if same:
        mass = forest.mass[tree, leaf]
        score = (1.0 - mass / (2.0 * size)) / (depth + forest.log2_of[mass + 1])
        return float(score * forest.log2_of[size + 1])
    score = 1.0 / (depth + 1.0)
    for level in range(depth - 1, -1, -1):
        node = forest.path[level]
        outside = 0.0
        for j in range(dimensions):
            if point[j] < forest.low[tree, node, j]:
                outside += forest.low[tree, node, j] - point[j]
            elif point[j] > forest.high[tree, node, j]:
                outside += point[j] - forest.high[tree, node, j]
        if outside == 0.0:
            break
        apart = outside / (outside + forest.span[tree, node])
        score = (1.0 - apart) * score + apart / (level + 1.0)
    return float(score * forest.log2_of[size + 1])


@compiled
def learn_in_tree(forest: Forest, tree: int, point: NDArray[np.float64], age: float) -> None:
    """Offer `point` to a tree's sample; `age` = shingles learnt before it / time_decay, >= 0.

    Its weight is ln(-ln(u)) - age, u uniform: the samples of least weight are kept, which prefers the recent by a
    factor e per time_decay (Efraimidis and Spirakis 2006, in logarithms). Plain twin: PlainTree.learn.
    """
    capacity = forest.weight.shape[1]
    weight = natural_log(-natural_log(next_uniform(forest.random_state, tree))) - age
    size = forest.size[tree]
    if size < capacity:
        fill = size / capacity
        chance = 1.0 if fill < ACCEPT_ALL_BELOW else 1.0 - (fill - ACCEPT_ALL_BELOW) / (1.0 - ACCEPT_ALL_BELOW)
        if next_uniform(forest.random_state, tree) < chance:
            push_sample(forest, tree, weight, insert_point(forest, tree, point))
            return
    if weight < forest.weight[tree, 0]:
        forget_sample(forest, tree, pop_sample(forest, tree))
        push_sample(forest, tree, weight, insert_point(forest, tree, point))


@compiled
def push_shingle(shingle: NDArray[np.float64], features: NDArray[np.float64], record: int) -> None:
    """Drop the oldest record of the shingle (D,) and append row `record` of features (n, d)."""
    width = features.shape[1]
    kept = shingle.shape[0] - width
    for j in range(kept):
        shingle[j] = shingle[j + width]
    for j in range(width):
        shingle[kept + j] = features[record, j]


@compiled
def score_then_learn(
    forest: Forest, features: NDArray[np.float64], scores: NDArray[np.float64], time_decay: float
) -> None:
    """scores[i] = mean score over the trees of record i, which is then learnt; i = 0..n-1 in order.

    features: float64 (n, d), finite, within ± MAGNITUDE_MAX; scores: float64 (n,), written. 0 until `capacity` shingles
    have been learnt. Plain twin: PlainForest.
    """
    trees, capacity = forest.weight.shape
    shingle_size = forest.shingle.shape[0] // features.shape[1]
    for record in range(features.shape[0]):
        push_shingle(forest.shingle, features, record)
        learnt = forest.seen[0] - (shingle_size - 1)
        forest.seen[0] += 1
        scores[record] = 0.0
        if learnt < 0:
            continue
        age = learnt / time_decay
        total = 0.0
        for tree in range(trees):
            if learnt >= capacity:
                total += score_in_tree(forest, tree, forest.shingle)
            learn_in_tree(forest, tree, forest.shingle, age)
        scores[record] = total / trees
