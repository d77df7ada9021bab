"""The doctor as a whole, in this process: what it asks, of which settings, and what it makes of the answers."""

from pathlib import Path

import pytest

from cutbank.cli.checks import Finding
from cutbank.cli.doctor import findings

from .conftest import Run


async def found(environ: dict[str, str] | None = None, **given: str) -> dict[str, Finding]:
    return {finding.what: finding async for finding in findings(environ or {}, given)}


async def test_each_thing_is_looked_at_once_in_the_order_of_repair(folder: Path) -> None:
    assert list(await found()) == [
        "python",
        "service produce",
        "service score",
        "service sink",
        "environment",
        "spec",
        "detector",
        "log",
        "object store",
        "state store",
        "disk of data",
        "disk of data/anomalies",
        "disk of data/state",
    ]


async def test_an_option_counts_more_than_its_variable(folder: Path) -> None:
    seen = await found(
        {"CUTBANK_STORE_URL": "foo://x", "CUTBANK_TRANSPORT_URL": "foo://x"},
        store_url="file://mine",
        transport_url="local://mine.db",
    )
    assert seen["object store"].level == "ok"
    assert f"file://{folder}/mine" in seen["object store"].why
    assert "mine.db" in seen["log"].why


async def test_each_store_is_probed_where_it_is(folder: Path) -> None:
    seen = await found({"CUTBANK_STATE_URL": "foo://x", "CUTBANK_STORE_URL": "file://store"})
    assert seen["object store"].level == "ok"
    assert seen["state store"].level == "FAIL"
    assert "foo://x" in seen["state store"].why


async def test_the_spec_decides_what_else_is_checked(folder: Path) -> None:
    (folder / "spec.toml").write_text('source = "ticks"\ndestination = "odd"\n[detector]\nname = "hst"\n')
    seen = await found({"CUTBANK_SPEC": "spec.toml"})
    assert "ticks" in seen["spec"].why
    assert seen["detector"].why.startswith("hst: ")


async def test_a_shared_setting_that_is_wrong_fails_every_service_by_name(folder: Path) -> None:
    seen = await found({"CUTBANK_GRACE_S": "soon"})
    failed = {what for what, finding in seen.items() if finding.level == "FAIL"}
    assert failed == {"service produce", "service score", "service sink"}
    assert all("CUTBANK_GRACE_S" in seen[what].why for what in failed)


def test_a_spec_from_init_is_well(cutbank: Run) -> None:
    assert cutbank("init")[0] == 0
    code, out, _ = cutbank("doctor", "--spec", "cutbank.toml")
    assert code == 0
    assert "ok    spec: cutbank.toml: pipeline anomaly-extractor" in out


async def test_a_setting_of_one_service_that_is_wrong_leaves_the_others_well(folder: Path) -> None:
    seen = await found({"RECORDS_PER_BATCH": "many"})
    assert seen["service produce"].level == "FAIL"
    assert "RECORDS_PER_BATCH" in seen["service produce"].why
    assert seen["service score"].level == "ok"
    assert seen["log"].level == "ok"


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("--spec", "gone.toml", "spec"),
        ("--transport-url", "foo://x", "log"),
        ("--store-url", "foo://x", "object store"),
        ("--state-url", "foo://x", "state store"),
    ],
)
def test_one_failure_is_one_line_and_exit_code_1(cutbank: Run, option: str, value: str, what: str) -> None:
    code, out, err = cutbank("doctor", option, value)
    assert (code, err) == (1, "1 check(s) failed\n")
    (line,) = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert line.startswith(f"FAIL  {what}: ")
    assert value in line
