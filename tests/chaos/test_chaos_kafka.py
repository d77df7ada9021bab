"""The chaos run on a real broker: a short one keeps all promises, and one without fences is caught."""

from pathlib import Path

import pytest

from chaos.command import chaos

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("new_cluster")]  # skips it where there is no Kafka

ON_KAFKA = ("--log", "kafka", "--rate", "1000")


def test_kills_and_zombies_on_kafka_lose_and_repeat_nothing(tmp_path: Path) -> None:
    ended = chaos(tmp_path, *ON_KAFKA, "--kills", "6", "--aimed", "12")
    assert ended.code == 0, ended.output
    assert ended.counted["anomalies"] > 0


def test_owners_that_cut_nobody_off_are_caught(tmp_path: Path) -> None:
    ended = chaos(tmp_path, *ON_KAFKA, "--kills", "0", "--aimed", "0", "--plant", "unfenced")
    assert ended.code == 1, ended.output
    assert ended.counted["repeated"] > 0, ended.output
