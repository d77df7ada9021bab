"""Views for DuckDB: globs over the folders, read without a catalogue. Text; no I/O."""

from urllib.parse import unquote

from cutbank.pipeline.querying.ddl.folders import Layouts, Place, absolute, comment, glob, hive_names, notes
from cutbank.pipeline.querying.tables import STRUCT, Column, Table, literal, quoted
from cutbank.pipeline.sinking.claims import OTHER_FIELDS, Layout

LINE_BYTES_MAX = 64 << 20
"""Longest line that the view reads, bytes; DuckDB's own limit is 16 MiB."""


def define(place: Place, table: Table, layouts: Layouts) -> str:
    """The view of the newest layout's objects."""
    layout = layouts.newest
    said = notes(place, layouts)
    if place.root.startswith("s3://"):
        said.append(
            "Before, in each session: LOAD httpfs; CREATE SECRET (TYPE s3, PROVIDER credential_chain); once: INSTALL "
            "httpfs; INSTALL aws; a store that is not Amazon's: ENDPOINT 'host:port', URL_STYLE 'path' in the secret."
        )
    shown = {"ndjson": _ndjson, "csv": _csv, "parquet": _parquet}[layout.format]
    root = absolute(place.root)
    files = literal(
        (unquote(root.removeprefix("file://")) if root.startswith("file://") else root) + glob(place, layout)
    )
    columns, source, left_out = shown(table, layout, files)
    said += [f"Left out, since SQL knows no capitals and another column has this name: {name}" for name in left_out]
    body = ",\n    ".join(columns)
    said_lines = "\n".join(map(comment, said))
    return f"{said_lines}\nCREATE OR REPLACE VIEW {table.name} AS SELECT\n    {body}\nFROM {source};"


def _ndjson(table: Table, layout: Layout, files: str) -> tuple[list[str], str, list[str]]:
    # As JSON first: a value that is of another type than its column is null, and not an error.
    kept = [column for column in table.columns if column.name == column.field]
    shown = [f"{_of_json(column)} AS {quoted(column.name)}" for column in kept]
    columns = ", ".join(f"{literal(column.field)}: 'JSON'" for column in kept)
    options = [f"columns = {{{columns}}}", "format = 'newline_delimited'", f"maximum_object_size = {LINE_BYTES_MAX}"]
    options += _hive(table, layout)  # compression follows from the files' names
    return [*shown, *_folders(table, layout)], _call("read_json", files, options), _left_out(table)


def _csv(table: Table, layout: Layout, files: str) -> tuple[list[str], str, list[str]]:
    known = {column.field: column for column in table.columns}
    shown, left_out = [], []
    taken: set[str] = set()
    for field in layout.columns:
        if field.lower() in taken:
            left_out.append(field)
            continue
        taken.add(field.lower())
        column = known.get(field)
        value = quoted(field) if column is None else _of_text(column)
        shown.append(f"{value} AS {quoted(field)}")
    names = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in [*layout.columns, OTHER_FIELDS])
    options = [f"columns = {{{names}}}", "header = true", "delim = ','", "quote = '\"'", "escape = '\"'"]
    options += ["auto_detect = false", f"max_line_size = {LINE_BYTES_MAX}", *_hive(table, layout)]
    others = f"{OTHER_FIELDS} AS {OTHER_FIELDS}"
    return [*shown, others, *_folders(table, layout)], _call("read_csv", files, options), left_out


def _parquet(table: Table, layout: Layout, files: str) -> tuple[list[str], str, list[str]]:
    shown = []
    for field, kind in zip(layout.columns, layout.types, strict=True):
        # Stored as an instant, shown as UTC.
        value = f"{quoted(field)} AT TIME ZONE 'UTC'" if kind == "TIMESTAMP" else quoted(field)
        shown.append(f"{value} AS {quoted(field)}")
    source = _call("read_parquet", files, _hive(table, layout))
    return [*shown, f"{OTHER_FIELDS} AS {OTHER_FIELDS}", *_folders(table, layout)], source, []


def _of_json(column: Column) -> str:
    value = quoted(column.field)
    if column.type == "VARCHAR":
        return f"{value} ->> '$'"
    if column.type == "TIMESTAMP":
        return f"TRY_CAST({value} ->> '$' AS TIMESTAMP)"
    return f"TRY_CAST({value} AS {column.type})"


def _of_text(column: Column) -> str:
    value = quoted(column.field)
    if column.type == "VARCHAR":
        return value
    # DuckDB 2.0 moves a cast of a column into its CSV reader, where one that fails ends the query; not this one.
    value = f"nullif({value}, '')"
    if column.type == STRUCT:
        return f"TRY_CAST(TRY_CAST({value} AS JSON) AS {STRUCT})"
    return f"TRY_CAST({value} AS {column.type})"


def _call(function: str, files: str, options: list[str]) -> str:
    return f"{function}({files}" + "".join(f",\n    {option}" for option in options) + ")"


def _hive(table: Table, layout: Layout) -> list[str]:
    names = _free(table, layout)
    if not names:
        return ["hive_partitioning = false"]
    return ["hive_partitioning = true", "hive_types_autocast = false"]


def _folders(table: Table, layout: Layout) -> list[str]:
    return [quoted(name) for name in _free(table, layout)]


def _free(table: Table, layout: Layout) -> list[str]:
    """Folders such as `day=…`; none if one has the name of a column, which DuckDB would take from the folder."""
    names = hive_names(layout)
    taken = {column.name.lower() for column in table.columns}
    return [] if any(name.lower() in taken for name in names) else names


def _left_out(table: Table) -> list[str]:
    return [column.field for column in table.renamed]
