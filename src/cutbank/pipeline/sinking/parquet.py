"""Lines as Parquet and back, with pyarrow, which is an extra. Pure.

A row has the layout's columns with their types and `OTHER_FIELDS`, text: empty (null) where the columns tell the line
byte for byte; else a JSON object of what they do not tell: fields without a column, values that are not of their
column's type, numbers that were written otherwise (`1e2` in a DOUBLE, 30 digits). Where even that would not give the
line again (order, spaces, a name that is there twice), it is the whole line behind a space. So every line comes back
as it was, and every value that is of its column's type can be queried there. Whether the whole numbers of a DOUBLE are
written `100` or `100.0` is the first one's to decide, column by column: the file's metadata names the columns of `100`.

Invariant: the content, which is each row as JSON (columns, and `OTHER_FIELDS` where there are any), is a function of
layout and lines on any machine, whatever the version of pyarrow, which packs it; a row that its columns tell is the
line itself.
Blocking: for a thread. Memory beside lines and body: `body_bytes_max`, and the objects of one part.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from cutbank.errors import MissingExtra, ObjectUnreadable
from cutbank.pipeline.sinking.claims import OTHER_FIELDS, Layout
from cutbank.pipeline.sinking.column_values import FLOATS, INTEGERS, SOURCE_FIELDS, is_whole, shown, typed
from cutbank.pipeline.sinking.json_rows import PART_BYTES, is_told, members, parts, read
from cutbank.pipeline.sinking.packing import GZIP_LEVEL, PACK_BYTES, ZSTD_LEVEL
from cutbank.pipeline.sinking.parquet_bounds import Bounds

ROW_GROUP_BYTES = 16 << 20
"""Lines of one row group, bytes: large enough for engines to skip through, small enough to be held twice."""

MAGIC = b"PAR1"
"""How a file begins and ends."""

BATCH_ROWS = 4096
"""Rows that are read at a time."""

COLUMN_BYTES_MAX = 1024
"""What a column takes in a body beside its values, at most, bytes: in the footer, page headers, statistics."""

_PLAIN_COLUMNS = b"cutbank.plain_numbers"
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
        self._plain: dict[str, bool] = {}
        """Columns whose first whole number is known, and whether it has no point."""
        self._batches: list[Any] = []
        self._bytes = 0
        """Of the row group."""
        self._whole_bytes = 0

    def write(self, lines: Sequence[bytes]) -> bytes:
        """The next lines; their content."""
        pieces = []
        for part in parts(lines, bytes_max=PART_BYTES):
            columns, others, content = _rows_of(self._layout, part, self._plain)
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
        if plain := [name for name in self._layout.columns if self._plain.get(name)]:
            self._writer.add_key_value_metadata({_PLAIN_COLUMNS: orjson.dumps(plain)})
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
        **{kind: getattr(pa, f"int{bits}")() for kind, bits in INTEGERS.items()},
        **dict.fromkeys(FLOATS, pa.float64()),
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

    if not body.startswith(MAGIC):
        raise ObjectUnreadable("the object is no sound Parquet file: it does not begin as one")
    try:
        file = pq.ParquetFile(pa.BufferReader(body), page_checksum_verification=True)
        found = file.schema_arrow
        if not found.equals(schema(layout)):
            raise ObjectUnreadable(f"its columns are not those of the claim: {', '.join(found.names)[:200]}")
        plain = orjson.loads((file.metadata.metadata or {}).get(_PLAIN_COLUMNS, b"[]"))
        for group in range(file.num_row_groups):
            bounds = Bounds()
            for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], use_threads=False):
                bounds.add(batch)
                yield _content(layout, batch, dict.fromkeys(plain, True))
            bounds.check(file.metadata.row_group(group))
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
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


def _rows_of(
    layout: Layout, lines: Sequence[bytes], plain: dict[str, bool]
) -> tuple[list[list[Any]], list[str | None], bytes]:
    """Of some lines: each column's values (a time as ms since the epoch), `OTHER_FIELDS`, and the content.

    `plain` learns how the whole numbers of each column are written.
    """
    rows = read(lines)
    names = list(layout.columns)
    whole = rows.told and all(list(row) == names for row in rows.fields)
    columns: list[list[Any]] = []
    exact = whole
    for name, kind in zip(layout.columns, layout.types, strict=True):
        found = [row.get(name) for row in rows.fields]
        if kind in FLOATS and name not in plain:
            first = next(filter(is_whole, found), None)
            if first is not None:
                plain[name] = type(first) is int
        values, same = typed(kind, found, plain=plain.get(name, False))
        columns.append(values)
        exact = exact and same
    if exact:
        return columns, [None] * len(lines), b"\n".join([*lines, b""])
    texts = [
        shown(kind, values, plain=plain.get(name, False))
        for name, kind, values in zip(names, layout.types, columns, strict=True)
    ]
    others: list[str | None] = []
    content: list[bytes] = []
    for line, fields, row_values in zip(lines, rows.fields, zip(*texts, strict=True), strict=True):
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


def _content(layout: Layout, batch: Any, plain: Mapping[str, bool]) -> bytes:
    names = [*layout.columns, OTHER_FIELDS]
    columns = [
        shown(kind, _values(kind, column), plain=plain.get(name, False)) if kind in FLOATS else _values(kind, column)
        for name, kind, column in zip(names, (*layout.types, "VARCHAR"), batch.columns, strict=True)
    ]
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
        return shown(kind, _values("", column.cast(pa.timestamp("ms")).cast(pa.int64())))
    found = column.to_pylist() if column.null_count else column.to_numpy(zero_copy_only=False).tolist()
    return list(found)
