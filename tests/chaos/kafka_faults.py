"""The faults of a run on Kafka, one after another, each on a pipeline of its own; and the bugs that they must catch.

Values only; `chaos.on_kafka` plays them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos import kafka_brokers, kafka_kills, kafka_links, kafka_refusals
from chaos.kafka_stage import KafkaStage


@dataclass(frozen=True)
class Fault:
    """One of the list."""

    name: str
    """For the command line and the result."""
    play: Callable[[KafkaStage, int], Awaitable[None]]
    times_long: int
    """How often in the long form."""
    times_short: int
    """How often in the short form; 0: not at all."""
    width: int = 2
    """Partitions of each stream."""
    brokers: int = 1


FAULTS = (
    Fault("kills", kafka_kills.kills, 75, 6),
    Fault("killed in a transaction", kafka_kills.killed_in_a_transaction, 2, 1),
    Fault("stops", kafka_kills.stops, 1, 0),
    Fault("asleep in a transaction", kafka_kills.asleep_in_a_transaction, 2, 1),
    Fault("storm", kafka_kills.storm, 24, 6, width=4),
    Fault("broker restarts", kafka_brokers.restarts, 8, 2),
    Fault("links", kafka_links.links, 3, 1),
    Fault("ends of transactions", kafka_links.ends, 2, 1),
    Fault("too large", kafka_refusals.too_large, 1, 1),
    Fault("poison", kafka_refusals.poison, 3, 1),
    Fault("leaders", kafka_brokers.leaders, 10, 3, brokers=3),
)
"""In this order."""

BY_NAME = {fault.name: fault for fault in FAULTS}

CAUGHT_BY = {
    "unfenced": ("stops", 2),
    "position-first": ("killed in a transaction", 1),
    "end-txn-again": ("ends of transactions", 1),
    "read-uncommitted": ("killed in a transaction", 1),
    "snapshot-ahead": ("kills", 6),
    "no-replay": ("killed in a transaction", 1),
}
"""Planted bug (`chaos.plants`), and the fault that has to catch it when it is played so many times."""
