"""Lines as Parquet and back, with pyarrow, which is an extra. Pure.

A row has the layout's columns with their types and `OTHER_FIELDS`, text: empty (null) where the columns tell the line
byte for byte; else a JSON object of what they do not tell: fields without a column, values that are not of their
column's type, numbers that were written otherwise (`100` in a DOUBLE, 30 digits). Where even that would not give the
line again (order, spaces, a name that is there twice), it is the whole line behind a space. So every line comes back
as it was, and every value that is of its column's type can be queried there.

Invariant: the content, which is each row as JSON (columns, and `OTHER_FIELDS` where there are any), is a function of
layout and lines on any machine, whatever the version of pyarrow, which packs it; a row that its columns tell is the
line itself.
Blocking: for a thread. Memory beside lines and body: `body_bytes_max`, and the objects of one part.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any

import numpy as np
import orjson

from cutbank.errors import MissingExtra, ObjectUnreadable
from cutbank.pipeline.sinking.claims import OTHER_FIELDS, Layout
from cutbank.pipeline.sinking.json_rows import PART_BYTES, is_told, members, parts, read
from cutbank.pipeline.sinking.packing import GZIP_LEVEL, PACK_BYTES, ZSTD_LEVEL

ROW_GROUP_BYTES = 16 << 20
"""Lines of one row group, bytes: large enough for engines to skip through, small enough to be held twice."""

MAGIC = b"PAR1"
"""How a file begins and ends."""

BATCH_ROWS = 4096
"""Rows that are read at a time."""

SOURCE_FIELDS = ("pipeline", "stream", "run", "partition", "position", "ordinal")
"""Of the type SOURCE, in this order; run and ordinal are integers, the others text."""

COLUMN_BYTES_MAX = 1024
"""What a column takes in a body beside its values, at most, bytes: in the footer, page headers, statistics."""

_INTEGERS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}
_FLOATS = frozenset({"REAL", "FLOAT", "DOUBLE"})
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_OTHERS = b',"%s":' % OTHER_FIELDS.encode()
_CODECS = {"none": ("NONE", None), "gzip": ("GZIP", GZIP_LEVEL), "zstd": ("ZSTD", ZSTD_LEVEL)}


def parquet_check() -> None:
    """Raises MissingExtra where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401  # it is asked for
    except ImportError:
        raise MissingExtra("format=parquet: pyarrow is not installed; pip install 'cutbank[parquet]'") from None


def body_bytes_max(layout: Layout, *, count: int, line_bytes: int, objects: int) -> int:
    """Most bytes of so many lines' bodies, and of the row group that is held beside them while they are made.

    A field may be in its column, where a digit can take eight bytes, and once more in `OTHER_FIELDS`.
    """
    columns = len(layout.columns) + layout.types.count("SOURCE") * len(SOURCE_FIELDS) + 1
    groups = objects + line_bytes // ROW_GROUP_BYTES
    return 3 * line_bytes + 16 * count + COLUMN_BYTES_MAX * columns * groups + 2 * min(line_bytes, ROW_GROUP_BYTES)


class ParquetBody:
    """A body in the making. Raises MissingExtra."""

    def __init__(self, layout: Layout) -> None:
        parquet_check()
        import pyarrow.parquet as pq

        self._layout = layout
        self._schema = schema(layout)
        self._out = io.BytesIO()
        codec, level = _CODECS[layout.compression]
        self._writer = pq.ParquetWriter(
            self._out,
            self._schema,
            compression=codec,
            compression_level=level,
            store_schema=False,
            write_page_checksum=True,
        )
        self._batches: list[Any] = []
        self._bytes = 0
        """Of the row group."""
        self._whole_bytes = 0

    def write(self, lines: Sequence[bytes]) -> bytes:
        """The next lines; their content."""
        pieces = []
        for part in parts(lines, bytes_max=PART_BYTES):
            columns, others, content = _rows_of(self._layout, part)
            self._batches.append(_batch(self._layout, self._schema, columns, others))
            pieces.append(content)
            self._bytes += len(content)
            self._whole_bytes += len(content)
            if self._bytes >= ROW_GROUP_BYTES:
                self._flush()
        return b"".join(pieces)

    def close(self) -> bytes:
        """The body."""
        import pyarrow as pa

        self._flush()
        self._writer.close()
        if self._whole_bytes > PACK_BYTES:
            pa.default_memory_pool().release_unused()  # it keeps what was freed, and nobody counts that
        return self._out.getvalue()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches, self._schema))
            self._batches.clear()
            self._bytes = 0


