"""Reads an input's records: CSV rows become JSON objects, NDJSON lines pass byte for byte. Owns format and columns.

Invariant: every CSV row after the header and every NDJSON line, even an empty one, is exactly one record, in order.
What is no good row or line goes out as it stands, so that it lands in the error stream: nothing is dropped. (CSV's
blank lines are no rows.) Blocking; one thread at a time, except `stop`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import orjson
import structlog
from pydantic import ValidationError

from cutbank.errors import UsageError
from cutbank.pipeline.inputs.lines import Line, Lines
from cutbank.pipeline.inputs.rows import CsvRows
from cutbank.pipeline.inputs.values import Kind, TimeReader, kind_of_value, sql_type
from cutbank.pipeline.spec import RESERVED_COLUMNS, Column
from cutbank.settings import one_line

log = structlog.get_logger(__name__)

InputFormat: TypeAlias = Literal["auto", "csv", "ndjson"]

SAMPLE_LINES = 1000
"""Lines that columns are inferred from; of a pipe or terminal, which may pause, SAMPLE_LINES_LIVE."""
SAMPLE_LINES_LIVE = 100
SAMPLE_BYTES = 4 << 20

_EXTENSIONS: Mapping[str, InputFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}


class InputRecord(NamedTuple):
    """One record of an input."""

    value: bytes
    """The JSON object, or the line as it stands."""
    line: int
    """Where it ends in the input, counted from 1."""
    key: bytes | None
    """The key column's value; None without a key column, or where the record has none."""
    time_s: float | None
    """The timestamp column's value, epoch seconds; None likewise."""


def open_input(
    path: str,
    *,
    input_format: InputFormat = "auto",
    delimiter: str | None = None,
    key_column: str | None = None,
    timestamp_column: str | None = None,
) -> "Input":
    """Open a file, or standard input for `-`, and look at its beginning. Raises UsageError: one line."""
    source = Input(
        path,
        input_format=input_format,
        delimiter=delimiter,
        key_column=key_column,
        timestamp_column=timestamp_column,
    )
    try:
        source.prepare()
    except BaseException:
        source.close()
        raise
    return source


def columns_of(
    path: str, *, features: Sequence[str] = (), input_format: InputFormat = "auto", delimiter: str | None = None
) -> tuple[Column, ...]:
    """The columns of a file, from a bounded sample; see `Input.columns`. Raises UsageError."""
    with open_input(path, input_format=input_format, delimiter=delimiter) as source:
        return source.columns(features=features)


