"""`cutbank query`: wrong use is one line and exit code 2 before anything is read; what it prints, in every format."""

import asyncio
import csv
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from cutbank.cli.query import SQL_CHARACTERS_MAX, parse_period
from cutbank.cli.results import plain, text
from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.querying import Period
from written_root import CHAIN, ERRORS, MINUTE_MS, START_MS, error, layout, stock, write

from .conftest import Run

pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'cutbank[query]'")

COUNT = "SELECT count(*) AS n FROM anomalies"


async def _written(folder: Path) -> None:
    store = FileSystemStore(folder, clock=SystemClock(), metrics=NoMetrics())
    minutes = {m: [stock(10 * m + k, START_MS + m * MINUTE_MS + k) for k in range(10)] for m in range(3)}
    await write(store, minutes)
    errors = layout(prefix="errors/!{timestamp:yyyy/MM/dd/HH}/")
    await write(store, {1: [error(n, START_MS + MINUTE_MS) for n in range(4)]}, chain=ERRORS, laid_out=errors)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 anomalies of three minutes, 4 errors. Not to be changed."""
    folder = tmp_path_factory.mktemp("queried")
    asyncio.run(_written(folder))
    return folder


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], 'give SQL, such as "SELECT count(*) FROM anomalies", or --ddl'),
        ([COUNT], "data/anomalies: no such folder"),
        ([COUNT, "--store-url", "nowhere"], "nowhere: no such folder"),
        ([COUNT, "--store-url", "ftp://host/root"], "unknown kind"),
        ([COUNT, "--store-url", "."], "no sink has written there yet"),
        ([COUNT, "--from", "yesterday"], "--from 'yesterday': give a time such as"),
        ([COUNT, "--to", "2026-13-01"], "--to '2026-13-01': give a time such as"),
        ([COUNT, "--from", "2026-11-23", "--to", "2026-11-22"], "is not before --to"),
        ([COUNT, "--last", "1 hour"], "--last '1 hour': give a number and s, m, h or d"),
        ([COUNT, "--last", "1h", "--to", "2026-11-22"], "--last is for itself"),
        ([COUNT, "--spec", "none.toml"], "spec none.toml: No such file"),
        ([COUNT, "--errors"], "--errors is for --ddl"),
        ([COUNT, "--ddl", "athena"], "--ddl defines tables of all objects"),
        (["--ddl", "oracle"], "'oracle' is not one of"),
        (["--ddl", "duckdb", "--store-url", "."], "a definition follows from what a sink has written"),
        (["--ddl", "duckdb", "--pipeline", "a", "--pipeline", "b"], "--ddl is for one --pipeline at a time"),
        (["SELECT prize FROM anomalies"], 'SQL: Binder Error: Referenced column "prize" not found'),
        (["DELETE FROM anomalies"], "give one SELECT; DELETE is none"),
        ([COUNT, "--limit", "0"], "--limit"),
    ],
)
def test_wrong_use_is_one_line(cutbank: Run, words: list[str], why: str) -> None:
    code, out, err = cutbank("query", *words)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_a_missing_duckdb_says_which_extra(cutbank: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    code, _, err = cutbank("query", COUNT, "--store-url", str(root))
    assert (code, err) == (2, "cutbank: error: cutbank query needs DuckDB: pip install 'cutbank[query]'\n")


def test_the_root_is_a_folder_a_url_or_a_variable(cutbank: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = cutbank("query", COUNT, "--store-url", str(root))
    assert named == (0, " n\n30\n", "")
    assert cutbank("query", COUNT, "--store-url", f"file://{root}") == named
    monkeypatch.setenv("CUTBANK_STORE_URL", f"file://{root}")
    assert cutbank("query", COUNT) == named


def test_sql_may_come_from_standard_input(cutbank: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("-- a comment\nSELECT count(*) AS n\nFROM errors;\n"))
    assert cutbank("query", "-", "--store-url", str(root)) == (0, "n\n4\n", "")


def test_longer_sql_than_allowed_is_refused(cutbank: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = "SELECT 1 AS a".ljust(SQL_CHARACTERS_MAX)
    monkeypatch.setattr(sys, "stdin", io.StringIO(longest))
    assert cutbank("query", "-", "--format", "json") == (0, '{"a":1}\n', "")
    monkeypatch.setattr(sys, "stdin", io.StringIO(longest + " "))
    code, _, err = cutbank("query", "-")
    assert (code, err) == (2, f"cutbank: error: the SQL is longer than {SQL_CHARACTERS_MAX} characters\n")


def test_a_period_and_a_join_of_both_tables(cutbank: Run, root: Path) -> None:
    sql = """WITH a AS (SELECT count(*) AS n, date_trunc('minute', ROWTIME) AS t FROM anomalies GROUP BY t),
             e AS (SELECT count(*) AS bad, date_trunc('minute', ERROR_TIME) AS t FROM errors GROUP BY t)
             SELECT n, bad FROM a JOIN e USING (t)"""
    words = ["--store-url", str(root), "--from", "2026-11-22T23:01", "--to", "2026-11-22T23:02", "--format", "csv"]
    assert cutbank("query", sql, *words) == (0, "n,bad\n10,4\n", "")


def test_an_empty_period_is_said(cutbank: Run, root: Path) -> None:
    words = ["query", COUNT, "--store-url", str(root), "--from", "2027-01-01"]
    assert cutbank(*words) == (0, "n\n0\n", "no objects of this period: the tables are empty\n")


def test_a_table_shows_the_first_rows_and_counts_all(cutbank: Run, root: Path) -> None:
    sql = "SELECT id, tickerSymbol, ROWTIME FROM anomalies ORDER BY id"
    code, out, err = cutbank("query", sql, "--store-url", str(root), "--limit", "2")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "id  tickerSymbol  ROWTIME                 ",
        " 0  GOOG          2026-11-22T23:00:00.000Z",
        " 1  AMZN          2026-11-22T23:00:00.001Z",
        "… and 28 more row(s): --limit shows more, --format csv or json all of them",
    ]


@pytest.mark.parametrize(("width", "lines_max"), [(80, 4), (130, 1), (400, 1)])
def test_on_a_terminal_a_nested_value_never_makes_a_row_long(
    cutbank: Run, root: Path, monkeypatch: pytest.MonkeyPatch, width: int, lines_max: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = cutbank("query", "FROM anomalies ORDER BY id LIMIT 10", "--store-url", str(root))
    out = re.sub("\x1b[^m]*m", "", out)
    rows = out.splitlines()
    assert code == 0
    assert all(len(line) <= width for line in rows)
    assert len(rows) <= 11 * lines_max
    assert ("…" in out) == (width < 400)
    assert ('"ordinal":0}' in out) == (width == 400)


def test_a_plan_is_printed_as_it_is_drawn(cutbank: Run, root: Path) -> None:
    sql = "EXPLAIN SELECT tickerSymbol FROM anomalies WHERE id > 7"
    code, out, err = cutbank("query", sql, "--store-url", str(root))
    assert (code, err) == (0, "")
    assert len(out.splitlines()) > 5
    assert "tickerSymbol" in out
    assert "\\x0a" not in out


def test_json_is_a_line_a_row_and_equal_to_the_line_itself(cutbank: Run, root: Path) -> None:
    code, out, _ = cutbank("query", "FROM anomalies ORDER BY id", "--store-url", str(root), "--format", "json")
    assert code == 0
    lines = [line for path in sorted(root.glob("2026/*/*/*/*.json")) for line in path.read_bytes().splitlines()]
    found = [orjson.loads(line) for line in out.splitlines()]
    assert all(row.pop("OTHER_FIELDS") is None for row in found)
    assert found == sorted(map(orjson.loads, lines), key=lambda row: row["id"])


def test_csv_has_all_rows_and_a_header(cutbank: Run, root: Path) -> None:
    sql = "SELECT id, 'a,\"b\nc' AS t, NULL AS z, true AS y, SOURCE FROM anomalies ORDER BY id"
    code, out, _ = cutbank("query", sql, "--store-url", str(root), "--format", "csv", "--limit", "1")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, len(rows)) == (0, 30)
    assert {name: rows[0][name] for name in "tzy"} == {"t": 'a,"b\nc', "z": "", "y": "true"}
    assert orjson.loads(rows[0]["SOURCE"])["position"] == "0"


def test_names_that_are_there_twice_are_told_apart_in_json(cutbank: Run) -> None:
    code, out, _ = cutbank("query", "SELECT 1 AS a, 2 AS a, 3 AS b", "--format", "json")
    assert (code, out) == (0, '{"a":1,"a_2":2,"b":3}\n')


def test_what_rows_hold_is_not_obeyed_by_the_terminal(cutbank: Run) -> None:
    code, out, _ = cutbank("query", "SELECT chr(27) || '[31m' || chr(10) || '[bold]' AS \"a\x1b\"")
    assert code == 0
    assert [line.rstrip() for line in out.splitlines()] == ["a\\x1b", "\\x1b[31m\\x0a[bold]"]


@pytest.mark.parametrize(
    ("sql", "json", "written"),
    [
        ("NULL", b"null", ""),
        ("1.50::DECIMAL(9, 2)", b"1.50", "1.50"),
        ("170141183460469231731687303715884105727", b"170141183460469231731687303715884105727", None),
        ("0.1::DOUBLE", b"0.1", "0.1"),
        ("'nan'::DOUBLE", b"null", "nan"),
        ("DATE '2026-11-22'", b'"2026-11-22"', "2026-11-22"),
        ("TIMESTAMP '2026-11-22 23:00:00'", b'"2026-11-22T23:00:00.000Z"', "2026-11-22T23:00:00.000Z"),
        ("TIMESTAMP '2026-11-22 23:00:00.123456'", b'"2026-11-22T23:00:00.123456Z"', None),
        ("INTERVAL 90 SECOND", b'"90s"', "90s"),
        ("INTERVAL 12 DAY + INTERVAL 5 MICROSECOND", b'"1036800.000005s"', None),
        ("INTERVAL '-72265.25' SECOND", b'"-72265.25s"', None),
        ("'\\xAB'::BLOB", b'"ab"', "ab"),
        ("[1, NULL]", b"[1,null]", "[1,null]"),
        ("{'a': true}", b'{"a":true}', '{"a":true}'),
        ("MAP {1: 'x'}", b'{"1":"x"}', '{"1":"x"}'),
        ("uuid '00000000-0000-0000-0000-000000000001'", b'"00000000-0000-0000-0000-000000000001"', None),
    ],
)
def test_values_as_they_are_written(sql: str, json: bytes, written: str | None) -> None:
    import duckdb

    row: Any = duckdb.connect().execute(f"SELECT {sql}").fetchone()
    assert orjson.dumps(plain(row[0])) == json
    assert text(row[0]) == (json.decode().strip('"') if written is None else written)


def test_what_is_not_in_the_answer_is_said_and_the_exit_code_is_1(cutbank: Run, tmp_path: Path) -> None:
    asyncio.run(_written(tmp_path))
    first = min(tmp_path.glob("2026/**/*.json"))
    first.unlink()
    code, out, err = cutbank("query", COUNT, "--store-url", str(tmp_path))
    assert (code, out) == (1, " n\n20\n")
    assert err == f"not in the answer: {first.relative_to(tmp_path)}: missing\n"
    assert cutbank("query", COUNT, "--store-url", str(tmp_path), "--from", "2026-11-22T23:02")[0] == 0


def test_columns_that_differ_in_capitals_alone_are_said(cutbank: Run, tmp_path: Path) -> None:
    store = FileSystemStore(tmp_path, clock=SystemClock(), metrics=NoMetrics())
    asyncio.run(write(store, {0: [stock(0, START_MS, Price=7.5)]}, chain=CHAIN))
    spec = tmp_path / "spec.toml"
    spec.write_text(
        'features = ["price"]\ncolumns = [{name = "price", type = "DOUBLE"}, {name = "Price", type = "DOUBLE"}]\n'
    )
    words = ["--store-url", str(tmp_path), "--spec", str(spec)]
    code, out, err = cutbank("query", "SELECT price, Price_2 FROM anomalies", *words, "--format", "csv")
    assert (code, out) == (0, "price,Price_2\n100.0,7.5\n")
    assert err == "column Price is Price_2 here: SQL knows no capitals\n"


def test_periods() -> None:
    assert parse_period(None, None, None, now_ms=0) == Period()
    assert parse_period("2026-11-22T23:00", "2026-11-23T01:00+01:00", None, now_ms=0) == Period(
        START_MS, START_MS + 60 * MINUTE_MS
    )
    assert parse_period(None, None, "90m", now_ms=START_MS) == Period(START_MS - 90 * MINUTE_MS)
    assert parse_period(None, None, "1d", now_ms=5) == Period(0)
    with pytest.raises(UsageError):
        parse_period(None, None, "5w", now_ms=0)


def test_ctrl_c_ends_a_query_quietly(root: Path, tmp_path: Path) -> None:
    sql = "SELECT count(*) FROM anomalies, range(10000000000) a, range(10000) b"
    command = [sys.executable, "-m", "cutbank.cli", "query", sql, "--store-url", str(root)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CUTBANK_")}
    environ["TMPDIR"] = str(tmp_path)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
    try:
        # All is imported when its folder is there; what takes seconds of the processor after that is the query.
        until_s = time.monotonic() + 120
        _await(process, lambda: any(tmp_path.iterdir()), until_s=until_s)
        busy_s = _processor_s(process.pid) + 2
        _await(process, lambda: _processor_s(process.pid) >= busy_s, until_s=until_s)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (130, b"", b"")
    assert not any(tmp_path.iterdir())


def _await(process: "subprocess.Popen[bytes]", is_so: Callable[[], bool], *, until_s: float) -> None:
    """Wait for a condition as long as the process lives."""
    while not is_so():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
        assert time.monotonic() < until_s, "the query never got to work"


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
