"""The pipeline spec: one documented TOML file that says what is scored, how, and where anomalies go.

Owns the spec's meaning and its hash. The hash covers exactly what a score, an anomaly line or an error line depends
on, so that a changed description moves nothing and a changed detector starts a new run. Values only; no I/O but
`load_spec`, which reads one file.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cutbank.errors import UsageError
from cutbank.settings import one_line

SPEC_BYTES_MAX = 1 << 20
"""Largest spec file, bytes."""

FEATURES_MAX = 30
"""Most feature columns, as RANDOM_CUT_FOREST takes (SQL reference, sqlrf-random-cut-forest)."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
"""Pipelines and streams: up to 100 characters that Kafka, Kinesis, S3 keys and file names all take."""

RESERVED_COLUMNS = frozenset({"ANOMALY_SCORE", "ROWTIME", "SOURCE"})

INTEGER_TYPES = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT"})
NUMERIC_TYPES = INTEGER_TYPES | {"REAL", "FLOAT", "DOUBLE"}
_TYPE = re.compile(r"(TINYINT|SMALLINT|INTEGER|BIGINT|REAL|FLOAT|DOUBLE|BOOLEAN|VARCHAR(\(\d{1,5}\))?)")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Column(_Part):
    """One column of the records: a key of the JSON object."""

    name: str = Field(min_length=1, max_length=100)
    """The JSON key, case-sensitive."""
    type: str
    """SQL type as in Kinesis Data Analytics: VARCHAR, VARCHAR(n), DOUBLE, FLOAT, REAL, BIGINT, INTEGER, SMALLINT,
    TINYINT, BOOLEAN."""

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        upper = value.upper()
        if not _TYPE.fullmatch(upper):
            raise ValueError(
                "unknown type; use VARCHAR, VARCHAR(n), DOUBLE, FLOAT, REAL, "
                "BIGINT, INTEGER, SMALLINT, TINYINT or BOOLEAN"
            )
        return upper

    @field_validator("name")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value in RESERVED_COLUMNS:
            raise ValueError(f"{value} is a column that Cutbank adds; rename yours")
        return value


class DetectorSpec(_Part):
    """Which detector scores, and its parameters under their RANDOM_CUT_FOREST names in snake case."""

    name: Literal["ensemble", "rcf", "hst"] = "ensemble"
    """ensemble: both together (default). rcf: random cut forest. hst: River's half-space trees."""
    number_of_trees: int = Field(default=100, ge=1, le=1000)
    """rcf: trees in the forest, 1 to 1000."""
    sub_sample_size: int = Field(default=256, ge=10, le=1000)
    """rcf: records each tree samples, 10 to 1000; scores are 0 for as many records at the start."""
    time_decay: int = Field(default=100_000, ge=1, le=2_147_483_647)
    """rcf: records after which the past counts for a factor e less, 1 to 2147483647; must exceed sub_sample_size."""
    shingle_size: int = Field(default=1, ge=1, le=30)
    """rcf: how many records in a row are scored as one point, 1 to 30."""
    seed: int = Field(default=7, ge=0, le=2**63 - 1)
    """Start of all randomness: the same seed and records give the same scores, bit for bit."""

    @model_validator(mode="after")
    def _decay(self) -> Self:
        if self.sub_sample_size >= self.time_decay:
            raise ValueError(f"sub_sample_size ({self.sub_sample_size}) must be below time_decay ({self.time_decay})")
        return self


class PipelineSpec(_Part):
    """What is scored, how, and where the anomalies go. Every field has a default: the stock trades of the demo."""

    name: str = Field(default="anomaly-extractor", pattern=NAME_PATTERN)
    """The pipeline's name: part of every group, snapshot and claim, so that staging and production never meet."""
    description: str = Field(default="Extracts anomalous events from a stream.", max_length=1000)
    """For people; not part of the spec's hash."""
    source: str = Field(default="trades", pattern=NAME_PATTERN)
    """Stream that is scored."""
    destination: str = Field(default="anomalies", pattern=NAME_PATTERN)
    """Stream that takes the anomalies."""
    errors: str = Field(default="errors", pattern=NAME_PATTERN)
    """Stream that takes every bad record with its reason."""
    scores: str = Field(default="scores", pattern=NAME_PATTERN)
    """Stream that takes every record with its score, where that is asked for."""
    columns: tuple[Column, ...] = Field(
        default=(
            Column(name="tickerSymbol", type="VARCHAR(8)"),
            Column(name="tradeType", type="VARCHAR(4)"),
            Column(name="price", type="DOUBLE"),
            Column(name="quantity", type="INTEGER"),
            Column(name="id", type="INTEGER"),
        ),
        min_length=1,
        max_length=1000,
    )
    """Columns of an anomaly's line, in this order. A key that a record lacks becomes null; others are left out."""
    features: tuple[str, ...] = Field(default=("price", "quantity"), min_length=1, max_length=FEATURES_MAX)
    """Numeric columns that are scored, 1 to 30. A record without a finite number in each goes to the error stream."""
    threshold: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    """A record is an anomaly when its score is greater than this."""
    detector: DetectorSpec = DetectorSpec()
    """The detector and its parameters."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"column {next(n for n in names if names.count(n) > 1)!r} is there twice")
        if len(set(self.features)) != len(self.features):
            raise ValueError("a feature is there twice")
        numeric = {column.name for column in self.columns if column.type in NUMERIC_TYPES}
        for feature in self.features:
            if feature not in names:
                raise ValueError(f"feature {feature!r} is not a column; columns are {', '.join(names)}")
            if feature not in numeric:
                raise ValueError(f"feature {feature!r} is not numeric")
        streams = [self.source, self.destination, self.errors, self.scores]
        if len(set(streams)) != len(streams):
            raise ValueError("source, destination, errors and scores must be four different streams")
        return self

    def type_of(self, column: str) -> str:
        """The type of a column by name."""
        return next(item.type for item in self.columns if item.name == column)

    def hash(self, *, algorithm_version: int) -> str:
        """SHA-256, hex, of all that a score or an output line depends on, and the detector's algorithm version."""
        meaning = self.model_dump(mode="json", exclude={"description", "destination", "errors", "scores"})
        meaning["algorithm_version"] = algorithm_version
        return hashlib.sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_spec(document: Mapping[str, Any], *, where: str) -> PipelineSpec:
    """A spec from its table. Raises UsageError: one line that says where and what."""
    try:
        return PipelineSpec.model_validate(document)
    except ValidationError as error:
        raise UsageError(f"{where}: {one_line(error)}") from None


def load_spec(path: Path | None) -> PipelineSpec:
    """The spec in a TOML file; None gives the defaults. Raises UsageError."""
    if path is None:
        return PipelineSpec()
    try:
        if path.stat().st_size > SPEC_BYTES_MAX:
            raise UsageError(f"{path}: larger than {SPEC_BYTES_MAX} bytes")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"spec {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"spec {path}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"spec {path}: {error}") from None
    return parse_spec(document, where=f"spec {path}")
