"""Columns of what a sink writes: the names and types of a stream's fields, for layouts that have columns. Values only.

Anomalies have the spec's columns and what Cutbank adds; error records their own, as Kinesis Data Analytics' error
stream has them.
"""

from typing import NamedTuple

from cutbank.pipeline.sinking.lines import OWN_COLUMNS
from cutbank.pipeline.spec import PipelineSpec


class Column(NamedTuple):
    """A field of a record that has a column of its own."""

    name: str
    type: str
    """A type of the spec without its length (VARCHAR, DOUBLE, …), TIMESTAMP (UTC, ms), or SOURCE, an identity."""


_OWN_TYPES = {"ANOMALY_SCORE": "DOUBLE", "ROWTIME": "TIMESTAMP", "SOURCE": "SOURCE"}

ERROR_COLUMNS = (
    Column("ERROR_TIME", "TIMESTAMP"),
    Column("ERROR_LEVEL", "VARCHAR"),
    Column("ERROR_NAME", "VARCHAR"),
    Column("MESSAGE", "VARCHAR"),
    Column("DATA_ROWTIME", "TIMESTAMP"),
    Column("DATA_ROW", "VARCHAR"),
    Column("DATA_BYTES", "BIGINT"),
    Column("PUMP_NAME", "VARCHAR"),
    Column("SOURCE", "SOURCE"),
)
"""An error record's, in its order."""


def anomaly_columns(spec: PipelineSpec) -> tuple[Column, ...]:
    """An anomaly's, in its order."""
    given = (Column(column.name, column.type.partition("(")[0]) for column in spec.columns)
    return (*given, *(Column(name, _OWN_TYPES[name]) for name in OWN_COLUMNS))
