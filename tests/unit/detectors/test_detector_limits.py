"""What a detector's input and state may hold at most."""

import numpy as np
import pytest

from cutbank import detectors
from cutbank.detectors import state
from cutbank.detectors.kernels.layout import MAGNITUDE_MAX
from cutbank.detectors.rcf import _SEEN_MAX, RandomCutForest
from cutbank.detectors.state import decode_state
from cutbank.errors import SnapshotUnusable


def forest() -> RandomCutForest:
    made = detectors.create("rcf", dimensions=2, number_of_trees=3, sub_sample_size=10)
    assert isinstance(made, RandomCutForest)
    return made


def test_a_feature_beyond_the_largest_counts_as_the_largest() -> None:
    usual = np.arange(60.0).reshape(30, 2)
    at, over = forest(), forest()
    for model, value in ((at, MAGNITUDE_MAX), (over, 1.7e308)):
        model.score_then_learn(usual)
        assert np.isfinite(model.score_then_learn(np.array([[value, -value]]))).all()
    assert at.to_bytes() == over.to_bytes()


def test_more_records_than_an_age_can_count_are_refused() -> None:
    """It takes 2,800 years to get there by records."""
    for seen, sound in ((_SEEN_MAX, True), (_SEEN_MAX + 1, False)):
        model = forest()
        model._forest.seen[0] = seen
        data = model.to_bytes()
        if sound:
            assert detectors.from_bytes(data).to_bytes() == data
        else:
            with pytest.raises(SnapshotUnusable, match="count of records"):
                detectors.from_bytes(data)


def test_a_state_over_the_limit_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    data = forest().to_bytes()
    monkeypatch.setattr(state, "STATE_BYTES_MAX", len(data))
    assert decode_state(data).name == "rcf"
    monkeypatch.setattr(state, "STATE_BYTES_MAX", len(data) - 1)
    with pytest.raises(SnapshotUnusable, match=f"has {len(data)} bytes, more than {len(data) - 1}"):
        decode_state(data)
