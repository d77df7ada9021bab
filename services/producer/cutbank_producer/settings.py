"""The producer's settings, under the environment names of the Lambda function that it was. Values only.

What depends on another setting is checked here too, so that a wrong one is named before anything starts.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from cutbank.pipeline.inputs import InputFormat
from cutbank.pipeline.spec import NAME_PATTERN
from cutbank.runtime.settings import ServiceSettings

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

PARTITION_BY_TICKER = "ticker"
PARTITION_ROUND_ROBIN = "round-robin"

_PLAIN_NAMES = (
    "stream_name", "stream_partitions", "records_per_batch", "records_per_second", "records_max", "duration_seconds",
    "anomaly_share", "anomaly_multiplier_min", "anomaly_multiplier_max", "labels_stream", "seed", "first_id",
    "partition_by", "input", "input_format", "delimiter", "pace", "timestamp_column", "speed", "resume",
)  # fmt: skip


class ProducerSettings(ServiceSettings):
    """What is produced, how fast, for how long, into which stream."""

    environment_names: ClassVar[Mapping[str, str]] = {field: field.upper() for field in _PLAIN_NAMES}

    stream_name: str = Field(default="trades", pattern=NAME_PATTERN)
    """Stream that takes the records; where a spec is set and this is not, the spec's source."""
    stream_partitions: int = Field(default=1, ge=1, le=1000)
    """Partitions of the stream, 1 to 1000; used only if it has to be made."""
    records_per_batch: int = Field(default=100, ge=1, le=10_000)
    """Records published at once, 1 to 10000."""
    records_per_second: float = Field(default=100.0, ge=0.0, le=10_000_000.0, allow_inf_nan=False)
    """Rate, records a second, 0 to 10000000; 0: as fast as the log takes them."""
    records_max: int = Field(default=0, ge=0)
    """Records after which it ends; 0: no limit."""
    duration_seconds: float = Field(default=900.0, ge=0.0, le=366 * 86_400.0, allow_inf_nan=False)
    """Seconds after which it ends, 0 to 366 days; 0: never. With an input and not set: when the input ends."""
    anomaly_share: float = Field(default=0.05, ge=0.0, le=1.0, allow_inf_nan=False)
    """Share of trades whose price and quantity are multiplied, 0 to 1."""
    anomaly_multiplier_min: float = Field(default=2.0, ge=0.001, le=1000.0, allow_inf_nan=False)
    """Least factor of an anomaly's price and of its quantity, 0.001 to 1000; each is drawn for itself, uniformly."""
    anomaly_multiplier_max: float = Field(default=3.0, ge=0.001, le=1000.0, allow_inf_nan=False)
    """Largest factor, 0.001 to 1000."""
    labels_stream: str | None = Field(default=None, pattern=NAME_PATTERN)
    """Stream that takes {"id": …} of every anomaly, in the same step as its trade; none: no labels. Trades only."""
    seed: int = Field(default=7, ge=0, le=2**63 - 1)
    """Start of all randomness: the same seed, settings and first id give the same trades."""
    first_id: int | None = Field(default=None, ge=INT32_MIN, le=INT32_MAX)
    """Id of the first trade, 32 bits; none: 1000000000 and as many more as the stream has ever taken records."""
    partition_by: str = Field(default=PARTITION_BY_TICKER, min_length=1, max_length=100)
    """ticker, round-robin or, for an input, the column that holds the key; records without a ticker go round-robin."""
    input: str | None = None
    """File to replay in place of made-up trades: CSV with a header, or NDJSON, plain or gzip; - is standard input."""
    input_format: InputFormat = "auto"
    """Format of the input; auto: by extension, else by its first character."""
    delimiter: str | None = None
    """Delimiter of a CSV input: one character, or tab; none: found from the header."""
    pace: Literal["rate", "file", "max"] = "rate"
    """rate: records_per_second. file: the input's own, by its timestamps. max: as fast as the log takes them."""
    timestamp_column: str | None = Field(default=None, min_length=1, max_length=100)
    """Column of the input's timestamps: epoch seconds, ms, µs or ns, or ISO 8601; pace file needs it."""
    speed: float = Field(default=1.0, ge=0.001, le=1_000_000.0, allow_inf_nan=False)
    """How many times faster than its own pace an input is replayed, 0.001 to 1000000."""
    resume: bool = False
    """Skip as many of the input's records as the stream has ever taken: goes on where a killed replay stopped."""

    @field_validator("labels_stream", "first_id", "input", "delimiter", "timestamp_column", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is None or value == "tab" or (len(value) == 1 and value not in "\r\n\"'\0" and not value.isalnum()):
            return value
        raise ValueError("one character that is no letter, digit, quote or line end, or tab")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.anomaly_multiplier_max < self.anomaly_multiplier_min:
            raise ValueError(
                f"ANOMALY_MULTIPLIER_MAX ({self.anomaly_multiplier_max:g}) is below "
                f"ANOMALY_MULTIPLIER_MIN ({self.anomaly_multiplier_min:g})"
            )
        if self.labels_stream == self.stream_name:
            raise ValueError(
                f"LABELS_STREAM and STREAM_NAME are both {self.stream_name!r}; labels need their own stream"
            )
        if self.input is None:
            self._for_trades()
        elif self.pace == "file" and self.timestamp_column is None:
            raise ValueError("PACE=file needs TIMESTAMP_COLUMN, the column of the input's timestamps")
        return self

    def _for_trades(self) -> None:
        if self.partition_by not in {PARTITION_BY_TICKER, PARTITION_ROUND_ROBIN}:
            raise ValueError(f"PARTITION_BY is ticker or round-robin without an INPUT (given: {self.partition_by!r})")
        if self.pace == "file":
            raise ValueError("PACE=file needs an INPUT with timestamps")
        if self.resume:
            raise ValueError("RESUME needs an INPUT; made-up trades go on by themselves")
