"""The private database: one SELECT, nothing outside, limits that are said, errors in one line."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutbank.errors import CutbankError, UsageError
from cutbank.pipeline.querying import Database, Limits, Period, anomalies_table, errors_table
from cutbank.pipeline.querying.database import ROWS_AT_ONCE, THREADS_MAX
from cutbank.pipeline.querying.loading import Loader
from written_root import SPEC, START_MS, stock

pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'cutbank[query]'")

TABLES = (anomalies_table(SPEC), errors_table())


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    folder = tmp_path / "temporary"  # what lies there is the query's own, and it may see it
    folder.mkdir()
    with Database(TABLES, limits=Limits(), folder=folder) as opened:
        yield opened


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT count(*) FROM anomalies", ["anomalies"]),
        ('select 1 from "ANOMALIES" a join main.errors e on a.SOURCE = e.SOURCE', ["anomalies", "errors"]),
        ("WITH x AS (FROM errors) FROM x", ["errors"]),
        ("DESCRIBE anomalies", ["anomalies"]),
        ("EXPLAIN SELECT * FROM errors", ["errors"]),
        ("SELECT 1", []),
        ("SELECT 1; -- and no more", []),
    ],
)
def test_the_tables_that_a_query_names(database: Database, sql: str, names: list[str]) -> None:
    assert [table.name for table in database.check(sql)] == names


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("", "give one SELECT; this is 0 statements"),
        ("SELECT 1; SELECT 2", "this is 2 statements"),
        ("SELEC 1", "SQL: Parser Error: syntax error at or near"),
        ("SELECT prize FROM anomalies", 'SQL: Binder Error: .*"prize" not found'),
        ("SELECT * FROM trades", "Table with name trades does not exist: there are anomalies and errors"),
        ("PIVOT anomalies ON tradeType USING count(*)", r"write its values and put it into a FROM, such|statements"),
        ("DROP TABLE anomalies", "give one SELECT; DROP is none"),
        ("INSERT INTO errors VALUES (1) RETURNING *", "INSERT is none"),
        ("COPY anomalies TO 'x.csv'", "COPY is none"),
        ("ATTACH 'x.db'", "ATTACH is none"),
        ("SET threads = 1", "SET is none"),
        ("INSTALL httpfs", "LOAD is none"),
        ("CALL duckdb_settings()", "CALL is none"),
    ],
)
def test_what_is_no_query_is_refused_in_one_line(database: Database, sql: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        database.check(sql)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{there}')",
        "SELECT * FROM read_csv('{there}')",
        "SELECT * FROM '{there}'",
        "SELECT * FROM read_blob('{there}')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
        "SELECT * FROM read_text('https://127.0.0.1:1/x')",
    ],
)
def test_no_file_and_no_network_is_reached(database: Database, tmp_path: Path, sql: str) -> None:
    there = tmp_path / "secret.csv"
    there.write_text("a,b\n1,2\n")
    query = sql.format(there=there, folder=tmp_path)
    for ask in (database.check, lambda text: list(database.run(text).rows)):
        with pytest.raises(UsageError) as caught:
            ask(query)
        assert "secret.csv" not in str(caught.value) or "does not exist" in str(caught.value)


def test_python_is_not_seen(database: Database) -> None:
    secrets = {"a": [1]}
    assert secrets
    with pytest.raises(UsageError, match="Table with name secrets does not exist"):
        database.check("SELECT * FROM secrets")


def test_settings_are_as_they_should_be_and_locked(tmp_path: Path) -> None:
    limits = Limits(memory_bytes_max=64 << 20, disk_bytes_max=1 << 20, threads=THREADS_MAX + 1)
    with Database(TABLES, limits=limits, folder=tmp_path) as database:
        names = "'enable_external_access', 'autoinstall_known_extensions', 'autoload_known_extensions', "
        names += "'lock_configuration', 'threads', 'TimeZone', 'temp_directory', 'memory_limit'"
        found = database.run(f"SELECT name, value FROM duckdb_settings() WHERE name IN ({names})")  # noqa: S608
        values = {name: value for portion in found.rows for name, value in portion}
    assert values == {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "lock_configuration": "true",
        "threads": str(THREADS_MAX),
        "TimeZone": "UTC",
        "temp_directory": str(tmp_path),
        "memory_limit": "64.0 MiB",
    }


def test_what_does_not_fit_in_memory_goes_to_the_folder_and_beyond_its_limit_it_is_said(tmp_path: Path) -> None:
    many = (
        "INSERT INTO anomalies (tickerSymbol, tradeType) SELECT md5(? || range), md5(range || 'x') FROM range(1000000)"
    )
    memory = 64 << 20
    with Database(TABLES, limits=Limits(memory_bytes_max=memory, threads=1), folder=tmp_path) as database:
        assert database.insert(many, "a") == 1_000_000
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 0
    small = Limits(memory_bytes_max=memory, disk_bytes_max=1 << 20, threads=1)
    with (
        Database(TABLES, limits=small, folder=tmp_path) as database,
        pytest.raises(CutbankError, match="ask for a shorter period or fewer columns") as caught,
    ):
        database.insert(many, "a")
    assert not isinstance(caught.value, UsageError)


def test_an_error_while_it_runs_is_one_line(database: Database) -> None:
    with pytest.raises(UsageError, match=r"^SQL: Conversion Error: .*'x'") as caught:
        list(database.run("SELECT CAST(v AS INTEGER) FROM (VALUES ('1'), ('x')) t(v)").rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sql", ["SELECT now()", "SELECT {'a': now()}"])
def test_a_time_with_a_zone_is_to_be_cast(database: Database, sql: str) -> None:
    with pytest.raises(UsageError, match="all times are UTC here"):
        list(database.run(sql).rows)


def test_rows_come_in_portions(database: Database) -> None:
    found = list(database.run(f"FROM range({2 * ROWS_AT_ONCE + 1})").rows)
    assert [len(portion) for portion in found] == [ROWS_AT_ONCE, ROWS_AT_ONCE, 1]


def test_a_query_that_would_never_end_is_interrupted(database: Database) -> None:
    begun = threading.Event()
    ended: list[str] = []

    def work() -> None:
        begun.set()
        try:
            list(database.run("SELECT count(*) FROM range(10000000000) a, range(10000) b").rows)
        except UsageError as error:
            ended.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    for _ in range(600):  # what has not begun yet can't be interrupted
        database.interrupt()
        thread.join(0.1)
        if not thread.is_alive():
            break
    assert ended
    assert "nterrupt" in ended[0]


def test_lines_in_many_small_loads_are_all_there(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutbank.pipeline.querying.loading.LOAD_BYTES", 700)
    monkeypatch.setattr("cutbank.pipeline.querying.loading.ODD_BYTES", 50)
    loader = Loader(database, TABLES[0], Period(START_MS + 10, START_MS + 190))
    lines = [stock(n, START_MS + n) if n % 9 else b'{"id":%d,"ANOMALY_SCORE":"x"}' % n for n in range(200)]
    made = loader.add(b"\n".join(lines), minute_ms=START_MS + 20) + loader.flush()
    (row,) = (row for portion in database.run("SELECT count(*), sum(id) FROM anomalies").rows for row in portion)
    wanted = [n for n in range(200) if n % 9 == 0 or 10 <= n < 190]
    assert (made, row) == (len(wanted), (len(wanted), sum(wanted)))
