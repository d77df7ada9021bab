"""Definitions for Amazon Athena: an external table with partition projection, and a view. Text; no I/O.

Athena leaves out paths that begin with `_` or `.`, so claims are not read, and reads all folders below a partition's.
Sources: Athena User Guide, "Use partition projection", "Hive JSON SerDe", "Open CSV SerDe".
"""

from cutbank.pipeline.querying.ddl import hive
from cutbank.pipeline.querying.ddl.folders import Layouts, Partition, Place, absolute, comment, notes, projection
from cutbank.pipeline.querying.tables import SOURCE_FIELDS, STRUCT, Table

_TYPES = {"VARCHAR": "string", "INTEGER": "int"}
_ROWS = {
    "ndjson": "ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'",
    "csv": (
        "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde'\n"
        "WITH SERDEPROPERTIES ('separatorChar' = ',', 'quoteChar' = '\"')"
    ),
    "parquet": "STORED AS PARQUET",
}


def define(place: Place, table: Table, layouts: Layouts) -> str:
    """The external table and the view over it."""
    layout = layouts.newest
    found, left_out = hive.columns(table, layouts)
    projected = projection(layouts, table)
    said = notes(place, layouts)
    said += [f"Left out, since Athena has no such name or has it already: {field}" for field in left_out]
    if layout.format == "ndjson":
        said.append("A line with a value of another type than its column fails a query: make that column a string.")
    if layout.format == "csv":
        said.append("Its CSV reader knows no line breaks within a value, and drops a backslash before a quote.")
    if not place.root.startswith("s3://"):
        said.append("Athena reads S3 alone: this is what the definition of such a root there looks like.")
    if not projected.partitions:
        said.append("No partitions follow from this prefix: each query reads all objects.")
    columns = ",\n    ".join(f"`{column.name}` {_type(column.kind)}" for column in found)
    root = absolute(place.root)
    statement = [f"CREATE EXTERNAL TABLE {table.name}_objects (\n    {columns}\n)"]
    if projected.partitions:
        keys = ", ".join(f"`{part.name}` {'string' if part.kind == 'date' else 'int'}" for part in projected.partitions)
        statement.append(f"PARTITIONED BY ({keys})")
    location = root if projected.partitions else root + projected.template
    statement += [_ROWS[layout.format], f"LOCATION {_text(location)}"]
    properties = _properties(projected.partitions, root + projected.template)
    if layout.format == "csv":
        properties["skip.header.line.count"] = "1"
    if properties:
        lines = ",\n    ".join(f"{_text(name)} = {_text(value)}" for name, value in properties.items())
        statement.append(f"TBLPROPERTIES (\n    {lines}\n)")
    view = hive.view(table, place, layouts, found, [part.name for part in projected.partitions])
    head = "\n".join(map(comment, said))
    return f"{head}\n-- Athena takes one statement at a time.\n" + "\n".join(statement) + ";\n\n" + view


def _properties(partitions: tuple[Partition, ...], template: str) -> dict[str, str]:
    if not partitions:
        return {}
    found = {"projection.enabled": "true"}
    for part in partitions:
        key = f"projection.{part.name}"
        found[f"{key}.type"] = part.kind
        found[f"{key}.range"] = f"{part.first},{part.last}"
        if part.kind == "date":
            found |= {f"{key}.format": part.format, f"{key}.interval": "1", f"{key}.interval.unit": part.unit}
        elif part.digits:
            found[f"{key}.digits"] = str(part.digits)
    return found | {"storage.location.template": template}


def _type(kind: str) -> str:
    if kind == STRUCT:
        fields = ",".join(f"`{name}`:{_TYPES.get(of, of.lower())}" for name, of in SOURCE_FIELDS)
        return f"struct<{fields}>"
    return _TYPES.get(kind, kind.lower())


def _text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
