"""Builds the lines that leave the scorer: anomalies, scores and errors, as JSON.

Owns their fields, order and number format. A line is a pure function of the record, the spec, the run and the score:
built again after a crash it is the same, byte for byte. Numbers are in their shortest form that reads back to the
same float64 (orjson); none is NaN.
Pure and thread-safe.
"""

import hashlib
import time
from functools import lru_cache

import orjson

from cutbank.pipeline.scoring.decode import Fault, Row
from cutbank.pipeline.scoring.snapshots import Run
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Position, position_text

ERROR_PAYLOAD_BYTES_MAX = 64 << 10
"""How many of a bad record's first bytes DATA_ROW holds, as hex; DATA_BYTES says how many there were."""

ROWTIME_MS_MIN, ROWTIME_MS_MAX = -62_135_596_800_000, 253_402_300_799_999
"""The first millisecond of the year 1 and the last of the year 9999: what a ROWTIME can say, ms since the epoch."""

SECONDS_KEPT_MAX = 4096
"""Seconds whose text is kept, since neighbours share it; the one used longest ago is made anew."""


@lru_cache(maxsize=SECONDS_KEPT_MAX)
def _second_text(second: int) -> str:
    moment = time.gmtime(second)
    return (
        f"{moment.tm_year:04}-{moment.tm_mon:02}-{moment.tm_mday:02}"
        f"T{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02}"
    )


def rowtime_text(time_ms: int) -> str:
    """`2026-11-22T23:00:00.123Z`: UTC, milliseconds, of a time in ms since the epoch.

    A time before the year 1 or after 9999 becomes the nearest within: a broker that stamps nonsense does not stop the
    stream.
    """
    second, ms = divmod(min(max(time_ms, ROWTIME_MS_MIN), ROWTIME_MS_MAX), 1000)
    return f"{_second_text(second)}.{ms:03}Z"


def stream_text(stream: str, identity: str) -> str:
    """A stream as SOURCE names it: `trades@1f2e3d4c`, with the first 8 hex digits of its identity's SHA-256.

    A stream made again under its name starts at the same positions, so the name alone would be no identity.
    """
    return f"{stream}@{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


class LineWriter:
    """Writes the lines of one partition in one run."""

    def __init__(self, spec: PipelineSpec, run: Run) -> None:
        self._columns = tuple(column.name for column in spec.columns)
        self._pipeline = run.pipeline
        self._stream = stream_text(run.partition.stream, run.identity)
        self._partition_id = run.partition.id
        self._run = run.number

    def _source(self, position: Position) -> dict[str, object]:
        """A record's identity, among all pipelines and streams.

        `ordinal` counts the lines that one record gives; 0 as long as that is one.
        """
        return {
            "pipeline": self._pipeline,
            "stream": self._stream,
            "run": self._run,
            "partition": self._partition_id,
            "position": position_text(position),
            "ordinal": 0,
        }

    def scored(self, row: Row, *, score: float, rowtime_ms: int, position: Position) -> bytes:
        """The line of an anomaly, and of [scores]: the spec's columns in order, then what Cutbank adds.

        A column that the row lacks is null. `score` is finite.
        """
        get = row.get
        line: Row = {name: get(name) for name in self._columns}
        line["ANOMALY_SCORE"] = score
        line["ROWTIME"] = rowtime_text(rowtime_ms)
        line["SOURCE"] = self._source(position)
        return orjson.dumps(line)

    def error(self, value: bytes, fault: Fault, *, rowtime_ms: int, position: Position) -> bytes:
        """The line of a bad record, with the fields of Kinesis Data Analytics' error_stream."""
        rowtime = rowtime_text(rowtime_ms)
        return orjson.dumps(
            {
                "ERROR_TIME": rowtime,
                "ERROR_LEVEL": "ERROR",
                "ERROR_NAME": fault.reason.value,
                "MESSAGE": fault.message,
                "DATA_ROWTIME": rowtime,
                "DATA_ROW": value[:ERROR_PAYLOAD_BYTES_MAX].hex(),
                "DATA_BYTES": len(value),
                "PUMP_NAME": self._pipeline,
                "SOURCE": self._source(position),
            }
        )
