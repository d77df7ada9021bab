"""The doctor's checks, one by one: what is well, what is not, and that each line says what to do."""

import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest

from cutbank.cli.checks import (
    FREE_BYTES_FAIL,
    FREE_BYTES_WARN,
    Finding,
    check_detector,
    check_disk,
    check_log,
    check_python,
    check_store,
    check_variables,
    nearest_folder,
)
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.pipeline.spec import Column, DetectorSpec, PipelineSpec
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig

SPEC = PipelineSpec()


def contents(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10), "FAIL"), ((3, 11), "ok"), ((3, 14), "ok"), ((3, 15), "warn"), ((2, 7), "FAIL")],
)
def test_python(version: tuple[int, int], level: str) -> None:
    assert check_python(version).level == level


def test_an_unknown_variable_is_a_warning_that_names_the_nearest() -> None:
    known = ["CUTBANK_TRANSPORT_URL", "CUTBANK_SPEC", "STREAM_NAME"]
    environ = {"CUTBANK_TRANSPRT_URL": "x", "CUTBANK_ZZZZ": "x", "CUTBANK_SPEC": "x", "HOME": "x"}
    found = list(check_variables(environ, known))
    assert [finding.level for finding in found] == ["warn", "warn"]
    assert "did you mean CUTBANK_TRANSPORT_URL?" in str(found[0])
    assert "CUTBANK_ZZZZ" in str(found[1])
    assert "did you mean" not in str(found[1])


def test_known_variables_are_counted() -> None:
    (found,) = check_variables({"CUTBANK_SPEC": "x", "PATH": "/"}, ["CUTBANK_SPEC", "CUTBANK_X", "CUTBANK_SPEC"])
    assert (found.level, found.why) == ("ok", "1 of 2 variables set, none unknown")


async def test_a_log_that_is_not_there_yet_is_well_and_stays_away(folder: Path) -> None:
    found = await check_log("local://data/log.db", SPEC)
    assert found.level == "ok"
    assert "the first service makes it" in found.why
    assert contents(folder) == []


async def test_a_log_says_which_streams_are_missing(folder: Path) -> None:
    async with open_transport("local://log.db", clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig("trades"))
    found = await check_log("local://log.db", SPEC)
    assert found.level == "ok"
    assert found.why.startswith("local://log.db: 1 stream(s); anomalies, errors not made yet")


@pytest.mark.parametrize("url", ["foo://x", "local://", "local://log.db?nope=1"])
async def test_a_wrong_url_fails_and_says_so(folder: Path, url: str) -> None:
    found = await check_log(url, SPEC)
    assert found.level == "FAIL"
    assert "transport URL" in found.why


async def test_another_program_s_file_is_no_log(folder: Path) -> None:
    with sqlite3.connect("log.db") as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    found = await check_log("local://log.db", SPEC)
    assert found.level == "FAIL"
    assert "log.db" in found.why


async def test_a_folder_in_a_file_s_place_fails(folder: Path) -> None:
    (folder / "file").write_text("x")
    found = await check_log("local://file/log.db", SPEC)
    assert found.level == "FAIL"
    assert "can't be made" in found.why


async def test_a_store_is_probed_and_left_empty(folder: Path) -> None:
    found = await check_store("file://data/anomalies", "object store")
    assert (found.level, found.what) == ("ok", "object store")
    assert [path for path in contents(folder) if path.is_file()] == []


@pytest.mark.parametrize("url", ["nowhere", "foo://x", "file://", "file://taken/below"])
async def test_a_store_that_can_t_be_used_fails(folder: Path, url: str) -> None:
    (folder / "taken").write_text("a file")
    found = await check_store(url, "object store")
    assert found.level == "FAIL"
    assert found.why


async def test_a_bucket_that_does_not_answer_fails_and_says_what_to_look_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aioboto3", reason="aioboto3 is not installed: pip install 'cutbank[s3]'")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    nobody = quote("http://127.0.0.1:1", safe="")
    found = await check_store(f"s3://bucket/root?region=us-east-1&endpoint={nobody}", "object store")
    assert found.level == "FAIL"
    assert "127.0.0.1:1" in found.why
    assert "; check endpoint=… and region=… in the URL" in found.why
    assert contents(folder) == []


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (0, "FAIL"),
        (FREE_BYTES_FAIL - 1, "FAIL"),
        (FREE_BYTES_FAIL, "warn"),
        (FREE_BYTES_WARN - 1, "warn"),
        (FREE_BYTES_WARN, "ok"),
    ],
)
def test_free_disk(folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))
    assert check_disk(folder / "not" / "there").level == level


def test_the_nearest_folder_is_one_that_is_there(folder: Path) -> None:
    assert nearest_folder(Path("a/b/c")) == folder
    (folder / "a").mkdir()
    assert nearest_folder(Path("a/b/c")) == folder / "a"


@pytest.mark.parametrize("name", ["ensemble", "rcf", "hst"])
def test_the_detectors_score_their_fixed_input(name: str) -> None:
    spec = PipelineSpec(detector=DetectorSpec.model_validate({"name": name}))
    assert check_detector(spec).level == "ok"


def test_a_model_over_the_limit_fails_with_the_figure() -> None:
    assert "a partition's model takes 3.4 MB" in check_detector(PipelineSpec()).why
    columns = tuple(Column(name=f"f{number}", type="DOUBLE") for number in range(30))
    large = DetectorSpec(name="rcf", number_of_trees=1000, sub_sample_size=1000, shingle_size=30)
    spec = PipelineSpec(columns=columns, features=tuple(column.name for column in columns), detector=large)
    finding = check_detector(spec)
    assert finding.level == "FAIL"
    assert "needs 21634035224 bytes, more than MODEL_BYTES_MAX (1073741824): lower number_of_trees" in finding.why


def test_a_line_is_one_line_without_secrets() -> None:
    line = str(Finding("FAIL", "log", "can't reach\nkafka://u:hunter2@b:9092"))
    assert line == "FAIL  log: can't reach kafka://u:***@b:9092"
