"""What is concluded from the ranges of requests that a broker takes."""

import pytest

from cutbank.transports.kafka.brokers import Verdict, kind

Ranges = dict[int, tuple[int, int]]

APACHE: Ranges = {2: (0, 8), 22: (0, 4), 26: (0, 3), 27: (0, 1), 38: (0, 3), 43: (0, 2)}
"""As 3.7.2 answered, of what is looked at; the others answered what differs."""

KAFKA: dict[str, Ranges] = {
    "3.7.2": APACHE,
    "3.8.1": {**APACHE, 22: (0, 5), 26: (0, 4)},
    "3.9.0": {**APACHE, 2: (0, 9), 22: (0, 5), 26: (0, 4)},
    "3.9.1": {**APACHE, 2: (0, 9), 22: (0, 5), 26: (0, 4)},
    "4.0.0": {**APACHE, 2: (1, 10), 22: (0, 5), 26: (0, 5), 38: (1, 3)},
    "4.1.1": {**APACHE, 2: (1, 10), 22: (0, 5), 26: (0, 5), 38: (1, 3)},
}

REDPANDA: Ranges = {2: (0, 4), 22: (0, 4), 26: (0, 3)}
"""By its table of handlers, which has neither delegation tokens nor elections."""


@pytest.mark.parametrize(
    ("version", "name", "verdict"),
    [
        ("3.7.2", "Apache Kafka 3.7 or older", Verdict.BAD),
        ("3.8.1", "Apache Kafka 3.8", Verdict.BAD),
        ("3.9.0", "Apache Kafka 3.9", Verdict.OPEN),
        ("3.9.1", "Apache Kafka 3.9", Verdict.OPEN),
        ("4.0.0", "Apache Kafka 4.0 or newer", Verdict.GOOD),
        ("4.1.1", "Apache Kafka 4.0 or newer", Verdict.GOOD),
    ],
)
def test_apache_kafka_by_its_ranges(version: str, name: str, verdict: Verdict) -> None:
    found = kind(KAFKA[version], "MkU3OEVBNTcwNTJENDM2Qk")
    assert (found.name, found.verdict, found.apache) == (name, verdict, True)


@pytest.mark.parametrize("cluster_id", ["redpanda.5f0b", "MkU3OEVBNTcwNTJENDM2Qk"])
def test_redpanda_is_tried_whatever_it_is_called(cluster_id: str) -> None:
    found = kind(REDPANDA, cluster_id)
    assert (found.verdict, found.apache) == (Verdict.OPEN, False)


def test_redpanda_is_not_taken_for_an_old_kafka_when_it_learns_more_requests() -> None:
    assert kind(KAFKA["3.8.1"], "redpanda.5f0b").verdict is Verdict.OPEN
