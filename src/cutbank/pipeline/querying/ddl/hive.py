"""What the definitions for Athena and Trino share: columns as Hive sees them, and the view over the raw table. Text.

Hive tables know names in small letters without odd characters, and read all files of a folder. So a raw table
`<name>_objects` is defined over the folders, and a view `<name>` that has types, and only this stream's objects.
"""

import re
from dataclasses import dataclass

from cutbank.pipeline.querying.ddl.folders import Layouts, Place, path_pattern
from cutbank.pipeline.querying.tables import SOURCE_FIELDS, STRUCT, Table, literal
from cutbank.pipeline.sinking.claims import OTHER_FIELDS

_GOOD = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Raw:
    """A column of the raw table."""

    name: str
    kind: str
    """VARCHAR, DOUBLE, INTEGER …, TIMESTAMP or `STRUCT`."""
    value: str
    """Of the view, in Trino's SQL."""


def columns(table: Table, layouts: Layouts) -> tuple[list[Raw], list[str]]:
    """The raw table's columns, and the fields that can have none."""
    layout = layouts.newest
    types = {column.field: column.type for column in table.columns}
    if layout.format == "ndjson":
        fields = [(column.field, column.type) for column in table.columns]
    elif layout.format == "csv":
        fields = [(field, types.get(field, "VARCHAR")) for field in (*layout.columns, OTHER_FIELDS)]
    else:
        given = zip(layout.columns, layout.types, strict=True)
        known = {"REAL": "DOUBLE", "FLOAT": "DOUBLE", "SOURCE": STRUCT}
        fields = [*((field, known.get(kind, kind)) for field, kind in given), (OTHER_FIELDS, "VARCHAR")]
    found: list[Raw] = []
    left_out = []
    taken: set[str] = set()
    for field, kind in fields:
        name = field.lower()
        # A CSV file's columns are found by their place: none may be left out.
        if not _GOOD.fullmatch(name) or name in taken:
            left_out.append(field)
            if layout.format != "csv":
                continue
            name = f"column_{len(found) + 1}"
        taken.add(name)
        found.append(_raw(name, kind, layout.format))
    return found, left_out


def _raw(name: str, kind: str, form: str) -> Raw:
    sql = f'"{name}"'
    if form == "csv":
        return Raw(name, "VARCHAR", _of_text(sql, kind))
    if form == "ndjson" and kind == "TIMESTAMP":
        return Raw(name, "VARCHAR", _moment(sql))
    return Raw(name, kind, sql)


def _of_text(sql: str, kind: str) -> str:
    if kind == "TIMESTAMP":
        return _moment(sql)
    if kind == "VARCHAR":
        return f"nullif({sql}, '')"
    if kind == STRUCT:
        return f"try(CAST(json_parse({sql}) AS {row()}))"
    return f"try_cast({sql} AS {kind})"


def _moment(sql: str) -> str:
    # A time with its zone, which Hive's readers of JSON and CSV do not know.
    return f"try(CAST(from_iso8601_timestamp({sql}) AT TIME ZONE 'UTC' AS TIMESTAMP))"


def row() -> str:
    """SOURCE in Trino's SQL."""
    return "ROW(" + ", ".join(f'"{name}" {kind}' for name, kind in SOURCE_FIELDS) + ")"


def view(table: Table, place: Place, layouts: Layouts, found: list[Raw], partitions: list[str]) -> str:
    """The view, in the SQL that Trino and Athena share."""
    shown = [f'{column.value} AS "{column.name}"' for column in found] + [f'"{name}"' for name in partitions]
    body = ",\n    ".join(shown)
    return (
        f"CREATE OR REPLACE VIEW {table.name} AS SELECT\n    {body}\nFROM {table.name}_objects\n"
        f'WHERE regexp_like("$path", {literal(path_pattern(place, layouts.newest))});'
    )
