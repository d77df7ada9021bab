"""Definitions for other engines: DuckDB's is run over real roots and counted, the others are read by a parser."""

import asyncio
import fnmatch
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.querying.ddl import ENGINES, LOOKED_MAX, definition
from cutbank.pipeline.querying.ddl.folders import Layouts, Partition, Place, glob, path_pattern, projection, segments
from cutbank.pipeline.querying.tables import anomalies_table
from cutbank.pipeline.sinking.claims import ChainId, Layout
from cutbank.pipeline.sinking.layout import object_key
from cutbank.pipeline.sinking.prefix import partition_fields
from cutbank.pipeline.spec import Column, PipelineSpec
from cutbank.records import Position
from sunk_root import A_MINUTE, MINUTES, sunk
from written_root import CHAIN, ERRORS, MINUTE_MS, SPEC, START_MS, error, layout, stock, write

duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'cutbank[query]'")

SUNK = PipelineSpec(name="p", columns=(Column(name="id", type="INTEGER"),), features=("id",))
"""What `sunk_root` sinks."""

PREFIXES = [
    "yyyy/MM/dd/HH/",
    "",
    "odd/",
    "anomalies/!{timestamp:yyyy/MM/dd}/symbol=!{partitionKeyFromQuery:id}/",
    "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/hour=!{timestamp:HH}/",
    "dt=!{timestamp:yyyy-MM-dd}/x/!{timestamp:HHmm}/",
    "id=!{partitionKeyFromQuery:id}/!{timestamp:yyyyMMdd}/",
    "!{firehose:random-string}/!{timestamp:yyyy}/",
    "!{timestamp:'day of 'EEE, d MMM uuuu}/",
]


def store_at(folder: Path) -> FileSystemStore:
    return FileSystemStore(folder, clock=SystemClock(), metrics=NoMetrics())


def defined(folder: Path, engine: str, *, spec: PipelineSpec = SPEC, errors: bool = False) -> str:
    return asyncio.run(definition(store_at(folder), spec, pipeline=spec.name, engine=engine, errors=errors))


