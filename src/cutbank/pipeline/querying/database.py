"""A private DuckDB in memory that holds the tables of one query. Owns its settings and what its errors mean.

Invariant: nothing outside is reached, whatever the SQL says, since it may have been pasted from somewhere: no file, no
network, no extension is loaded or fetched, no setting changed, no Python variable seen; one SELECT is run. Memory and
the temporary folder have limits. Blocking: for a thread, one at a time; `interrupt` may be called from another.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cutbank.errors import CutbankError, MissingExtra, UsageError
from cutbank.pipeline.querying.tables import Table

if TYPE_CHECKING:
    import duckdb

THREADS_MAX = 8
"""Most threads of a query."""

ROWS_AT_ONCE = 1000
"""Rows of a result that are Python objects at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a query may use."""

    memory_bytes_max: int = 1 << 30
    """Most memory of the tables and the query, bytes; beyond, they go to the temporary folder."""
    disk_bytes_max: int = 8 << 30
    """Most that goes there, bytes."""
    threads: int = 2
    """Threads of the query, 1 to `THREADS_MAX`."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a query gives; the rows come as they are asked for."""

    columns: tuple[str, ...]
    rows: Iterator[Sequence[Sequence[Any]]]
    """In portions of `ROWS_AT_ONCE`."""


class Database:
    """Used as a context manager; `folder` is the temporary one. Raises MissingExtra."""

    def __init__(self, tables: Sequence[Table], *, limits: Limits, folder: Path) -> None:
        self.tables = tuple(tables)
        self._limits = limits
        self._folder = folder

    def __enter__(self) -> Self:
        try:
            import duckdb
        except ModuleNotFoundError:
            raise MissingExtra("cutbank query needs DuckDB: pip install 'cutbank[query]'") from None
        self._duckdb = duckdb
        config: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            "memory_limit": f"{self._limits.memory_bytes_max}B",
            "threads": str(max(1, min(self._limits.threads, THREADS_MAX))),
            "temp_directory": str(self._folder),
        }
        self._connection: duckdb.DuckDBPyConnection = duckdb.connect(":memory:", config=config)
        self._connection.execute("SET TimeZone = 'UTC'")
        # DuckDB 2.0 shows this setting and does not keep to it where it was given with the others.
        self._connection.execute(f"SET max_temp_directory_size = '{self._limits.disk_bytes_max}B'")
        # After the folder, which can't be set once this is: of files, it is all that the database may see.
        self._connection.execute("SET enable_external_access = false")
        for table in self.tables:
            self._connection.execute(table.create())
        self._connection.execute("SET lock_configuration = true")
        return self

    def __exit__(self, *failure: object) -> None:
        self._connection.close()

    def check(self, sql: str) -> tuple[Table, ...]:
        """Which tables a query names. Raises UsageError: no SQL, not one SELECT, an unknown table or column."""
        with self._said():
            statements = self._connection.extract_statements(sql)
            kinds = [statement.type for statement in statements]
            if len(kinds) != 1:
                raise UsageError(f"give one SELECT; this is {len(kinds)} statements")
            if kinds[0].name == "MULTI":
                raise UsageError(
                    "give one SELECT; this PIVOT is several statements: write its values and put it into a FROM, such "
                    "as FROM (PIVOT anomalies ON tradeType IN ('BUY', 'SELL') USING count(*))"
                )
            if kinds[0] not in (self._duckdb.StatementType.SELECT, self._duckdb.StatementType.EXPLAIN):
                raise UsageError(f"give one SELECT; {kinds[0].name} is none: nothing is there to be changed")
            self._bind(statements[0].query, kinds[0])
            named = {name.rpartition(".")[2].strip('"').lower() for name in self._connection.get_table_names(sql)}
        return tuple(table for table in self.tables if table.name in named)

    def _bind(self, query: str, kind: Any) -> None:
        """Find what is wrong with names and types before anything is read."""
        if kind == self._duckdb.StatementType.EXPLAIN:
            return
        try:
            self._connection.execute(f"EXPLAIN {query}").fetchall()
        except self._duckdb.ParserException:
            return  # DESCRIBE and its like are no part of an EXPLAIN

    def insert(self, statement: str, text: str) -> int:
        """Run a statement of `Table` on a text of lines; how many rows it gave."""
        with self._said():
            row = self._connection.execute(statement, [text]).fetchone()
        assert row is not None, "an INSERT says how many"
        return int(row[0])

    def run(self, sql: str) -> Result:
        """Run a query that was checked. The database is busy until the rows have been taken."""
        with self._said():
            done = self._connection.execute(sql)
            columns = tuple((name, str(kind)) for name, kind, *_ in done.description or ())
        for name, kind in columns:
            if "WITH TIME ZONE" in kind:
                raise UsageError(f"column {name} has a time zone: write {name}::TIMESTAMP, all times are UTC here")
        return Result(tuple(name for name, _ in columns), self._rows(done))

    def interrupt(self) -> None:
        """End what is running, soon."""
        self._connection.interrupt()

    def _rows(self, done: "duckdb.DuckDBPyConnection") -> Iterator[Sequence[Sequence[Any]]]:
        while True:
            with self._said():
                rows = done.fetchmany(ROWS_AT_ONCE)
            if not rows:
                return
            yield rows

    @contextmanager
    def _said(self) -> Iterator[None]:
        """DuckDB's errors as ours, in one line."""
        try:
            yield
        except self._duckdb.OutOfMemoryException as error:
            raise CutbankError(
                "the query needs more than --memory-bytes-max and --disk-bytes-max allow: ask for a shorter period or "
                f"fewer columns, or raise them ({_first_lines(error)})"
            ) from None
        except self._duckdb.PermissionException:
            raise UsageError(
                "the SQL may only read the tables anomalies and errors: no file, URL or extension"
            ) from None
        except self._duckdb.Error as error:
            text = _first_lines(error)
            if text.startswith("Catalog Error: Table with name"):
                text = f"{text.partition('!')[0]}: there are {' and '.join(table.name for table in self.tables)}"
            if "pytz" in text:
                text = "a value has a time zone: cast it to TIMESTAMP, all times are UTC here"
            raise UsageError(f"SQL: {text}") from None


def _first_lines(error: Exception) -> str:
    """What DuckDB says, without the picture of the place."""
    return " ".join(str(error).partition("\n\nLINE ")[0].split())
