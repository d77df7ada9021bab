"""How many records a second each detector scores and learns, alone and in one thread; and how near rcf is to Kinesis.

Trades of two features, KDA's defaults, batches of 256, after the first records that fill the samples. `measure()`
returns the figures; run directly, JSON is on the last line. With `--nab FOLDER`, of files `timestamp,f1,label,
kinesis_score`, also what RANDOM_CUT_FOREST of Kinesis Data Analytics answered for the same rows, compared with rcf.
"""

import argparse
import csv
import gzip
import json
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from cutbank import detectors

WARM_RECORDS = 2_000
RECORDS = {"rcf": 20_000, "hst": 4_000, "ensemble": 4_000}
BATCH = 256
NAB_WARM_UP = 256


def trades(records: int) -> np.ndarray:
    """Price and quantity like the demo's: uniform, 5 % two to three times as large."""
    random = np.random.default_rng(1)
    features = np.column_stack([random.uniform(90, 110, records), random.integers(80, 121, records)]).astype(float)
    large = random.random(records) < 0.05
    features[large] *= random.uniform(2, 3, (int(large.sum()), 2))
    return features


def measure() -> dict[str, Any]:
    """Records/s of each detector, by processor time, and what a model and its snapshot take."""
    figures: dict[str, Any] = {}
    for name, records in RECORDS.items():
        detectors.self_check(name)
        model = detectors.create(name, dimensions=2)
        features = trades(WARM_RECORDS + records)
        began_s = time.process_time()
        model.score_then_learn(features[:WARM_RECORDS])
        warm_s = time.process_time() - began_s
        began_s = time.process_time()
        for at in range(WARM_RECORDS, WARM_RECORDS + records, BATCH):
            model.score_then_learn(features[at : at + BATCH])
        figures[f"{name}_records_per_s"] = round(records / (time.process_time() - began_s))
        figures[f"{name}_first_{WARM_RECORDS}_records_per_s"] = round(WARM_RECORDS / warm_s)
        began_s = time.process_time()
        data = model.to_bytes()
        figures[f"{name}_snapshot_ms"] = round((time.process_time() - began_s) * 1000, 2)
        began_s = time.process_time()
        detectors.from_bytes(data)
        figures[f"{name}_restore_ms"] = round((time.process_time() - began_s) * 1000, 2)
        figures[f"{name}_snapshot_bytes"] = len(data)
        figures[f"{name}_model_bytes"] = detectors.model_bytes(name, dimensions=2)
    return figures


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2.0)[inverse]


def measure_parity(folder: Path, *, pattern: str = "*.csv.gz") -> dict[str, Any]:
    """The forest against the real service's scores, from row 256; constant series have no rank correlation."""
    correlations, ours_over, theirs_over = [], [], []
    files = sorted(folder.glob(pattern))
    for path in files:
        with gzip.open(path, "rt", newline="") as file:
            rows = [(float(row["f1"]), float(row["kinesis_score"])) for row in csv.DictReader(file)]
        values, kinesis = np.array(rows).T
        scores = detectors.create("rcf", dimensions=1, seed=42).score_then_learn(values[:, None].copy())
        scores, kinesis = scores[NAB_WARM_UP:], kinesis[NAB_WARM_UP:]
        ours_over.append(float((scores > 1.0).mean()))
        theirs_over.append(float((kinesis > 1.0).mean()))
        if np.ptp(values) > 0.0:
            correlations.append(float(np.corrcoef(ranks(scores), ranks(kinesis))[0, 1]))
    return {
        "nab_series": len(files),
        "nab_spearman_median": round(median(correlations), 4),
        "nab_share_over_1": round(mean(ours_over), 4),
        "nab_share_over_1_kinesis": round(mean(theirs_over), 4),
    }


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nab", type=Path, metavar="FOLDER", help="series with Kinesis's scores")
    nab = parser.parse_args().nab
    figures = measure()
    if nab is not None:
        figures |= measure_parity(nab)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
