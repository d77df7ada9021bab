"""Twin of the forest's kernels: the paper's algorithms on linked nodes, in plain Python, boxes recomputed each time.

Nothing here is incremental: a box is looked up from all points below a node, the sample is a list. So where it
agrees with the kernels bit for bit, their arrays, heaps and growing boxes are right.
"""

from dataclasses import dataclass, field

from reference.plain_elementary import plain_log, plain_log2
from reference.plain_random import PlainRandom

Point = tuple[float, ...]


@dataclass(eq=False)
class Leaf:
    point: Point
    mass: int = 1

    def points(self) -> list[Point]:
        return [self.point]


@dataclass(eq=False)
class Inner:
    dimension: int
    cut: float
    left: "Leaf | Inner"
    right: "Leaf | Inner"

    def points(self) -> list[Point]:
        return self.left.points() + self.right.points()

    def child(self, point: Point) -> "Leaf | Inner":
        return self.left if point[self.dimension] <= self.cut else self.right

    def swap(self, old: "Leaf | Inner", new: "Leaf | Inner") -> None:
        if self.left is old:
            self.left = new
        else:
            self.right = new


def box(node: Leaf | Inner) -> list[tuple[float, float]]:
    return [(min(values), max(values)) for values in zip(*node.points(), strict=True)]


def span(sides: list[tuple[float, float]]) -> float:
    total = 0.0
    for low, high in sides:
        total += high - low
    return total


def outside(sides: list[tuple[float, float]], point: Point) -> float:
    total = 0.0
    for (low, high), x in zip(sides, point, strict=True):
        total += max(low - x, x - high, 0.0)
    return total


@dataclass
class PlainTree:
    random: PlainRandom
    capacity: int
    root: Leaf | Inner | None = None
    sample: list[tuple[float, Leaf]] = field(default_factory=list)

    def walk(self, point: Point) -> list[Leaf | Inner]:
        assert self.root is not None
        path: list[Leaf | Inner] = [self.root]
        while isinstance(path[-1], Inner):
            path.append(path[-1].child(point))
        return path

    def score(self, point: Point) -> float:
        if self.root is None:
            return 0.0
        n = len(self.sample)
        *above, leaf = self.walk(point)
        depth = len(above)
        if leaf.point == point:
            score = (1 - leaf.mass / (2 * n)) / (depth + plain_log2(leaf.mass + 1))
            return score * plain_log2(n + 1)
        score = 1 / (depth + 1)
        for level, node in reversed(list(enumerate(above))):
            sides = box(node)
            far = outside(sides, point)
            if far == 0:
                break
            p = far / (far + span(sides))
            score = (1 - p) * score + p / (level + 1)
        return score * plain_log2(n + 1)

    def random_cut(self, node: Leaf | Inner, point: Point) -> tuple[int, float] | None:
        sides = box(node)
        place = self.random.uniform() * (span(sides) + outside(sides, point))
        for j, ((low, high), x) in enumerate(zip(sides, point, strict=True)):
            start, end = min(low, x), max(high, x)
            if place <= end - start and end > start:
                cut = start + place if start + place < end else start
                if x <= cut < low or high <= cut < x:
                    return j, cut
                break
            place -= end - start
        if isinstance(node, Leaf):
            j = next(j for j, x in enumerate(point) if x != node.point[j])
            return j, min(point[j], node.point[j])
        return None

    def insert(self, point: Point) -> Leaf:
        parent: Inner | None = None
        node = self.root
        if node is None:
            self.root = Leaf(point)
            return self.root
        while True:
            if isinstance(node, Leaf) and node.point == point:
                node.mass += 1
                return node
            found = self.random_cut(node, point) if outside(box(node), point) > 0 else None
            if found is not None:
                leaf, (j, cut) = Leaf(point), found
                inner = Inner(j, cut, leaf, node) if point[j] <= cut else Inner(j, cut, node, leaf)
                if parent is None:
                    self.root = inner
                else:
                    parent.swap(node, inner)
                return leaf
            assert isinstance(node, Inner)
            parent, node = node, node.child(point)

    def forget(self, leaf: Leaf) -> None:
        leaf.mass -= 1
        if leaf.mass > 0:
            return
        path = self.walk(leaf.point)
        assert path.pop() is leaf
        if not path:
            self.root = None
            return
        parent = path.pop()
        assert isinstance(parent, Inner)
        sibling = parent.right if parent.left is leaf else parent.left
        if not path:
            self.root = sibling
        else:
            path[-1].swap(parent, sibling)

    def learn(self, point: Point, age: float) -> None:
        weight = plain_log(-plain_log(self.random.uniform())) - age
        if len(self.sample) < self.capacity:
            fill = len(self.sample) / self.capacity
            chance = 1.0 if fill < 0.125 else 1 - (fill - 0.125) / (1 - 0.125)
            if self.random.uniform() < chance:
                self.sample.append((weight, self.insert(point)))
                return
        heaviest = max(self.sample, key=lambda entry: entry[0])
        if weight < heaviest[0]:
            self.sample.remove(heaviest)
            self.forget(heaviest[1])
            self.sample.append((weight, self.insert(point)))


class PlainForest:
    def __init__(self, *, seed: int, trees: int, capacity: int, time_decay: int, shingle_size: int = 1) -> None:
        seeds = PlainRandom(seed)
        self.trees = [PlainTree(PlainRandom(seeds.bits()), capacity) for _ in range(trees)]
        self.capacity, self.time_decay, self.shingle_size = capacity, time_decay, shingle_size
        self.records: list[Point] = []

    def score_then_learn(self, record: Point) -> float:
        self.records.append(tuple(max(-1e300, min(1e300, x)) for x in record))
        learnt = len(self.records) - self.shingle_size
        if learnt < 0:
            return 0.0
        point = tuple(x for row in self.records[-self.shingle_size :] for x in row)
        total = 0.0
        if learnt >= self.capacity:
            for tree in self.trees:
                total += tree.score(point)
        for tree in self.trees:
            tree.learn(point, learnt / self.time_decay)
        return total / len(self.trees)
