"""The default detector, at the default threshold, finds the anomalies among the made-up trades."""

import json

import numpy as np
import pytest

from cutbank.detectors.registry import create
from cutbank.pipeline.spec import PipelineSpec
from cutbank_producer.trades import FIRST_ID, AnomalyRule, TradeGenerator


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_recall_and_precision_over_1_are_what_the_demo_promises(seed: int) -> None:
    spec = PipelineSpec()
    warm_up = spec.detector.sub_sample_size
    trades = TradeGenerator(seed=seed, first_id=FIRST_ID, anomalies=AnomalyRule()).batch(3000)
    records = [json.loads(trade.value) for trade in trades]
    features = np.array([[record[name] for name in spec.features] for record in records], dtype=np.float64)
    scores = create(spec.detector.name, dimensions=len(spec.features)).score_then_learn(features)
    found = (scores > spec.threshold)[warm_up:]
    labelled = np.array([trade.anomalous for trade in trades])[warm_up:]
    assert (found & labelled).sum() / labelled.sum() >= 0.98
    assert (found & labelled).sum() / found.sum() >= 0.50
    assert not (scores > spec.threshold)[:warm_up].any()
