"""The tables of a query: their columns, from the spec, and the SQL that makes rows of lines. Values and text; no I/O.

Numbers keep all their digits: FLOAT and REAL are DOUBLE here, since a line has them as they were published.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from cutbank.pipeline.sinking.claims import OTHER_FIELDS
from cutbank.pipeline.sinking.schema import ERROR_COLUMNS, anomaly_columns
from cutbank.pipeline.spec import PipelineSpec

SOURCE_FIELDS: Final = (
    ("pipeline", "VARCHAR"),
    ("stream", "VARCHAR"),
    ("run", "BIGINT"),
    ("partition", "VARCHAR"),
    ("position", "VARCHAR"),
    ("ordinal", "BIGINT"),
)
"""What SOURCE holds, and in which SQL types."""

STRUCT: Final = "STRUCT(" + ", ".join(f'"{name}" {kind}' for name, kind in SOURCE_FIELDS) + ")"

_DUCKDB_TYPES: Final = {"REAL": "DOUBLE", "FLOAT": "DOUBLE", "SOURCE": STRUCT}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    field: str
    """The JSON key that it is made of."""
    name: str
    """In SQL: the field's, unless another column has that in other letters' case."""
    type: str
    """DuckDB's: VARCHAR, DOUBLE, BOOLEAN, TIMESTAMP (UTC), TINYINT to BIGINT, or `STRUCT`."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that SQL may name; after its columns it has `OTHER_FIELDS`."""

    name: str
    columns: tuple[Column, ...]
    time_field: str
    """Which field says when: ROWTIME, ERROR_TIME."""

    @property
    def time_number(self) -> int:
        """Which column says when, from 0."""
        return next(number for number, column in enumerate(self.columns) if column.field == self.time_field)

    @property
    def time(self) -> Column:
        """The column of the time."""
        return self.columns[self.time_number]

    @property
    def renamed(self) -> tuple[Column, ...]:
        """Columns that could not have their field's name."""
        return tuple(column for column in self.columns if column.name != column.field)

    def create(self) -> str:
        """The statement that makes it."""
        columns = [f"{quoted(column.name)} {column.type}" for column in self.columns]
        return f"CREATE TABLE {self.name} ({', '.join([*columns, f'{OTHER_FIELDS} VARCHAR'])})"

    def insert_lines(self, from_ms: int | None, to_ms: int | None) -> str:
        """The statement that takes lines which fit (`shapes.Shape`), in one text, those of a period."""
        plain = [column for column in self.columns if column.name == column.field]
        structure = orjson.dumps({column.field: _structure(column.type) for column in plain}).decode()
        values = ", ".join([*map(self._value, self.columns), "NULL"])
        time = f"r.{quoted(self.time.field)}"
        bounds = [] if from_ms is None else [f"{time} >= make_timestamp({from_ms * 1000})"]
        bounds += [] if to_ms is None else [f"{time} < make_timestamp({to_ms * 1000})"]
        # Names are quoted, bounds are numbers, the lines are a parameter.
        return (
            f"INSERT INTO {self.name} SELECT {values} FROM ("  # noqa: S608  # as above
            f"SELECT line, json_transform(line, {literal(structure)}) AS r FROM ("
            "SELECT unnest(string_split(?, chr(10))) AS line))"
            f" WHERE {' AND '.join(bounds) or 'true'}"
        )

    def insert_rows(self) -> str:
        """The statement that takes rows as `fitting.fit` makes them, in one text, a JSON object a line."""
        types = {str(number): _structure(column.type) for number, column in enumerate(self.columns)}
        structure = orjson.dumps({**types, "other": "VARCHAR"}).decode()
        values = ", ".join([*(f'r."{number}"' for number in range(len(self.columns))), "r.other"])
        return (
            f"INSERT INTO {self.name} SELECT {values} FROM ("  # noqa: S608  # as above
            f"SELECT json_transform(line, {literal(structure)}) AS r "
            "FROM (SELECT unnest(string_split(?, chr(10))) AS line))"
        )

    def _value(self, column: Column) -> str:
        if column.name == column.field:
            return f"r.{quoted(column.field)}"
        # Names that differ in case alone can't both be in a structure.
        return f"TRY_CAST(json_extract_string(line, {literal(_pointer(column.field))}) AS {column.type})"


def anomalies_table(spec: PipelineSpec) -> Table:
    """The spec's columns, then those that every anomaly has."""
    columns = anomaly_columns(spec)
    own = [column.name for column in columns[len(spec.columns) :]]
    return Table("anomalies", _columns(columns, own=own), "ROWTIME")


def errors_table() -> Table:
    """The fields of an error line."""
    return Table("errors", _columns(ERROR_COLUMNS, own=[column.name for column in ERROR_COLUMNS]), "ERROR_TIME")


def _columns(fields: Iterable[tuple[str, str]], *, own: Sequence[str]) -> tuple[Column, ...]:
    """Columns whose names differ in more than case, which is nothing to SQL; ours keep theirs."""
    taken = {name.lower() for name in (*own, OTHER_FIELDS)}
    columns = []
    for field, kind in fields:
        name, number = field, 1
        while field not in own and name.lower() in taken:
            number += 1
            name = f"{field}_{number}"
        taken.add(name.lower())
        columns.append(Column(field, name, _DUCKDB_TYPES.get(kind, kind)))
    return tuple(columns)


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string."""
    return "'" + text.replace("'", "''") + "'"


def _pointer(field: str) -> str:
    """A JSON pointer (RFC 6901)."""
    return "/" + field.replace("~", "~0").replace("/", "~1")


def _structure(kind: str) -> str | dict[str, str]:
    return dict(SOURCE_FIELDS) if kind == STRUCT else kind
