"""The compiled forest against its plain twin, and both against what a forest promises: on anything hypothesis finds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank import detectors
from reference.plain_forest import PlainForest

FEW = st.sampled_from(
    [0.0, -0.0, 1.0, 2.0, -3.5, 1e-300, 5e-324, 1e300, -1.7976931348623157e308, 1.7976931348623157e308]
)
ANY = st.floats(allow_nan=False, allow_infinity=False)
SMALL = st.floats(min_value=-10, max_value=10, width=16)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, int]]:
    dimensions = draw(st.integers(1, 3))
    records = draw(st.integers(1, 60))
    values = draw(st.sampled_from([FEW, ANY, SMALL]))
    numbers = draw(st.lists(values, min_size=records * dimensions, max_size=records * dimensions))
    parameters = {
        "seed": draw(st.integers(0, 2**63 - 1)),
        "number_of_trees": draw(st.integers(1, 3)),
        "sub_sample_size": draw(st.integers(10, 16)),
        "time_decay": draw(st.integers(17, 200)),
        "shingle_size": draw(st.integers(1, 4)),
    }
    return np.array(numbers, np.float64).reshape(records, dimensions), parameters


@given(inputs())
@settings(max_examples=150, deadline=None)
def test_the_forest_equals_its_plain_twin_bit_for_bit(case: tuple[np.ndarray, dict[str, int]]) -> None:
    features, parameters = case
    twin = PlainForest(
        seed=parameters["seed"],
        trees=parameters["number_of_trees"],
        capacity=parameters["sub_sample_size"],
        time_decay=parameters["time_decay"],
        shingle_size=parameters["shingle_size"],
    )
    forest = detectors.create("rcf", dimensions=features.shape[1], **parameters)
    scores = forest.score_then_learn(features)
    assert scores.tolist() == [twin.score_then_learn(tuple(row)) for row in features.tolist()]
    assert np.isfinite(scores).all()


@given(inputs(), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_a_snapshot_at_any_record_goes_on_alike(case: tuple[np.ndarray, dict[str, int]], at: int) -> None:
    features, parameters = case
    whole = detectors.create("rcf", dimensions=features.shape[1], **parameters).score_then_learn(features)
    forest = detectors.create("rcf", dimensions=features.shape[1], **parameters)
    before = forest.score_then_learn(features[:at])
    after = detectors.from_bytes(forest.to_bytes()).score_then_learn(features[at:])
    assert np.concatenate([before, after]).tolist() == whole.tolist()


def test_a_long_run_equals_its_plain_twin() -> None:
    random = np.random.default_rng(8)
    features = np.round(random.normal(size=(1200, 2)), 1)
    features[::50] *= 5
    twin = PlainForest(seed=21, trees=2, capacity=48, time_decay=400)
    forest = detectors.create("rcf", dimensions=2, seed=21, number_of_trees=2, sub_sample_size=48, time_decay=400)
    assert forest.score_then_learn(features).tolist() == [twin.score_then_learn(tuple(x)) for x in features.tolist()]