@lru_cache(maxsize=16)
def schema(layout: Layout) -> Any:
    """The pyarrow schema of a layout's objects."""
    import pyarrow as pa

    text = pa.string()
    source = pa.struct([(name, pa.int64() if name in ("run", "ordinal") else text) for name in SOURCE_FIELDS])
    kinds = {
        **{kind: getattr(pa, f"int{bits}")() for kind, bits in _INTEGERS.items()},
        **dict.fromkeys(_FLOATS, pa.float64()),
        "BOOLEAN": pa.bool_(),
        "VARCHAR": text,
        "TIMESTAMP": pa.timestamp("ms", tz="UTC"),
        "SOURCE": source,
    }
    columns = [(name, kinds[kind]) for name, kind in zip(layout.columns, layout.types, strict=True)]
    return pa.schema([*columns, (OTHER_FIELDS, text)])


def contents(layout: Layout, body: bytes) -> Iterator[bytes]:
    """The content of a body, some rows at a time. Raises ObjectUnreadable, MissingExtra."""
    parquet_check()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(body), page_checksum_verification=True)
        found = file.schema_arrow
        if not found.equals(schema(layout)):
            raise ObjectUnreadable(f"its columns are not those of the claim: {', '.join(found.names)[:200]}")
        for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
            yield _content(layout, batch)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ObjectUnreadable(f"the object is no sound Parquet file: {str(error)[:200]}") from None


def lines_of(layout: Layout, content: bytes) -> list[bytes]:
    """The lines that a content tells, byte for byte. Raises ObjectUnreadable."""
    found = content.split(b"\n")
    if not found[-1]:
        found.pop()
    if _OTHERS not in content:
        return found
    return [_line(layout, row) if _OTHERS in row else row for row in found]


def _line(layout: Layout, row: bytes) -> bytes:
    """The line of a row whose columns do not tell it."""
    # Within a string each quote has a backslash before it, so this stands where the columns end and nowhere else.
    at = row.index(_OTHERS)
    try:
        others = orjson.loads(row[at + len(_OTHERS) : -1])
        if others.startswith(" "):
            return bytes(others[1:].encode())
        columns = orjson.loads(row[:at] + b"}")
        told = {name: orjson.dumps(columns[name]).decode() for name in layout.columns}
        return _composed(told, {member.name: member.text for member in members(others.encode())})
    except (orjson.JSONDecodeError, KeyError, AttributeError, AssertionError) as error:
        raise ObjectUnreadable(f"a row's {OTHER_FIELDS} is not as Cutbank writes it: {error}") from None


def _composed(told: dict[str, str], others: dict[str, str]) -> bytes:
    """A line of the columns in their order and what has none after them; `others` count where both have a field."""
    fields = ",".join(f"{orjson.dumps(name).decode()}:{text}" for name, text in (told | others).items())
    return f"{{{fields}}}".encode()


def _rows_of(layout: Layout, lines: Sequence[bytes]) -> tuple[list[list[Any]], list[str | None], bytes]:
    """Of some lines: each column's values (a time as ms since the epoch), `OTHER_FIELDS`, and the content."""
    rows = read(lines)
    names = list(layout.columns)
    whole = rows.told and all(list(row) == names for row in rows.fields)
    columns: list[list[Any]] = []
    exact = whole
    for name, kind in zip(layout.columns, layout.types, strict=True):
        values, same = _typed(kind, [row.get(name) for row in rows.fields])
        columns.append(values)
        exact = exact and same
    if exact:
        return columns, [None] * len(lines), b"\n".join([*lines, b""])
    shown = [_shown(kind, values) for kind, values in zip(layout.types, columns, strict=True)]
    others: list[str | None] = []
    content: list[bytes] = []
    for line, fields, row_values in zip(lines, rows.fields, zip(*shown, strict=True), strict=True):
        row = dict(zip(names, row_values, strict=True))
        text = orjson.dumps(row)
        other = None if text == line else _others(row, fields, line)
        others.append(other)
        content.append(text if other is None else text[:-1] + _OTHERS + orjson.dumps(other) + b"}")
    return columns, others, b"\n".join([*content, b""])


def _others(row: dict[str, Any], fields: dict[str, Any], line: bytes) -> str:
    """What a row's columns do not tell of its line."""
    told = {name: orjson.dumps(value).decode() for name, value in row.items()}
    if is_told(fields, line):
        written = {name: orjson.dumps(value).decode() for name, value in fields.items()}
    else:
        written = {member.name: member.text for member in members(line)}
    others = {name: text for name, text in written.items() if told.get(name) != text}
    if _composed(told, others) != line:
        return " " + line.decode()
    return _composed({}, others).decode()


