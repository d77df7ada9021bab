"""The chain detector is a detector as the protocol says, and nothing that happened to its records can hide."""

import struct
import zlib
from itertools import chain

import numpy as np
import pytest

from cutbank.detectors.base import Detector
from cutbank.errors import SnapshotUnusable
from cutbank.testing.detectors import ChainDetector

FEATURES = np.random.default_rng(1).normal(size=(200, 2))


def test_is_a_detector() -> None:
    detector: Detector = ChainDetector(dimensions=2)
    assert (detector.name, detector.algorithm_version, detector.dimensions) == ("chain", 1, 2)


def test_a_score_is_the_crc_of_all_bytes_so_far() -> None:
    rows = [[0.0, 0.0], [1.0, -0.5], [3.0, 4.0]]
    scores = ChainDetector(dimensions=2, share=0.25).score_then_learn(np.array(rows))
    sofar = [struct.pack(f"<{2 * count}d", *chain.from_iterable(rows[:count])) for count in (1, 2, 3)]
    assert scores.tolist() == [zlib.crc32(data) / 2**32 + 0.25 for data in sofar]


def test_batches_do_not_matter() -> None:
    whole = ChainDetector(dimensions=2).score_then_learn(FEATURES)
    pieces = ChainDetector(dimensions=2)
    found = [pieces.score_then_learn(FEATURES[first:last]) for first, last in [(0, 0), (0, 1), (1, 150), (150, 200)]]
    assert np.concatenate(found).tolist() == whole.tolist()
    assert pieces.records == 200


def test_goes_on_from_its_bytes() -> None:
    detector = ChainDetector(dimensions=2, share=0.25)
    detector.score_then_learn(FEATURES[:100])
    again = ChainDetector.from_bytes(detector.to_bytes())
    assert again.score_then_learn(FEATURES[100:]).tolist() == detector.score_then_learn(FEATURES[100:]).tolist()
    assert again.to_bytes() == detector.to_bytes()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_about_its_share_is_over_1(share: float) -> None:
    scores = ChainDetector(dimensions=2, share=share).score_then_learn(np.random.default_rng(2).normal(size=(5000, 2)))
    assert float((scores > 1.0).mean()) == pytest.approx(share, abs=0.02)
    assert scores.min() >= 0.0


@pytest.mark.parametrize("change", ["lost", "doubled", "swapped", "altered"])
def test_whatever_happened_to_one_record_shows_in_all_later_scores(change: str) -> None:
    altered = FEATURES.copy()
    altered[50, 1] = np.nextafter(altered[50, 1], np.inf)
    rows = {
        "lost": np.delete(FEATURES, 50, axis=0),
        "doubled": np.insert(FEATURES, 50, FEATURES[50], axis=0),
        "swapped": FEATURES[[*range(50), 51, 50, *range(52, 200)]],
        "altered": altered,
    }[change]
    expected = ChainDetector(dimensions=2).score_then_learn(FEATURES)[-140:]
    found = ChainDetector(dimensions=2).score_then_learn(np.ascontiguousarray(rows))[-140:]
    assert not (expected == found).any()


@pytest.mark.parametrize(
    "features",
    [np.zeros((3, 1)), np.zeros(3), np.zeros((3, 2), dtype=np.float32), np.array([[1.0, np.nan]])],
)
def test_wrong_features_are_refused_and_nothing_learnt(
    features: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> None:
    detector = ChainDetector(dimensions=2)
    before = detector.to_bytes()
    with pytest.raises(ValueError, match="feature"):
        detector.score_then_learn(features)
    assert detector.to_bytes() == before


def test_damaged_bytes_are_refused() -> None:
    state = ChainDetector(dimensions=2).to_bytes()
    for damaged in (b"", state[:-1], state + b"x", b"\x00" + state[1:], state[:10] + b"\xff" + state[11:]):
        with pytest.raises(SnapshotUnusable):
            ChainDetector.from_bytes(damaged)


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        ChainDetector(dimensions=2, share=1.5)
