"""rcf against the scores that the real Kinesis Data Analytics gave for series of NAB (all: benchmarks/detectors.py)."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NAB = ROOT.parent / "shared" / "data" / "nab"


@pytest.mark.slow
@pytest.mark.skipif(not NAB.is_dir(), reason="the NAB series with Kinesis's scores lie outside the project: not here")
def test_scores_rank_as_those_of_kinesis() -> None:
    spec = importlib.util.spec_from_file_location("benchmark_of_detectors", ROOT / "benchmarks" / "detectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    figures = module.measure_parity(NAB, pattern="realAWSCloudwatch__*")
    assert figures["nab_series"] == 17
    assert figures["nab_spearman_median"] >= 0.95
    assert abs(figures["nab_share_over_1"] - figures["nab_share_over_1_kinesis"]) < 0.03
