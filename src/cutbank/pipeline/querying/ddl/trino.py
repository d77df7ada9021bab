"""Definitions for Trino's Hive connector: an external table with partition projection, and a view. Text; no I/O.

Hive's readers leave out files and folders that begin with `_` or `.`, so claims are not read.
Source: Trino's documentation of the Hive connector, "Partition projection" and "Table properties".
"""

from cutbank.pipeline.querying.ddl import hive
from cutbank.pipeline.querying.ddl.folders import Layouts, Partition, Place, absolute, comment, notes, projection
from cutbank.pipeline.querying.tables import STRUCT, Table, literal

_FORMATS = {"ndjson": "JSON", "csv": "CSV", "parquet": "PARQUET"}


def define(place: Place, table: Table, layouts: Layouts) -> str:
    """The external table and the view over it."""
    layout = layouts.newest
    found, left_out = hive.columns(table, layouts)
    projected = projection(layouts, table)
    said = notes(place, layouts)
    said.append("In a schema of a Hive catalogue: USE hive.default")
    said += [f"Left out, since Hive has no such name or has it already: {field}" for field in left_out]
    if layout.format == "ndjson":
        said.append("A line with a value of another type than its column fails a query: make that column VARCHAR.")
    if layout.format == "csv":
        said.append("Hive's CSV reader knows no line breaks within a value, and drops a backslash before a quote.")
    if projected.below or not projected.partitions:
        said.append("Objects lie in folders below: the catalogue needs hive.recursive-directories=true.")
    root = absolute(place.root)
    columns = [f'"{column.name}" {_type(column.kind)}' for column in found]
    columns += [_partition(part) for part in projected.partitions]
    properties = {"format": literal(_FORMATS[layout.format])}
    if layout.format == "csv":
        properties |= {"csv_separator": "','", "csv_quote": "'\"'", "skip_header_line_count": "1"}
    if projected.partitions:
        names = ", ".join(literal(part.name) for part in projected.partitions)
        properties |= {
            "external_location": literal(root),
            "partitioned_by": f"ARRAY[{names}]",
            "partition_projection_enabled": "true",
            "partition_projection_location_template": literal(root + projected.template),
        }
    else:
        properties["external_location"] = literal(root + projected.template)
    body = ",\n    ".join(columns)
    given = ",\n    ".join(f"{name} = {value}" for name, value in properties.items())
    head = "\n".join(map(comment, said))
    statement = f"CREATE TABLE {table.name}_objects (\n    {body}\n) WITH (\n    {given}\n);"
    view = hive.view(table, place, layouts, found, [part.name for part in projected.partitions])
    return f"{head}\n{statement}\n\n{view}"


def _partition(part: Partition) -> str:
    given = {
        "type": literal(part.kind.upper()),
        "range": f"ARRAY[{literal(part.first)}, {literal(part.last)}]",
    }
    if part.kind == "date":
        given["format"] = literal(part.format)
        if part.unit in ("HOURS", "MINUTES"):  # else one day, month or year, as the format says
            given |= {"interval": "1", "interval_unit": literal(part.unit)}
    elif part.digits:
        given["digits"] = str(part.digits)
    kind = "VARCHAR" if part.kind == "date" else "INTEGER"
    properties = ", ".join(f"partition_projection_{name} = {value}" for name, value in given.items())
    return f'"{part.name}" {kind} WITH ({properties})'


def _type(kind: str) -> str:
    if kind == STRUCT:
        return hive.row()
    return "TIMESTAMP(3)" if kind == "TIMESTAMP" else kind
