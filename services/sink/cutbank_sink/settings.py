"""The sink's settings. Values only; the limits themselves are checked by `SinkConfig`, in one place."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError

from cutbank.errors import UsageError
from cutbank.pipeline.sinking import Layout, SinkConfig
from cutbank.pipeline.sinking.claims import OBJECTS_MAX
from cutbank.pipeline.sinking.prefix import ERROR_OUTPUT_TYPE, partition_fields
from cutbank.pipeline.sinking.schema import ERROR_COLUMNS, Column, anomaly_columns
from cutbank.pipeline.spec import PipelineSpec
from cutbank.runtime.settings import ServiceSettings
from cutbank.settings import one_line
from cutbank.transports.base import Start

MIB = 1 << 20


class SinkSettings(ServiceSettings):
    """Settings of `cutbank sink` and `python -m cutbank_sink`. All may change at any restart but the store's URL."""

    store_url: str = Field(default="file://data/anomalies", min_length=1)
    """Root of the objects: file://FOLDER, or s3://BUCKET/ROOT with parameters. Its claims decide what has been sunk:
    another root begins anew."""
    prefix: str = Field(default="yyyy/MM/dd/HH/", max_length=1024)
    """Folders of an object: a date pattern, or text with !{timestamp:yyyy/MM/dd} and !{partitionKeyFromQuery:FIELD}."""
    errors_prefix: str = Field(default="errors/!{timestamp:yyyy/MM/dd/HH}/", max_length=1024)
    """The same for the error stream's objects, with !{firehose:error-output-type} too; empty: errors are not sunk."""
    timezone: str = "UTC"
    """Time zone of the prefixes: an IANA name such as Asia/Tokyo."""
    format: Literal["ndjson", "csv", "parquet"] = "ndjson"
    """ndjson: a JSON object a line. csv, parquet: the spec's columns, ANOMALY_SCORE, ROWTIME, SOURCE, OTHER_FIELDS."""
    compression: Literal["none", "gzip", "zstd"] = "none"
    """Of the objects: none, gzip or zstd; inside the file with parquet."""
    partition_keys: str = ""
    """Fields whose values have objects of their own, with commas between; none: those that the prefix names."""
    partition_values_max: int = Field(default=500, ge=1, le=OBJECTS_MAX - 1)
    """Values with an object of their own in one minute, 1 to 999; those beyond share one under ~rest."""
    stretch_bytes_max: int = Field(default=16 * MIB, ge=64 << 10, le=128 * MIB)
    """Most bytes of a claim's lines, before compression, 65536 to 134217728; a minute with more gets several claims."""
    stretch_records_max: int = Field(default=500_000, ge=1, le=10_000_000)
    """Most records of a claim, 1 to 10000000."""
    held_bytes_max: int = Field(default=256 * MIB, ge=4 * MIB, le=1 << 40)
    """Most memory for records that are not yet in objects, all partitions together, bytes, from 4194304 on."""
    grace_ms: int = Field(default=2000, ge=0, le=3_600_000)
    """How long after a minute's end, by the broker's clock, its last records are waited for, ms, 0 to 3600000."""
    flush_on_stop: bool = False
    """Make an object of what is held when stopped; else the next start reads it again and fills the minute."""
    accept_lost: bool = False
    """Go on where records are past retention and objects missing, and record the loss in the store."""
    sink_start: Literal["earliest", "latest", "timestamp"] = "earliest"
    """Where a partition without claims begins: the oldest record, the next one, or at sink_start_timestamp_ms."""
    sink_start_timestamp_ms: int = Field(default=0, ge=0)
    """With sink_start=timestamp: milliseconds since the epoch, UTC."""
    thread_switch_ms: float = Field(default=0.5, ge=0.05, le=100.0)
    """Milliseconds that a thread may keep the interpreter while another one waits for it, 0.05 to 100. Python's own 5
    would be added to every step of a publish, or of packing an object; much less costs throughput."""
    stream_wait_s: float = Field(default=60.0, ge=0.0, le=86_400.0, allow_inf_nan=False)
    """Seconds to wait at start for the stream to exist, 0 to 86400: services start in any order."""

    def config(self, spec: PipelineSpec) -> SinkConfig:
        """What these settings mean for a pipeline. Raises UsageError."""
        return SinkConfig(
            pipeline=spec.name,
            stream=spec.destination,
            start=Start(at=self.sink_start, timestamp_ms=self.sink_start_timestamp_ms),
            layout=self._layout(self.prefix, anomaly_columns(spec), self.partition_keys),
            beside={spec.errors: self._layout(self.errors_prefix, ERROR_COLUMNS)} if self.errors_prefix else {},
            stretch_bytes_max=self.stretch_bytes_max,
            stretch_records_max=self.stretch_records_max,
            held_bytes_max=self.held_bytes_max,
            grace_ms=self.grace_ms,
            flush_on_stop=self.flush_on_stop,
            accept_lost=self.accept_lost,
            stream_wait_s=self.stream_wait_s,
        )

    def _layout(self, prefix: str, columns: Sequence[Column], given: str = "") -> Layout:
        """How a stream of such columns is laid out. Raises UsageError."""
        if ERROR_OUTPUT_TYPE in prefix and columns is not ERROR_COLUMNS:
            raise UsageError(f"prefix {prefix!r}: {ERROR_OUTPUT_TYPE} belongs into errors_prefix")
        names = tuple(column.name for column in columns)
        keys = tuple(key for each in given.split(",") if (key := each.strip())) or partition_fields(prefix)
        for key in keys:
            if key not in names and key.split(".")[0] not in names:
                raise UsageError(f"partition key {key!r} is not a column; columns are {', '.join(names)}")
        layout: dict[str, Any] = {
            "prefix": prefix,
            "zone": self.timezone,
            "format": self.format,
            "compression": self.compression,
            "columns": names if self.format != "ndjson" else (),
            "types": tuple(column.type for column in columns) if self.format == "parquet" else (),
            "partition_keys": keys,
        }
        if keys:
            layout["partition_values_max"] = self.partition_values_max
        try:
            return Layout.model_validate(layout)
        except ValidationError as error:
            raise UsageError(one_line(error)) from None
