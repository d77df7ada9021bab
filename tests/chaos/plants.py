"""Bugs to plant into the children: each must be caught by the run, which shows that it would catch them in the product.

A plant changes one thing of one module in this process. Only `chaos.service` calls them.
"""

import sqlite3
from collections.abc import Callable
from uuid import uuid4

from cutbank.pipeline.scoring.model import DetectorSource, Emit, PartitionModel
from cutbank.pipeline.scoring.snapshots import Snapshot
from cutbank.pipeline.sinking.claims import Claim
from cutbank.pipeline.sinking.resume import Resumption
from cutbank.pipeline.sinking.worker import _Worker
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Partition, Position
from cutbank.transports.kafka.cluster import Cluster
from cutbank.transports.kafka.transaction import Transactions
from cutbank.transports.local import groups


def commit_before_put() -> None:
    """The sink commits a stretch's end before its claim and object are there."""
    cut = _Worker._cut

    async def wrong(worker: _Worker) -> bool:
        await worker._lease.commit(worker._stretch.end)
        return await cut(worker)

    _Worker._cut = wrong  # type: ignore[method-assign, assignment]


def unfinished_claim() -> None:
    """The sink goes on after the newest claim without looking for its objects."""

    async def wrong(_resumption: Resumption, _claim: Claim) -> None:
        return

    Resumption.finish = wrong  # type: ignore[method-assign, assignment]


def snapshot_without_position() -> None:
    """A model from a snapshot does not know its position, and takes one that is too early: it learns records twice."""
    thawed = PartitionModel.thawed

    def wrong(
        spec: PipelineSpec, snapshot: Snapshot, source: DetectorSource, *, emit: Emit = "anomalies"
    ) -> PartitionModel:
        model = thawed(spec, snapshot, source, emit=emit)
        model.next = Position(max(0, model.next - 100))
        return model

    PartitionModel.thawed = wrong  # type: ignore[method-assign]


def zombie_writes() -> None:
    """The log takes writes of a lease that has passed to somebody else."""

    def wrong(
        db: sqlite3.Connection, group: str, member_id: str, *, row_id: int, epoch: int, partition: Partition
    ) -> Position | None:
        return groups.committed(db, group, partition)

    groups.check_owner = wrong


def unfenced() -> None:
    """Every owner of a partition on Kafka has a transactional id of its own: nobody is cut off."""
    made = Transactions.__init__

    def wrong(transactions: Transactions, cluster: Cluster, transactional_id: str) -> None:
        made(transactions, cluster, f"{transactional_id}/{uuid4().hex}")

    Transactions.__init__ = wrong  # type: ignore[method-assign, assignment]


PLANTS: dict[str, Callable[[], None]] = {
    "commit-before-put": commit_before_put,
    "unfinished-claim": unfinished_claim,
    "snapshot-without-position": snapshot_without_position,
    "zombie-writes": zombie_writes,
    "unfenced": unfenced,
}
"""By name, as `--plant` takes them."""
