"""Every fault on real brokers, in its short form, keeps all promises; and bugs on purpose are caught."""

from pathlib import Path

import pytest

from chaos.command import Ended, chaos
from chaos.kafka_faults import CAUGHT_BY, FAULTS, Fault

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("new_cluster")]  # skips it where there is no Kafka


def on_kafka(folder: Path, *options: str) -> Ended:
    return chaos(folder, *options, module="chaos.on_kafka")


@pytest.mark.parametrize("brokers", [1, 3])
def test_faults_on_kafka_lose_and_repeat_nothing(tmp_path: Path, brokers: int) -> None:
    played: list[Fault] = [fault for fault in FAULTS if fault.brokers == brokers and fault.times_short]
    ended = on_kafka(tmp_path, "--short", *(f"--only={fault.name}" for fault in played))
    assert ended.code == 0, ended.output
    assert {name: result["ok"] for name, result in ended.counted["faults"].items()} == {f.name: True for f in played}
    assert all(result["anomalies"] for result in ended.counted["faults"].values())


@pytest.mark.parametrize("plant", ["end-txn-again", "position-first"])
def test_bugs_in_transactions_are_caught(tmp_path: Path, plant: str) -> None:
    ended = on_kafka(tmp_path, "--plant", plant)
    assert plant in CAUGHT_BY
    assert ended.counted["plants"][plant]["caught"], ended.output
