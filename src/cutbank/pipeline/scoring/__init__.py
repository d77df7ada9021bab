"""Scoring: from a source stream to anomalies, errors and scores, one model a partition.

`run_scorer` is the scorer service without its settings and signals. The modules, from the inside out: decode and lines
(pure), model (state and batch to outputs), snapshots and state (what survives), assignment (how a partition is taken
up), keeper and worker (how it stays live), scorer (all partitions of a process).
"""

from cutbank.pipeline.scoring.config import ScorerConfig
from cutbank.pipeline.scoring.model import DetectorSource, PartitionModel, Scored
from cutbank.pipeline.scoring.scorer import group_name, run_scorer

__all__ = ["DetectorSource", "PartitionModel", "Scored", "ScorerConfig", "group_name", "run_scorer"]