class Input:
    """An open input. Opening raises UsageError; a pipe is first read from by `prepare` or whatever else needs it."""

    def __init__(
        self,
        path: str,
        *,
        input_format: InputFormat = "auto",
        delimiter: str | None = None,
        key_column: str | None = None,
        timestamp_column: str | None = None,
    ) -> None:
        self._lines = Lines(path)
        self._asked_format = input_format
        self._delimiter = "\t" if delimiter in ("tab", "\\t") else delimiter
        self._extension = _extension(path)
        self._key_column = key_column
        self._timestamp_column = timestamp_column
        self._times = TimeReader()
        self._rows: CsvRows | None = None
        self._prepared = False

    @property
    def name(self) -> str:
        """What messages call it: the path, or `standard input`."""
        return self._lines.name

    @property
    def column_names(self) -> tuple[str, ...] | None:
        """The header's names; None for NDJSON, which has none. After `prepare`."""
        return self._rows.names if self._rows else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def prepare(self) -> None:
        """Find format, delimiter and header; check the timestamp column. Takes no record."""
        if self._prepared:
            return
        sample = self._sample(1)
        if not sample and not self._lines.stopped:
            raise UsageError(f"{self.name}: is empty")
        if sample and self._format(sample[0]) == "csv":
            self._rows = CsvRows(self._lines, delimiter=self._delimiter)
        self._prepared = True
        self._check_times()

    def columns(self, *, features: Sequence[str] = ()) -> tuple[Column, ...]:
        """Names in order and SQL types, inferred from a sample that stays to be read.

        All integers: BIGINT; numbers: DOUBLE; true and false: BOOLEAN; anything else, or nothing: VARCHAR. A feature is
        always DOUBLE, since a fraction after the sample must not be refused. Names that Cutbank adds itself
        (ANOMALY_SCORE, ROWTIME, SOURCE) and empty ones are left out: the records keep them.
        Raises UsageError for a feature that is no column or that holds text, or no number, in the sample.
        """
        self.prepare()
        kinds = self._kinds()
        for feature in features:
            if feature not in kinds:
                raise UsageError(f"{self.name}: no column {feature!r}; its columns are {', '.join(kinds)}")
            if sql_type(kinds[feature]) not in {"BIGINT", "DOUBLE"}:
                what = "text" if "text" in kinds[feature] else "no number"
                raise UsageError(
                    f"{self.name}: feature {feature!r} holds {what} in the first records; features are numbers"
                )
        columns = []
        for name, seen in kinds.items():
            if name and name not in RESERVED_COLUMNS:
                columns.append(self._column(name, "DOUBLE" if name in features else sql_type(seen)))
        if not columns:
            raise UsageError(f"{self.name}: no columns found in its first lines; JSON objects, one a line, are wanted")
        return tuple(columns)

    def records(self, *, records_max: int, bytes_max: int) -> list[InputRecord]:
        """The next records, in order: up to `records_max` and about `bytes_max`; none at the end.

        Waits for one; then takes what is there without waiting for more. Raises UsageError for damaged gzip data, or a
        header without a row, after everything before it was given.
        """
        self.prepare()
        found: list[InputRecord] = []
        held = 0
        while len(found) < records_max and held < bytes_max and not (found and self._lines.live and self._lines.waits):
            record = self._next_row(self._rows) if self._rows else self._next_line()
            if record is None:
                break
            held += len(record.value)
            found.append(record)
        # A stop may have cut the last one; nobody goes on from here.
        return [] if self._lines.stopped else found

    def stop(self) -> None:
        """No more records from here, even for a read that waits in another thread. Thread-safe, idempotent."""
        self._lines.stop()

    def close(self) -> None:
        """Give the file back. Not while another thread reads: `stop` first, and wait for it."""
        self._lines.close()

    def _sample(self, lines_max: int) -> list[Line]:
        return self._lines.sample(lines_max=lines_max, bytes_max=SAMPLE_BYTES)

    def _sample_lines_max(self) -> int:
        return SAMPLE_LINES_LIVE if self._lines.live else SAMPLE_LINES

    def _format(self, first: Line) -> InputFormat:
        """By setting, else by extension, else by the first character."""
        if self._asked_format != "auto":
            return self._asked_format
        if self._extension is not None:
            return self._extension
        start = first.data.lstrip()[:1]
        if start == b"[":
            raise UsageError(
                f"{self.name}: is a JSON array; one JSON object a line is wanted (jq -c '.[]' makes it so)"
            )
        return "ndjson" if start == b"{" else "csv"

    def _kinds(self) -> dict[str, set[Kind]]:
        sample = self._sample(self._sample_lines_max())
        if self._rows is not None:
            return self._rows.kinds(sample)
        kinds: dict[str, set[Kind]] = {}
        for line in sample:
            for name, value in _object_in(line.data).items():
                kinds.setdefault(name, set()).add(kind_of_value(value))
        return kinds

    def _column(self, name: str, kind: str) -> Column:
        try:
            return Column(name=name, type=kind)
        except ValidationError as error:
            raise UsageError(f"{self.name}: column {name[:40]!r}: {one_line(error)}") from None

    def _check_times(self) -> None:
        """The timestamp column is there, and the first records have a time that can be read."""
        column = self._timestamp_column
        if column is None:
            return
        if self._rows is not None and column not in self._rows.names:
            raise UsageError(f"{self.name}: no column {column!r}; its columns are {', '.join(self._rows.names)}")
        times = TimeReader()
        sample = self._sample(SAMPLE_LINES_LIVE if not self._lines.live else 1)
        if sample and not any(times.seconds(value) is not None for value in self._sampled(sample, column)):
            raise UsageError(
                f"{self.name}: no time in column {column!r} in its first records; "
                "epoch seconds, ms or µs, or ISO 8601 are wanted"
            )

    def _sampled(self, sample: Sequence[Line], column: str) -> Iterator[Any]:
        if self._rows is not None:
            yield from self._rows.sampled(sample, column)
            return
        for line in sample:
            yield _object_in(line.data).get(column)

    def _next_line(self) -> InputRecord | None:
        line = self._lines.next()
        if line is None:
            return None
        self._tell_if_cut(line)
        key: bytes | None = None
        time_s: float | None = None
        if self._key_column is not None or self._timestamp_column is not None:
            document = _object_in(line.data)
            if self._key_column is not None:
                key = _key_of(document.get(self._key_column))
            if self._timestamp_column is not None:
                time_s = self._times.seconds(document.get(self._timestamp_column))
        return InputRecord(line.data, line.number, key, time_s)

    def _next_row(self, rows: CsvRows) -> InputRecord | None:
        row = rows.next()
        if row is None:
            if not rows.taken and not self._lines.stopped:
                raise UsageError(f"{self.name}: has a header but no row")
            return None
        if row.fields is None:
            self._tell_if_cut(row.raw)
            return InputRecord(row.raw.data, row.number, None, None)
        key: bytes | None = None
        time_s: float | None = None
        if self._key_column is not None and (text := rows.field(row.fields, self._key_column)):
            key = _bytes_of(text)
        if self._timestamp_column is not None:
            time_s = self._times.seconds(rows.field(row.fields, self._timestamp_column))
        return InputRecord(rows.json(row.fields), row.number, key, time_s)

    def _tell_if_cut(self, line: Line) -> None:
        if line.bytes_total > len(line.data):
            log.warning(
                "line cut: it is longer than any record may be",
                input=self.name,
                line=line.number,
                bytes_total=line.bytes_total,
                bytes_kept=len(line.data),
            )


def _extension(path: str) -> InputFormat | None:
    plain = path.removesuffix(".gz").lower()
    return next((found for ending, found in _EXTENSIONS.items() if plain.endswith(ending)), None)


def _object_in(data: bytes) -> dict[str, Any]:
    """The line's JSON object; empty where it is none."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _key_of(value: Any) -> bytes | None:
    """A partition key from a JSON value: text as it is, anything else as its JSON; null has none."""
    if value is None:
        return None
    return _bytes_of(value) if isinstance(value, str) else orjson.dumps(value)


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
