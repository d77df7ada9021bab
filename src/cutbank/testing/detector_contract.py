# ruff: noqa: D102  # a test's name says what it proves
"""The contract of detectors as tests: subclass `DetectorContract`, say how to make one, and run pytest on it.

    class TestMine(DetectorContract):
        def create(self, *, dimensions, seed): return MyDetector(dimensions, seed)
        def restore(self, data): return MyDetector.from_bytes(data)
        warm_up_records = 100
        auc_least = 0.9

Needs pytest and numpy. Inputs are seeded and the same on every machine; nothing here sleeps or does I/O.
"""

import hashlib
from typing import Any, ClassVar

import numpy as np
import pytest

from cutbank.detectors.base import Detector, Features, Scores

RECORDS = 640
"""Records of the input: two and a half windows of River's trees."""


def uniform_numbers(*, seed: int, count: int) -> Scores:
    """`count` numbers on [0, 1) from a 64-bit congruential generator: no library's stream that might change."""
    state = seed * 2 + 1
    numbers = np.empty(count, np.float64)
    for index in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        numbers[index] = (state >> 32) / 2**32
    return numbers


def planted_outliers(*, seed: int, records: int, dimensions: int) -> tuple[Features, np.ndarray]:
    """Features around 100 with steps and duplicates, and which records (5 %) are two to three times as large."""
    numbers = uniform_numbers(seed=seed, count=records * (dimensions + 2)).reshape(records, dimensions + 2)
    features = 90.0 + 20.0 * numbers[:, :dimensions]
    features[:, ::2] = np.floor(features[:, ::2])
    planted = numbers[:, dimensions] < 0.05
    features[planted] *= 2.0 + numbers[planted, dimensions + 1 :]
    return np.ascontiguousarray(features), planted


def area_under_curve(scores: Scores, planted: np.ndarray) -> float:
    """The chance that a planted record scores higher than a normal one; ties count half."""
    high, low = scores[planted][:, None], scores[~planted][None, :]
    return float(((high > low) + 0.5 * (high == low)).mean())


