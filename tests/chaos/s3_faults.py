"""The faults of a run on S3, one after another, each on a pipeline of its own; and the bugs that they must catch.

Values only; `chaos.on_s3` plays them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos import s3_kills, s3_refusals, s3_scorers, s3_storage, s3_zombies
from chaos.s3_stage import S3Stage


@dataclass(frozen=True)
class Fault:
    """One of the list."""

    name: str
    """For the command line and the result."""
    play: Callable[[S3Stage, int], Awaitable[None]]
    times_long: int
    """How often in the long form."""
    times_short: int
    """How often in the short form; 0: not at all."""
    sinks: int = 2
    width: int = 4
    """Partitions of each stream."""
    stretch_records_max: int = 40
    load: float = 1.0
    """Of the run's records a second."""


FAULTS = (
    Fault("kills", s3_kills.kills, 200, 20, sinks=s3_kills.POSTS),
    Fault("many values", s3_kills.many_values, 5, 1, width=2, stretch_records_max=80),
    Fault("zombies", s3_zombies.zombies, 3, 1),
    Fault("a pair", s3_zombies.pair, 30, 4, width=1),
    Fault("lost replies", s3_storage.lost_replies, 3, 1),
    Fault("weather", s3_storage.weather, 6, 1),
    Fault("outages", s3_storage.outages, 2, 1, load=3.0),
    Fault("snapshots", s3_scorers.snapshots, 4, 1),
    Fault("in the way", s3_refusals.in_the_way, 3, 1, sinks=1, width=1),
    Fault("another cluster", s3_refusals.another_cluster, 1, 1, sinks=1, width=1),
)
"""In this order."""

BY_NAME = {fault.name: fault for fault in FAULTS}

CAUGHT_BY = {
    "commit-before-put": ("many values", 1),
    "unfinished-claim": ("many values", 1),
    "put-over": ("zombies", 1),
    "taken-for-own": ("in the way", 1),
    "claim-after-object": ("kills", 10),
}
"""Planted bug (`chaos.plants`), and the fault that has to catch it when it is played so many times."""
