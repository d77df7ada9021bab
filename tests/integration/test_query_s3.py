"""`cutbank query` and verify's neighbours on a real S3: equal to a plain count over the raw lines."""

import asyncio
import gzip
import re

import orjson
import pytest

from cutbank.cli import main
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.sinking.claims import CLAIMS_ROOT
from object_servers.fixtures import S3Server
from written_root import ERRORS, MINUTE_MS, SPEC, START_MS, error, layout, stock, write

pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'cutbank[query]'")

MINUTES = 20
A_MINUTE = 50


async def _written(url: str) -> list[bytes]:
    """Sunk anomalies and errors; the raw lines of the anomalies, as somebody with nothing but the bucket reads them."""
    async with open_store(url, clock=SystemClock(), metrics=NoMetrics()) as store:
        minutes = {
            m: [stock(m * A_MINUTE + n, START_MS + m * MINUTE_MS + n * 1000) for n in range(A_MINUTE)]
            for m in range(MINUTES)
        }
        minutes[7].append(b'{"id":"mine","price":"dear"}')
        await write(store, minutes, laid_out=layout(compression="gzip"))
        of_errors = layout(prefix="errors/!{timestamp:yyyy/MM/dd/HH}/", errors=True)
        await write(
            store, {3: [error(n, START_MS + 3 * MINUTE_MS) for n in range(9)]}, chain=ERRORS, laid_out=of_errors
        )
        keys = [info.key async for info in store.list("") if not info.key.startswith((CLAIMS_ROOT, "errors/"))]
        bodies = [gzip.decompress(await store.read(key)) for key in keys]
        return [line for body in bodies for line in body.splitlines()]


def _asked(capsys: pytest.CaptureFixture[str], *words: str) -> list[list[str]]:
    capsys.readouterr()
    code = main(["query", *words, "--format", "csv"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return [line.split(",") for line in out.splitlines()[1:]]


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUTBANK_SPEC", "CUTBANK_STORE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_query_is_equal_to_a_plain_count_over_the_raw_lines(
    s3_server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = s3_server.store_url()
    raw = [orjson.loads(line) for line in asyncio.run(_written(url))]
    assert len(raw) == MINUTES * A_MINUTE + 1
    scores = sum(1 for row in raw if row.get("ANOMALY_SCORE", 0) > 1.2)
    sql = "SELECT count(*), count(*) FILTER (ANOMALY_SCORE > 1.2), count(OTHER_FIELDS) FROM anomalies"
    assert _asked(capsys, sql, "--store-url", url) == [[str(len(raw)), str(scores), "1"]]
    hour = [row for row in raw if "2026-11-22T23:05" <= row.get("ROWTIME", "") < "2026-11-22T23:08:30"]
    words = ["--from", "2026-11-22T23:05", "--to", "2026-11-22T23:08:30", "--store-url", url]
    sql = "SELECT count(*) FILTER (ROWTIME IS NOT NULL), count(*) FROM anomalies"
    assert _asked(capsys, sql, *words) == [[str(len(hour)), str(len(hour) + 1)]]
    assert _asked(capsys, "SELECT ERROR_NAME, count(*) FROM errors GROUP BY ALL", "--store-url", url) == [
        ["invalid_json", "9"]
    ]


def test_a_bucket_without_a_sink_and_one_that_is_not_there(
    s3_server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for url, why in (
        (s3_server.store_url(), "no sink has written there yet"),
        (re.sub("s3://[^/]+/", "s3://nobodys-bucket/", s3_server.store_url()), "nobodys-bucket"),
    ):
        code = main(["query", "SELECT 1 FROM anomalies", "--store-url", url])
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert why in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("engine", ["athena", "trino", "duckdb"])
def test_definitions_name_the_bucket(s3_server: S3Server, capsys: pytest.CaptureFixture[str], engine: str) -> None:
    url = s3_server.store_url()
    asyncio.run(_written(url))
    capsys.readouterr()
    assert main(["query", "--ddl", engine, "--errors", "--store-url", url]) == 0
    out, _ = capsys.readouterr()
    root = url.partition("?")[0]
    assert f"'{root}/" in out
    assert "?" not in out.split("FROM")[0]
    assert out.count(f"-- Objects of stream {SPEC.errors} of pipeline {SPEC.name} under {root}:") == 1
