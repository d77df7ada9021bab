"""What one record of [anomalies] becomes in an object: its line, its place in the order, its identity. Pure.

Policy for what is not ours (nothing is ever lost, and nothing stops the stream). A record is known by ROWTIME (where
there is none, ERROR_TIME: an error record) and SOURCE; whatever lacks them was published by somebody else and is never
dropped as a repeat:
- a JSON object keeps its line as it came (line breaks between its parts become spaces, since a line is a record);
- anything else is wrapped: {"DATA_BYTES", "DATA_POSITION", "DATA_ROW": the value in hex, whole, "ROWTIME": the
  arrival, "SOURCE": null}.
It is ordered by the second of its arrival, by ANOMALY_SCORE if that is a number (else after all scores), then position.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any, NamedTuple

import orjson

from cutbank.pipeline.sinking.prefix import partition_value
from cutbank.records import Position, position_from_text, position_text

OWN_COLUMNS = ("ANOMALY_SCORE", "ROWTIME", "SOURCE")
"""What an anomaly's line has after the spec's columns."""

RUN_MAX = 2**63 - 1
"""Largest run number or ordinal that is taken as one."""

PARTITION_CHARACTERS_MAX = 256
"""Longest name of a source partition, its stream included (Kinesis: 128 characters each)."""

_ROWTIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_NOT_DIGITS = re.compile(r"\D")
_TRANSLATE_BREAKS = bytes.maketrans(b"\r\n", b"  ")


class Source(NamedTuple):
    """An anomaly's identity."""

    pipeline: str
    """Whose anomaly it is: another pipeline's is left to its own sink."""
    partition: str
    """The source partition, with its stream and the stream's identity: `trades@1f2e3d4c/0`."""
    run: int
    position: Position
    ordinal: int


class Line(NamedTuple):
    """A record as it goes into an object."""

    text: bytes
    """One line, without its end."""
    second: int
    """Seconds since the epoch by which it is ordered."""
    score: float
    """By which it is ordered within its second; minus infinity when it has none."""
    source: Source | None
    """None: not ours."""
    value: str = ""
    """Of the fields that partition the objects, as it stands in a path; "" where none do."""


class LineReader:
    """Makes lines. Keeps the last second read, since neighbours share it; one task or thread at a time."""

    def __init__(self, *, partition_keys: Sequence[str] = ()) -> None:
        self._partition_keys = partition_keys
        self._text = ""
        self._second = 0

    def line(self, value: bytes, *, position: Position, arrival_ms: int) -> Line:
        """The line of one record; a pure function of its arguments."""
        try:
            fields = orjson.loads(value)
        except orjson.JSONDecodeError:
            fields = None
        if type(fields) is not dict:
            return _wrapped(value, position, arrival_ms, self._value({}))
        text = value
        if b"\n" in value or b"\r" in value:
            # In valid JSON they can only stand between tokens.
            text = value.translate(_TRANSLATE_BREAKS)
        score = fields.get("ANOMALY_SCORE")
        number = float(score) if isinstance(score, int | float) and not isinstance(score, bool) else -inf
        second = self._second_of(fields["ROWTIME"] if "ROWTIME" in fields else fields.get("ERROR_TIME"))
        source = _source(fields.get("SOURCE")) if second is not None else None
        if second is None or source is None:
            return Line(text, arrival_ms // 1000, number, None, self._value(fields))
        return Line(text, second, number, source, self._value(fields))

    def _value(self, fields: dict[str, Any]) -> str:
        return partition_value(fields, self._partition_keys) if self._partition_keys else ""

    def _second_of(self, rowtime: Any) -> int | None:
        """Seconds of "2026-11-22T23:00:00.123Z"; None for anything else."""
        if type(rowtime) is not str or not _ROWTIME.fullmatch(rowtime):
            return None
        text = rowtime[:19]
        if text != self._text:
            try:
                self._second = second_of(text)
            except ValueError:
                return None
            self._text = text
        return self._second


def second_of(text: str) -> int:
    """Seconds since the epoch of "2026-11-22T23:00:00", UTC. Raises ValueError: no calendar has that time."""
    moment = datetime(*map(int, _NOT_DIGITS.split(text)), tzinfo=UTC)  # type: ignore[misc,arg-type]  # six numbers
    return int(moment.timestamp())


def _source(fields: Any) -> Source | None:
    """{"pipeline", "stream", "run", "partition", "position", "ordinal"} as the scorer writes them; else None."""
    if type(fields) is not dict:
        return None
    pipeline, stream, partition, text = map(fields.get, ("pipeline", "stream", "partition", "position"))
    run, ordinal = fields.get("run"), fields.get("ordinal")
    if type(run) is not int or type(ordinal) is not int or not 0 <= run <= RUN_MAX or not 0 <= ordinal <= RUN_MAX:
        return None
    if type(pipeline) is not str or type(stream) is not str or type(partition) is not str or type(text) is not str:
        return None
    whole = f"{stream}/{partition}"
    if len(whole) > PARTITION_CHARACTERS_MAX:
        return None
    try:
        return Source(pipeline, whole, run, position_from_text(text), ordinal)
    except ValueError:
        return None


def _wrapped(value: bytes, position: Position, arrival_ms: int, partition: str) -> Line:
    fields = {
        "DATA_BYTES": len(value),
        "DATA_POSITION": position_text(position),
        "DATA_ROW": value.hex(),
        "ROWTIME": rowtime(arrival_ms),
        "SOURCE": None,
    }
    return Line(orjson.dumps(fields), arrival_ms // 1000, -inf, None, partition)


def rowtime(arrival_ms: int) -> str:
    """UTC with milliseconds: "2026-11-22T23:00:00.123Z"."""
    moment = datetime.fromtimestamp(arrival_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{arrival_ms % 1000:03d}Z"