class DetectorContract:
    """What every detector promises. One instance of a subclass tests one detector."""

    dimensions: ClassVar[int] = 2
    """Features of a record in these tests."""
    warm_up_records: int
    """Records at the start that score 0; below 400."""
    auc_least: float
    """What the area under the ROC curve must exceed on the planted outliers."""
    digest: str | None = None
    """SHA-256, hex, of the scores of this suite's input with seed 3; None for detectors outside promise 3."""

    def create(self, *, dimensions: int, seed: int) -> Detector:
        """An empty detector."""
        raise NotImplementedError

    def restore(self, data: bytes) -> Detector:
        """A detector from its `to_bytes`."""
        raise NotImplementedError

    @pytest.fixture
    def detector(self) -> Detector:
        """An empty detector with seed 3."""
        return self.create(dimensions=self.dimensions, seed=3)

    @pytest.fixture
    def features(self) -> Features:
        """The input."""
        return planted_outliers(seed=1, records=RECORDS, dimensions=self.dimensions)[0]

    @pytest.fixture
    def expected(self, features: Features) -> Scores:
        """Its scores, in one batch."""
        return self.create(dimensions=self.dimensions, seed=3).score_then_learn(features)

    def test_says_what_it_is(self, detector: Detector) -> None:
        assert detector.name
        assert detector.algorithm_version >= 1
        assert detector.dimensions == self.dimensions

    def test_scores_are_finite_and_not_negative_and_zero_in_warm_up_only(self, expected: Scores) -> None:
        assert expected.dtype == np.float64
        assert expected.shape == (RECORDS,)
        assert np.isfinite(expected).all()
        assert (expected[: self.warm_up_records] == 0.0).all()
        assert (expected[self.warm_up_records :] > 0.0).all()

    @pytest.mark.parametrize("batch", [1, 7, 256])
    def test_same_scores_for_any_batch(
        self, detector: Detector, features: Features, expected: Scores, batch: int
    ) -> None:
        parts = [detector.score_then_learn(features[at : at + batch]) for at in range(0, RECORDS, batch)]
        assert np.array_equal(np.concatenate(parts), expected)

    @pytest.mark.parametrize("at", [0, 1, 2, 249, 250, 251, 255, 256, 257, RECORDS - 1, RECORDS])
    def test_a_snapshot_goes_on_with_the_same_scores(
        self, detector: Detector, features: Features, expected: Scores, at: int
    ) -> None:
        before = detector.score_then_learn(features[:at])
        restored = self.restore(detector.to_bytes())
        assert (restored.name, restored.dimensions) == (detector.name, detector.dimensions)
        after = restored.score_then_learn(features[at:])
        assert np.array_equal(np.concatenate([before, after]), expected)

    def test_a_snapshot_is_a_function_of_the_state(self, detector: Detector, features: Features) -> None:
        detector.score_then_learn(features[:300])
        data = detector.to_bytes()
        assert detector.to_bytes() == data
        assert self.restore(data).to_bytes() == data

    def test_taking_a_snapshot_changes_nothing(self, detector: Detector, features: Features, expected: Scores) -> None:
        parts = []
        for at in range(0, RECORDS, 80):
            parts.append(detector.score_then_learn(features[at : at + 80]))
            detector.to_bytes()
        assert np.array_equal(np.concatenate(parts), expected)

    def test_an_empty_batch_does_nothing(self, detector: Detector, features: Features, expected: Scores) -> None:
        empty = np.empty((0, self.dimensions), np.float64)
        assert detector.score_then_learn(empty).shape == (0,)
        first = detector.score_then_learn(features[:300])
        assert detector.score_then_learn(empty).shape == (0,)
        assert np.array_equal(np.concatenate([first, detector.score_then_learn(features[300:])]), expected)

    def test_what_is_refused_is_not_learnt(self, detector: Detector, features: Features, expected: Scores) -> None:
        first = detector.score_then_learn(features[:300])
        bad = features[300:310].copy()
        for value in (np.nan, np.inf, -np.inf):
            bad[9, self.dimensions - 1] = value
            with pytest.raises(ValueError, match="record 9 is not finite"):
                detector.score_then_learn(bad)
        others: list[Any] = [features[300:310, :1], features[300], features[300:310].astype(np.float32), [[1.0, 2.0]]]
        for other in others:
            with pytest.raises(ValueError, match="features must"):
                detector.score_then_learn(other)
        assert np.array_equal(np.concatenate([first, detector.score_then_learn(features[300:])]), expected)

    def test_the_callers_array_is_left_alone_and_may_have_any_layout(
        self, detector: Detector, features: Features, expected: Scores
    ) -> None:
        given = np.asfortranarray(features)
        given.flags.writeable = False
        assert np.array_equal(detector.score_then_learn(given), expected)
        assert np.array_equal(given, features)

    def test_instances_are_independent(self, features: Features, expected: Scores) -> None:
        one = self.create(dimensions=self.dimensions, seed=3)
        other = self.create(dimensions=self.dimensions, seed=3)
        parts = []
        for at in range(0, RECORDS, 64):
            parts.append(one.score_then_learn(features[at : at + 64]))
            other.score_then_learn(features[at : at + 64] * 3.0)
        assert np.array_equal(np.concatenate(parts), expected)

    def test_the_seed_matters(self, features: Features, expected: Scores) -> None:
        assert not np.array_equal(self.create(dimensions=self.dimensions, seed=4).score_then_learn(features), expected)

    def test_scores_are_the_frozen_ones(self, expected: Scores) -> None:
        if self.digest is None:
            pytest.skip("outside promise 3: its scores may differ between machines")
        assert hashlib.sha256(expected.astype("<f8").tobytes()).hexdigest() == self.digest

    def test_extreme_values_give_finite_scores(self, detector: Detector) -> None:
        numbers = uniform_numbers(seed=5, count=600 * self.dimensions).reshape(600, self.dimensions)
        values = np.array([1.7976931348623157e308, -1.7976931348623157e308, 1e300, 5e-324, 0.0, -0.0, 1.0, 2.0**53])
        scores = detector.score_then_learn(values[(numbers * len(values)).astype(np.int64)])
        assert np.isfinite(scores).all()
        assert (scores >= 0.0).all()

    def test_constant_data_gives_no_alarm(self, detector: Detector) -> None:
        scores = detector.score_then_learn(np.full((600, self.dimensions), 7.25))
        assert np.isfinite(scores).all()
        assert (scores[self.warm_up_records :] <= 1.0).all()

    def test_nearly_constant_data_gives_finite_scores(self, detector: Detector) -> None:
        features = np.full((600, self.dimensions), 7.25)
        features[::5] += 2.0**-50
        features[7::11] = np.nextafter(7.25, 0.0)
        scores = detector.score_then_learn(features)
        assert np.isfinite(scores).all()
        assert (scores >= 0.0).all()

    def test_planted_outliers_score_higher(self, detector: Detector) -> None:
        features, planted = planted_outliers(seed=2, records=1500, dimensions=self.dimensions)
        scores = detector.score_then_learn(features)
        area = area_under_curve(scores[self.warm_up_records :], planted[self.warm_up_records :])
        assert area > self.auc_least
