"""Trino's definitions and Athena's views, read by Trino's own parser, which Maven fetches."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from brokers.jars import CACHE, MAVEN_S, ServerUnavailable, java, leave_out, program
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.querying.ddl import definition
from written_root import ERRORS, SPEC, START_MS, error, layout, stock, write

HERE = Path(__file__).parent
PREFIXES = (
    "yyyy/MM/dd/HH/",
    "dt=!{timestamp:yyyy-MM-dd}/x/!{timestamp:HHmm}/",
    "!{firehose:random-string}/",
    "it's/!{timestamp:yyyy}/",
)


def parser_jars() -> Path:
    """The folder with the parser's jars, filled if need be. Raises ServerUnavailable."""
    folder = CACHE / "trino-parser"
    if folder.is_dir():
        return folder
    maven = program("mvn", f"install Maven, or copy the jars of Trino's parser to {folder}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="trino-") as scratch:
        shutil.copy(HERE / "pom.xml", scratch)
        command = [maven, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=MAVEN_S, check=False)
        except subprocess.TimeoutExpired:
            raise ServerUnavailable(f"mvn did not copy Trino's parser within {MAVEN_S:g} s") from None
        if done.returncode != 0:
            raise ServerUnavailable(f"mvn could not copy Trino's parser: {(done.stdout + done.stderr)[-2000:]}")
        try:
            os.rename(Path(scratch) / "jars", folder)  # noqa: PTH104  # never replaces a folder that has files
        except OSError:
            if not folder.is_dir():
                raise
    return folder


async def _definitions(root: Path) -> list[str]:
    """Statements, one a text, of every format and kind of prefix."""
    found = []
    for form in ("ndjson", "csv", "parquet"):
        for number, prefix in enumerate(PREFIXES):
            store = FileSystemStore(root / f"{form}{number}", clock=SystemClock(), metrics=NoMetrics())
            await write(store, {0: [stock(0, START_MS)]}, laid_out=layout(form, prefix=prefix))
            await write(
                store,
                {0: [error(0, START_MS)]},
                chain=ERRORS,
                laid_out=layout(form, prefix=f"errors/{prefix}" if "!" in prefix else "errors/", errors=True),
            )
            for engine in ("trino", "athena"):
                said = await definition(store, SPEC, pipeline=SPEC.name, engine=engine, errors=True)
                statements = said.split("\n\n")
                assert len(statements) == 4
                found += statements if engine == "trino" else statements[1::2]  # its tables are in Hive's SQL
    return found


@pytest.mark.servers
def test_trinos_own_parser_reads_every_definition(tmp_path: Path) -> None:
    try:
        runtime, jars = java(), parser_jars()
    except ServerUnavailable as missing:
        leave_out("parser of Trino", missing)
    statements = asyncio.run(_definitions(tmp_path / "root"))
    names = []
    for number, statement in enumerate(statements):
        names.append(tmp_path / f"{number}.sql")
        names[-1].write_text(statement)
    command = [runtime, "-cp", f"{jars}/*", str(HERE / "Statements.java"), *map(str, names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    kinds = done.stdout.split()
    assert len(kinds) == len(statements)
    assert kinds.count("CreateTable") * 2 == kinds.count("CreateView")