def _typed(kind: str, values: list[Any]) -> tuple[list[Any], bool]:
    """Values as their column has them, null where they are not of its type; whether each is told as it was."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {_PLAIN.get(kind)} and (kind not in _INTEGERS or _in_range(values, _INTEGERS[kind])):
        return values, True
    found = list(map(_FITTING[kind], values))
    return found, kind in _READ and found.count(None) == values.count(None)


def _in_range(values: list[int | None], bits: int) -> bool:
    numbers = [value for value in values if value is not None]
    return not numbers or (min(numbers) >= -(1 << bits - 1) and max(numbers) < 1 << bits - 1)


def _real(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None


def _integer(value: Any, *, bits: int) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(1 << bits - 1) <= value < 1 << bits - 1 else None


def _of_type(value: Any, *, wanted: type) -> Any:
    return value if type(value) is wanted else None


def _source(value: Any) -> dict[str, Any] | None:
    """An identity as the scorer writes it; None for anything else."""
    if type(value) is not dict or tuple(value) != SOURCE_FIELDS:
        return None
    pipeline, stream, run, partition, position, ordinal = value.values()
    if not type(pipeline) is type(stream) is type(partition) is type(position) is str:
        return None
    whole = all(type(number) is int and _integer(number, bits=64) is not None for number in (run, ordinal))
    return value if whole else None


def _time_ms(value: Any) -> int | None:
    """Milliseconds since the epoch of "2026-11-22T23:00:00.123Z"; None for anything else."""
    return _read_time_ms(value) if type(value) is str else None


@lru_cache(maxsize=4096)
def _read_time_ms(text: str) -> int | None:
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // _MS
    except ValueError:
        return None


_PLAIN: Mapping[str, type] = {
    **dict.fromkeys(_FLOATS, float),
    **dict.fromkeys(_INTEGERS, int),
    "VARCHAR": str,
    "BOOLEAN": bool,
}
"""The type that JSON's values of a column have, where that is told as it is written."""

_READ = frozenset({"TIMESTAMP", "SOURCE"})
"""Types whose values are told as they are written if they are of the type at all."""

_FITTING: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_FLOATS, _real),
    **{kind: partial(_integer, bits=bits) for kind, bits in _INTEGERS.items()},
    "VARCHAR": partial(_of_type, wanted=str),
    "BOOLEAN": partial(_of_type, wanted=bool),
    "TIMESTAMP": _time_ms,
    "SOURCE": _source,
}
"""A value as its column has it, or None."""


def _shown(kind: str, values: list[Any]) -> list[Any]:
    """A column's values as a row's JSON has them."""
    if kind != "TIMESTAMP" or values.count(None) == len(values):
        return values
    texts = np.datetime_as_string(np.array([value or 0 for value in values], dtype="M8[ms]"), unit="ms").tolist()
    return [None if value is None else f"{text}Z" for value, text in zip(values, texts, strict=True)]


def _batch(layout: Layout, schema: Any, columns: list[list[Any]], others: list[str | None]) -> Any:
    import pyarrow as pa

    arrays = [
        _sources(values, schema.field(index).type)
        if kind == "SOURCE"
        else pa.array(values, type=schema.field(index).type)
        for index, (kind, values) in enumerate(zip(layout.types, columns, strict=True))
    ]
    return pa.RecordBatch.from_arrays([*arrays, pa.array(others, type=pa.string())], schema=schema)


def _sources(values: list[dict[str, Any] | None], kind: Any) -> Any:
    """A column of SOURCE: field by field, in a third of the time of row by row."""
    import pyarrow as pa

    fields = [
        pa.array([None if value is None else value[name] for value in values], type=kind.field(name).type)
        for name in SOURCE_FIELDS
    ]
    missing = pa.array([value is None for value in values]) if None in values else None
    return pa.StructArray.from_arrays(fields, fields=list(kind), mask=missing)


def _content(layout: Layout, batch: Any) -> bytes:
    names = [*layout.columns, OTHER_FIELDS]
    columns = [_values(kind, column) for kind, column in zip((*layout.types, "VARCHAR"), batch.columns, strict=True)]
    has_others = columns[-1].count(None) < len(columns[-1])
    if not has_others:
        names.pop()
        columns.pop()
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    if has_others:
        rows = [row if row[OTHER_FIELDS] is not None else _without(row, OTHER_FIELDS) for row in rows]
    return b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows])


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    del row[name]
    return row


def _values(kind: str, column: Any) -> list[Any]:
    """A column of a file as a row's JSON has it."""
    import pyarrow as pa

    if kind == "SOURCE":
        fields = [_values("", column.field(name)) for name in SOURCE_FIELDS]
        there = column.is_valid().to_numpy(zero_copy_only=False).tolist()
        rows = (dict(zip(SOURCE_FIELDS, values, strict=True)) for values in zip(*fields, strict=True))
        return [row if whole else None for row, whole in zip(rows, there, strict=True)]
    if kind == "TIMESTAMP":
        return _shown(kind, _values("", column.cast(pa.timestamp("ms")).cast(pa.int64())))
    found = column.to_pylist() if column.null_count else column.to_numpy(zero_copy_only=False).tolist()
    return list(found)
