"""Bugs to plant into the children: each must be caught by the run, which shows that it would catch them in the product.

A plant changes one thing of one module in this process. Only `chaos.service` calls them.
"""

import sqlite3
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from cutbank.pipeline.scoring.assignment import Assignment
from cutbank.pipeline.scoring.model import DetectorSource, Emit, PartitionModel
from cutbank.pipeline.scoring.snapshots import Snapshot, snapshot_bytes
from cutbank.pipeline.scoring.state import Inventory
from cutbank.pipeline.scoring.worker import _Live
from cutbank.pipeline.sinking.claims import Claim
from cutbank.pipeline.sinking.resume import Resumption
from cutbank.pipeline.sinking.worker import _Worker
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Partition, Position
from cutbank.transports.base import StreamInfo
from cutbank.transports.kafka import wire
from cutbank.transports.kafka.cluster import Cluster, Patience
from cutbank.transports.kafka.transaction import GroupPosition, Records, Transactions
from cutbank.transports.local import groups


def commit_before_put() -> None:
    """The sink commits a stretch's end before its claim and object are there."""
    depart = _Worker._depart_or_wait

    async def wrong(worker: _Worker) -> None:
        await worker._flights.land()
        await worker._lease.commit(worker._stretch.end)
        await depart(worker)

    _Worker._depart_or_wait = wrong  # type: ignore[method-assign, assignment]


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


def position_first() -> None:
    """The position is committed, then the outputs are published: two transactions on Kafka, where one is right."""
    commit = Transactions.commit

    async def wrong(transactions: Transactions, records: Records, position: GroupPosition | None) -> None:
        if records and position is not None:
            await commit(transactions, {}, position)
            await commit(transactions, records, None)
        else:
            await commit(transactions, records, position)

    Transactions.commit = wrong  # type: ignore[method-assign, assignment]


def end_txn_again() -> None:
    """An unanswered EndTxn is sent again in the same epoch, and the next transaction begins in that epoch too."""
    end, complete = Transactions._end, Transactions._complete

    async def wrong(transactions: Transactions, patience: Patience, *, commit: bool, again: bool) -> int:
        return await end(transactions, patience, commit=commit, again=True)

    async def wrongly_complete(transactions: Transactions, *, clean: bool) -> None:
        await complete(transactions, clean=True)

    Transactions._end = wrong  # type: ignore[method-assign, assignment]
    Transactions._complete = wrongly_complete  # type: ignore[method-assign, assignment]


def read_uncommitted() -> None:
    """Readers are given what was never committed."""
    wire.READ_COMMITTED = 0


def snapshot_ahead() -> None:
    """The scorer keeps a snapshot of what it has scored before that is published and committed."""
    score = _Live._score

    async def wrong(live: _Live, *arguments: Any, **named: Any) -> Any:
        scored = await score(live, *arguments, **named)
        if live._keeper.due(live.model.next):
            live._keeper.put(live.model.next, snapshot_bytes(live.model.frozen()))
            await live._keeper.finish(within_s=10.0)
        return scored

    async def never(_live: _Live) -> None:
        return

    _Live._score = wrong  # type: ignore[method-assign, assignment]
    _Live._snapshot_if_due = never  # type: ignore[method-assign, assignment]


def no_replay() -> None:
    """Whoever takes a partition over goes on with the snapshot's model, without the records since."""

    async def wrong(
        _assignment: Assignment, model: PartitionModel, position: Position, _info: StreamInfo, _inventory: Inventory
    ) -> bool:
        model.next = position
        return True

    Assignment._replay = wrong  # type: ignore[method-assign, assignment]


PLANTS: dict[str, Callable[[], None]] = {
    "commit-before-put": commit_before_put,
    "unfinished-claim": unfinished_claim,
    "snapshot-without-position": snapshot_without_position,
    "zombie-writes": zombie_writes,
    "unfenced": unfenced,
    "position-first": position_first,
    "end-txn-again": end_txn_again,
    "read-uncommitted": read_uncommitted,
    "snapshot-ahead": snapshot_ahead,
    "no-replay": no_replay,
}
"""By name, as `--plant` takes them."""