def asked(statements: str, sql: str) -> Any:
    """DuckDB as it comes, in a process of a user's: what it answers after a definition."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    connection.execute(statements)
    return connection.execute(sql).fetchall()


@pytest.mark.parametrize("packed", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
def test_duckdb_counts_all_lines_in_every_format(tmp_path: Path, form: str, packed: str) -> None:
    lines = {n: [stock(10 * n + k, START_MS + n * MINUTE_MS + k) for k in range(3)] for n in (0, 1, 70)}
    lines[1] += [b'{"price":"dear","id":[1]}', b'{"quantity":4.5,"tickerSymbol":7,"SOURCE":null}']
    asyncio.run(write(store_at(tmp_path), lines, laid_out=layout(form, packed)))
    statements = defined(tmp_path, "duckdb")
    count, prices, highest = asked(statements, "SELECT count(*), count(price), max(price) FROM anomalies")[0]
    assert (count, prices, highest) == (11, 9, 100.0 + 702 / 4)
    row = asked(
        statements, "SELECT tickerSymbol, quantity, epoch_ms(ROWTIME), SOURCE.position FROM anomalies WHERE id = 12"
    )
    assert row == [("GOOG", 84, START_MS + MINUTE_MS + 2, "12")]


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_the_view_reads_long_lines_up_to_its_limit(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    long = 17 << 20
    lines = [stock(0, START_MS), stock(1, START_MS, tickerSymbol="x" * long)]
    asyncio.run(write(store_at(tmp_path), {0: lines}, laid_out=layout(form)))
    assert asked(defined(tmp_path, "duckdb"), "SELECT max(length(tickerSymbol)) FROM anomalies") == [(long,)]
    if form == "ndjson":
        return  # DuckDB 2.0 takes longer ones than it was told
    monkeypatch.setattr("cutbank.pipeline.querying.ddl.duckdb.LINE_BYTES_MAX", 1 << 20)
    with pytest.raises(duckdb.Error, match=r"(?i)maximum"):
        asked(defined(tmp_path, "duckdb"), "SELECT max(length(tickerSymbol)) FROM anomalies")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_duckdb_finds_the_objects_of_every_prefix(tmp_path: Path, prefix: str, zone: str) -> None:
    keys = partition_fields(prefix)
    root = sunk(tmp_path, layout=Layout(prefix=prefix, zone=zone, partition_keys=keys))
    statements = defined(root, "duckdb", spec=SUNK)
    found = asked(statements, "SELECT count(*), count(DISTINCT id) FROM anomalies")
    assert found == [(MINUTES * A_MINUTE, MINUTES * A_MINUTE)]


def test_pipelines_and_errors_on_one_root_are_apart(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    asyncio.run(write(store, {0: [stock(n, START_MS) for n in range(5)]}))
    asyncio.run(write(store, {0: [stock(9, START_MS)]}, chain=ChainId("staging", SPEC.destination, "0")))
    asyncio.run(write(store, {0: [error(n, START_MS) for n in range(3)]}, chain=ERRORS))
    statements = defined(tmp_path, "duckdb", errors=True)
    assert asked(statements, "SELECT (SELECT count(*) FROM anomalies), (SELECT count(*) FROM errors)") == [(5, 3)]


def test_older_layouts_are_said_to_be_left_out(tmp_path: Path) -> None:
    minutes = {n: [stock(n, START_MS + n * MINUTE_MS)] for n in range(4)}
    laid_out = {0: layout("csv", "gzip"), 1: layout(prefix="old/")}
    asyncio.run(write(store_at(tmp_path), minutes, laid_out=laid_out))
    for engine in ENGINES:
        said = defined(tmp_path, engine)
        assert said.count("NOT read by this definition") == 2
        assert "older objects, csv, gzip, prefix yyyy/MM/dd/HH/" in said
        assert "older objects, ndjson, prefix old/" in said
    assert asked(defined(tmp_path, "duckdb"), "SELECT list(id ORDER BY id) FROM anomalies") == [([2, 3],)]


def test_of_many_claims_some_are_looked_at_and_it_says_so(tmp_path: Path) -> None:
    few = {n: [stock(n, START_MS)] for n in range(LOOKED_MAX)}
    asyncio.run(write(store_at(tmp_path / "few"), few))
    assert "Not every claim" not in defined(tmp_path / "few", "duckdb")
    asyncio.run(write(store_at(tmp_path / "more"), {**few, LOOKED_MAX: [stock(99, START_MS)]}))
    assert "Not every claim" in defined(tmp_path / "more", "duckdb")


def test_columns_that_an_engine_has_no_name_for_are_said_to_be_left_out(tmp_path: Path) -> None:
    asyncio.run(write(store_at(tmp_path), {0: [stock(0, START_MS)]}))
    names = ("price", "Price", "a b")
    spec = PipelineSpec(columns=tuple(Column(name=name, type="DOUBLE") for name in names), features=("price",))
    for engine in ("athena", "trino"):
        said = defined(tmp_path, engine, spec=spec)
        assert "has it already: Price" in said
        assert "has it already: a b" in said
    said = defined(tmp_path, "duckdb", spec=spec)
    assert asked(said, 'SELECT price, "a b" FROM anomalies') == [(100.0, None)]


@pytest.mark.parametrize("prefix", [prefix for prefix in PREFIXES if not partition_fields(prefix)])
@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
def test_trinos_and_athenas_are_good_sql(tmp_path: Path, form: str, prefix: str) -> None:
    """As far as sqlglot knows their SQL; nothing of it falls back to a command that it does not understand."""
    sqlglot = pytest.importorskip("sqlglot")
    laid_out = layout(form, prefix=prefix)
    asyncio.run(write(store_at(tmp_path), {0: [stock(0, START_MS)]}, laid_out=laid_out))
    for engine in ("athena", "trino"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # One at a time, as Athena takes them: its definitions are Hive's SQL, its views Trino's.
            said = defined(tmp_path, engine).split("\n\n")
            statements = [sqlglot.parse_one(statement, dialect=engine) for statement in said]
        assert [statement.key for statement in statements] == ["create", "create"]
        assert [statement.args["kind"] for statement in statements] == ["TABLE", "VIEW"]


def layouts_of(prefix: str, *, zone: str = "UTC") -> Layouts:
    laid_out = Layout(prefix=prefix, zone=zone, partition_keys=partition_fields(prefix))
    return Layouts(newest=laid_out, others=(), first_ms=START_MS, whole=True)


def integer(name: str, first: int, last: int, digits: int = 2) -> Partition:
    return Partition(name, "integer", first=str(first), last=str(last), digits=digits)


def date(name: str, java: str, unit: str, first: str, last: str = "NOW") -> Partition:
    return Partition(name, "date", format=java, unit=unit, first=first, last=last)


HOUR = date("datehour", "yyyy/MM/dd/HH", "HOURS", "2026/11/22/23")


@pytest.mark.parametrize(
    ("prefix", "partitions", "template", "below"),
    [
        ("yyyy/MM/dd/HH/", (HOUR,), "${datehour}/", False),
        ("", (HOUR,), "${datehour}/", False),
        ("odd/", (HOUR,), "odd/${datehour}/", False),
        (
            "a/!{timestamp:yyyy/MM/dd}/s=!{partitionKeyFromQuery:id}/",
            (date("day", "yyyy/MM/dd", "DAYS", "2026/11/22"),),
            "a/${day}/",
            True,
        ),
        (
            "year=!{timestamp:yyyy}/month=!{timestamp:MM}/d=!{timestamp:d}/",
            (integer("year", 2026, 2036, 4), integer("month", 1, 12), integer("d", 1, 31, 0)),
            "year=${year}/month=${month}/d=${d}/",
            False,
        ),
        (
            "dt=!{timestamp:yyyy-MM-dd}/x/!{timestamp:HHmm}/",
            (
                date("dt", "yyyy-MM-dd", "DAYS", "2026-11-22"),
                integer("hour", 0, 23),
                integer("minute", 0, 59),
            ),
            "dt=${dt}/x/${hour}${minute}/",
            False,
        ),
        ("price=!{timestamp:yyyy}/", (integer("price_folder", 2026, 2036, 4),), "price=${price_folder}/", False),
        ("'v'yyyy/MM/", (date("month", "'v'yyyy/MM", "MONTHS", "v2026/11"),), "${month}/", False),
        ("x/!{partitionKeyFromQuery:id}/", (), "x/", True),
        ("!{firehose:random-string}/", (), "", True),
        ("!{timestamp:yyyy/EEE/}", (date("year", "yyyy", "YEARS", "2026"),), "${year}/", True),
    ],
)
def test_partitions_follow_from_the_prefix_as_far_as_they_can_be_foretold(
    prefix: str,
    partitions: tuple[Partition, ...],
    template: str,
    below: bool,  # noqa: FBT001  # as drawn
) -> None:
    found = projection(layouts_of(prefix), anomalies_table(SPEC))
    assert (found.partitions, found.template, found.below) == (partitions, template, below)


def test_folders_of_another_zone_begin_and_end_there() -> None:
    (found,) = projection(layouts_of("yyyy/MM/dd/HH/", zone="Asia/Tokyo"), anomalies_table(SPEC)).partitions
    assert (found.first, found.last) == ("2026/11/23/08", "NOW+1DAYS")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_patterns_match_the_keys_that_a_sink_makes(prefix: str) -> None:
    laid_out = Layout(prefix=prefix, partition_keys=partition_fields(prefix))
    value = "/".join("v" for _ in laid_out.partition_keys)
    key = object_key(CHAIN, laid_out, start=Position(7), minute_ms=START_MS, ordinal=0, value=value)
    place = Place("s3://bucket/root", CHAIN.pipeline, CHAIN.stream)
    assert fnmatch.fnmatch(key, glob(place, laid_out))
    assert key.count("/") == len(segments(prefix)) == glob(place, laid_out).count("/")
    assert re.search(path_pattern(place, laid_out), f"s3://bucket/root/{key}")
    other = Place("s3://bucket/root", CHAIN.pipeline, "scores")
    assert not re.search(path_pattern(other, laid_out), f"s3://bucket/root/{key}")


def test_athenas_properties_are_those_of_its_guide(tmp_path: Path) -> None:
    asyncio.run(write(store_at(tmp_path), {0: [stock(0, START_MS)]}, laid_out=layout(compression="gzip")))
    said = defined(tmp_path, "athena")
    for line in (
        "PARTITIONED BY (`datehour` string)",
        "ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'",
        "'projection.enabled' = 'true'",
        "'projection.datehour.type' = 'date'",
        "'projection.datehour.format' = 'yyyy/MM/dd/HH'",
        "'projection.datehour.range' = '2026/11/22/23,NOW'",
        "'projection.datehour.interval' = '1'",
        "'projection.datehour.interval.unit' = 'HOURS'",
        f"'storage.location.template' = 'file://{tmp_path}/${{datehour}}/'",
        "FROM anomalies_objects",
    ):
        assert line in said


def test_trinos_properties_are_those_of_its_documentation(tmp_path: Path) -> None:
    asyncio.run(write(store_at(tmp_path), {0: [stock(0, START_MS)]}))
    said = defined(tmp_path, "trino")
    for part in (
        "partition_projection_type = 'DATE', partition_projection_range = ARRAY['2026/11/22/23', 'NOW']",
        "partition_projection_format = 'yyyy/MM/dd/HH'",
        "partition_projection_interval = 1, partition_projection_interval_unit = 'HOURS'",
        "partitioned_by = ARRAY['datehour']",
        f"partition_projection_location_template = 'file://{tmp_path}/${{datehour}}/'",
    ):
        assert part in said
