"""The self check: a fixed input whose scores every machine must give, bit for bit. Stateless.

Detectors are only as reproducible as the compiler and the libraries below them: so this is checked at every start,
not assumed.
"""

import hashlib
from collections.abc import Callable

import numpy as np

from cutbank.detectors.base import Detector, Features
from cutbank.detectors.parameters import Parameters
from cutbank.errors import DetectorMismatch

RECORDS = 700
"""Enough for hst to leave its first window of 250, and for the forest to evict."""

PARAMETERS = Parameters(dimensions=3, seed=11, number_of_trees=10, sub_sample_size=32, time_decay=300, shingle_size=2)


def fixed_input() -> Features:
    """(RECORDS, 3) numbers by integer arithmetic alone: spread, steps with duplicates, rare jumps."""
    rows = []
    state = 1
    for index in range(RECORDS):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        high, low = state >> 40, (state >> 20) % 1000
        jump = 50.0 if index % 97 == 96 else 1.0
        rows.append((high / 2**20 * jump, float(low % 7), -low / 1000.0 * jump))
    return np.array(rows, np.float64)


def scores_digest(*, create: Callable[[Parameters], Detector], restore: Callable[[bytes], Detector]) -> str:
    """SHA-256, hex, of the scores of the fixed input (float64, little-endian), with a snapshot on the way."""
    features = fixed_input()
    half = RECORDS // 2
    detector = create(PARAMETERS)
    scores = detector.score_then_learn(features[:half])
    detector = restore(detector.to_bytes())
    scores = np.concatenate([scores, detector.score_then_learn(features[half:])])
    return hashlib.sha256(scores.astype("<f8").tobytes()).hexdigest()


def check_scores(
    name: str, *, create: Callable[[Parameters], Detector], restore: Callable[[bytes], Detector], expected: str
) -> None:
    """Raises DetectorMismatch where the digest is not the one expected."""
    digest = scores_digest(create=create, restore=restore)
    if digest != expected:
        raise DetectorMismatch(
            f"detector {name!r} scores its fixed input differently on this machine ({digest[:16]}, expected "
            f"{expected[:16]}), so it will not run. Install the locked versions of numba, numpy and river, delete "
            "numba's cache (NUMBA_CACHE_DIR, or __pycache__ beside the kernels), run `cutbank warm`, and report it if "
            "that does not help."
        )
