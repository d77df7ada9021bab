"""hst against River used directly, and the ensemble's rule against its two members."""

import numpy as np
import pytest
from river import anomaly, compose, preprocessing

from cutbank import detectors
from cutbank.testing.detector_contract import planted_outliers, uniform_numbers


def scores_of_river(features: np.ndarray, *, seed: int) -> list[float]:
    """What River's users write."""
    model = compose.Pipeline(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=seed))
    scores = []
    for row in features.tolist():
        record = {f"f{index}": value for index, value in enumerate(row)}
        scores.append(float(model.score_one(record)))
        model.learn_one(record)
    return scores


@pytest.mark.parametrize(("dimensions", "seed"), [(1, 0), (2, 42), (12, 2**63 - 1)])
def test_scores_are_rivers_bit_for_bit(dimensions: int, seed: int) -> None:
    features, _ = planted_outliers(seed=6, records=900, dimensions=dimensions)
    ours = detectors.create("hst", dimensions=dimensions, seed=seed).score_then_learn(features)
    assert ours.tolist() == scores_of_river(features, seed=seed)
    assert (ours[250:] > 0.0).any()


def test_scores_are_rivers_at_the_ends_of_float64() -> None:
    values = np.array([1.7976931348623157e308, -1.7976931348623157e308, 0.0, -0.0, 5e-324, 1.0])
    features = values[(uniform_numbers(seed=3, count=1200) * 6).astype(np.int64)].reshape(600, 2)
    ours = detectors.create("hst", dimensions=2, seed=1).score_then_learn(features)
    assert ours.tolist() == scores_of_river(features, seed=1)


def test_parameters_of_the_forest_do_not_matter_to_it() -> None:
    features, _ = planted_outliers(seed=6, records=400, dimensions=2)
    plain = detectors.create("hst", dimensions=2, seed=1)
    other = detectors.create("hst", dimensions=2, seed=1, number_of_trees=3, sub_sample_size=10, shingle_size=4)
    assert other.score_then_learn(features).tolist() == plain.score_then_learn(features).tolist()


def sparse(records: int) -> np.ndarray:
    """Twelve uniform features: every half-space is nearly empty, so half-space trees score everything high."""
    return uniform_numbers(seed=8, count=12 * records).reshape(records, 12)


def test_the_ensemble_is_the_larger_of_its_members_and_zero_in_warm_up() -> None:
    features = sparse(1200)
    settings = {"dimensions": 12, "seed": 4, "number_of_trees": 20, "sub_sample_size": 300}
    rcf = detectors.create("rcf", **settings).score_then_learn(features)
    hst = detectors.create("hst", **settings).score_then_learn(features)
    both = detectors.create("ensemble", **settings).score_then_learn(features)
    assert hst[250:300].max() > 0.0, "hst would score where rcf still warms up"
    assert (both[:300] == 0.0).all()
    assert both[300:].tolist() == [max(r, 0.84 * h) for r, h in zip(rcf[300:], hst[300:], strict=True)]
    assert (both[300:] > rcf[300:]).any(), "hst must raise some score, or this proves nothing"


def test_half_space_trees_alone_never_cross_one() -> None:
    features = sparse(2000)
    features[::10] *= 3.0
    rcf = detectors.create("rcf", dimensions=12, seed=4).score_then_learn(features)
    both = detectors.create("ensemble", dimensions=12, seed=4).score_then_learn(features)
    assert (both > 1.0).tolist() == (rcf > 1.0).tolist()
    assert (rcf > 1.0).any()
    assert (both > rcf).any(), "hst must raise some score, or this proves nothing"
    assert both[rcf > 1.0].tolist() == rcf[rcf > 1.0].tolist()
