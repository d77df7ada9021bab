"""Every fault on a real S3 server, in its short form, keeps all promises; and bugs on purpose are caught."""

from pathlib import Path

import pytest

from chaos.command import Ended, chaos
from chaos.s3_faults import CAUGHT_BY, FAULTS

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("new_s3_server")]  # skips it where there is no server

PARTS = (
    ("kills", "snapshots", "in the way"),
    ("many values", "zombies", "lost replies"),
    ("weather", "outages", "a pair", "another cluster"),
)
"""Faults that are played one after another, for processes of pytest side by side."""


def on_s3(folder: Path, *options: str) -> Ended:
    return chaos(folder, *options, module="chaos.on_s3")


def test_all_faults_are_played() -> None:
    assert sorted(name for part in PARTS for name in part) == sorted(fault.name for fault in FAULTS)


@pytest.mark.parametrize("part", PARTS)
def test_faults_on_s3_lose_and_repeat_nothing(tmp_path: Path, part: tuple[str, ...]) -> None:
    ended = on_s3(tmp_path, "--short", *(f"--only={name}" for name in part))
    assert ended.code == 0, ended.output
    assert {name: result["ok"] for name, result in ended.counted["faults"].items()} == dict.fromkeys(part, True)
    assert all(result["anomalies"] and result["error_lines"] for result in ended.counted["faults"].values())
    if "kills" in part:
        assert ended.counted["kills_total"] >= 20


@pytest.mark.parametrize("plant", ["put-over", "taken-for-own"])
def test_bugs_in_claims_are_caught(tmp_path: Path, plant: str) -> None:
    ended = on_s3(tmp_path, "--plant", plant)
    assert plant in CAUGHT_BY
    assert ended.counted["plants"][plant]["caught"], ended.output
