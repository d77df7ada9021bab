"""A model's size is known before it is made: the figure against the memory that it takes, and the limit before both."""

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest

from cutbank import detectors
from cutbank.detectors import registry
from cutbank.detectors.check import fixed_input
from cutbank.detectors.registry import MODEL_BYTES_MAX
from cutbank.errors import SnapshotUnusable, UsageError
from cutbank.pipeline.scoring.snapshots import SNAPSHOT_BYTES_MAX

SIZES: list[tuple[str, dict[str, int]]] = [
    ("rcf", {"dimensions": 1, "number_of_trees": 1, "sub_sample_size": 10}),
    ("rcf", {"dimensions": 2}),
    ("rcf", {"dimensions": 3, "shingle_size": 30, "number_of_trees": 20}),
    ("rcf", {"dimensions": 30, "shingle_size": 10, "number_of_trees": 10, "sub_sample_size": 100}),
    ("hst", {"dimensions": 1}),
    ("hst", {"dimensions": 30}),
    ("hst", {"dimensions": 200}),
    ("ensemble", {"dimensions": 2}),
    ("ensemble", {"dimensions": 30, "shingle_size": 4, "sub_sample_size": 50}),
]
AROUND_BYTES = 64 << 10
"""What Python keeps beside a model: the parameters, views, the last record."""


def taken_bytes(name: str, parameters: dict[str, int]) -> int:
    """What a model takes once it has learnt, as Python's allocators and numpy's count it."""
    records = np.resize(fixed_input(), (60, parameters["dimensions"]))
    # What is imported and compiled counts for nobody.
    detectors.create(name, **{**parameters, "number_of_trees": 1}).score_then_learn(records)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        model = detectors.create(name, **parameters)
        model.score_then_learn(records)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert model.dimensions == parameters["dimensions"]
    return after - before


@pytest.mark.parametrize(("name", "parameters"), SIZES, ids=str)
def test_the_figure_is_what_a_model_takes(name: str, parameters: dict[str, int]) -> None:
    figure = detectors.model_bytes(name, **parameters)
    taken = taken_bytes(name, parameters)
    assert taken <= figure + AROUND_BYTES, "the figure is an upper bound"
    assert figure <= 1.25 * taken + AROUND_BYTES, "and a close one"


def test_a_forests_figure_is_exact() -> None:
    for parameters in ({"dimensions": 2}, {"dimensions": 7, "shingle_size": 5, "number_of_trees": 3}):
        model: Any = detectors.create("rcf", **parameters)
        assert detectors.model_bytes("rcf", **parameters) == sum(array.nbytes for array in model._forest)


@pytest.mark.parametrize("name", ["rcf", "ensemble"])
def test_over_the_limit_it_is_refused_with_the_figure_before_anything_is_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = {"dimensions": 30, "shingle_size": 30, "number_of_trees": 1000, "sub_sample_size": 1000}
    made: list[object] = []
    factory = registry._opened(name)
    monkeypatch.setattr(
        registry, "_opened", lambda _: registry.Factory(made.append, factory.restore, factory.model_bytes)
    )
    figure = r"a model of \w+ with these parameters needs (21634035224|216\d{8}) bytes, more than MODEL_BYTES_MAX"
    for ask in (detectors.create, detectors.model_bytes):
        with pytest.raises(UsageError, match=figure + r" \(1073741824\): lower number_of_trees, sub_sample_size"):
            ask(name, **largest)
    assert made == []
    assert detectors.model_bytes("hst", dimensions=1000) < MODEL_BYTES_MAX, "hst's parameters can't reach it"


def test_the_largest_that_is_taken_is_just_below(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = detectors.model_bytes("rcf", dimensions=2)
    monkeypatch.setattr(registry, "MODEL_BYTES_MAX", figure)
    assert detectors.create("rcf", dimensions=2).dimensions == 2
    with pytest.raises(UsageError, match="lower number_of_trees"):
        detectors.create("rcf", dimensions=2, number_of_trees=101)


def test_a_snapshot_of_a_model_over_the_limit_is_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    state = detectors.create("rcf", dimensions=2).to_bytes()
    monkeypatch.setattr(registry, "MODEL_BYTES_MAX", detectors.model_bytes("rcf", dimensions=2) - 1)
    with pytest.raises(SnapshotUnusable, match="larger than MODEL_BYTES_MAX"):
        detectors.from_bytes(state)


@pytest.mark.parametrize(("name", "parameters"), SIZES, ids=str)
def test_what_may_be_made_may_be_kept(name: str, parameters: dict[str, int]) -> None:
    """A state leaves out what follows from the rest, so it is smaller than its model, whose limit it has too."""
    state = detectors.create(name, **parameters).to_bytes()
    assert len(state) < detectors.model_bytes(name, **parameters) + AROUND_BYTES
    assert SNAPSHOT_BYTES_MAX >= MODEL_BYTES_MAX + AROUND_BYTES
