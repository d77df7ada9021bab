"""Bugs on purpose, in the real classes, for as long as a context lasts: what the simulation must catch.

Each breaks one promise in the way that a plausible mistake would. Not thread-safe: it patches classes.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any
from unittest.mock import patch

from cutbank.errors import AlreadyExists, Fenced, PartitionStopped
from cutbank.pipeline.partitions import PartitionRunner, _Held
from cutbank.pipeline.scoring.assignment import Assignment
from cutbank.pipeline.scoring.model import PartitionModel
from cutbank.pipeline.scoring.state import Inventory
from cutbank.pipeline.scoring.step import Step
from cutbank.pipeline.sinking import stretch
from cutbank.pipeline.sinking.chain import Chain
from cutbank.pipeline.sinking.claims import MINUTE_MS, Claim, encode
from cutbank.pipeline.sinking.resume import Resumption
from cutbank.pipeline.sinking.stretch import Marks
from cutbank.pipeline.sinking.worker import _Worker
from cutbank.records import Position
from cutbank.testing.memory_lease import MemoryLease
from cutbank.testing.taps import TappedLease
from cutbank.transports.base import Lease


class _CommitsFirst:
    """A chain that commits a claim's end before its objects are put."""

    def __init__(self, chain: Chain, worker: _Worker) -> None:
        self._chain = chain
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def put(self, claim: Claim, bodies: Sequence[bytes]) -> None:
        await self._worker._commit(claim.end)
        await self._chain.put(claim, bodies)


@contextmanager
def commit_before_put() -> Iterator[None]:
    """The sink commits first, then puts."""
    run = _Worker.run

    async def planted(self: _Worker) -> None:
        self._flights._chain = _CommitsFirst(self._chain, self)  # type: ignore[assignment]
        await run(self)

    with patch.object(_Worker, "run", planted):
        yield


@contextmanager
def snapshot_without_position() -> Iterator[None]:
    """A model from a snapshot is taken to stand where the log's committed position is: nothing is replayed."""
    thawed = Assignment._thawed

    async def planted(self: Assignment, committed: Position | None, inventory: Inventory) -> PartitionModel | None:
        model = await thawed(self, committed, inventory)
        if model is not None and committed is not None:
            model.next = committed
        return model

    with patch.object(Assignment, "_thawed", planted):
        yield


@contextmanager
def newest_claim_not_finished() -> Iterator[None]:
    """Whoever takes a chain over goes on after its newest claim, whether or not its objects are there."""

    async def planted(self: Resumption, claim: Claim) -> None: ...

    with patch.object(Resumption, "finish", planted):
        yield


@contextmanager
def zombie_rebuilds_its_right() -> Iterator[None]:
    """A scorer that is refused takes a new epoch, as a Kafka producer that initialises its transactions again would."""
    attempt = Step.attempt

    async def planted(self: Step) -> None:
        try:
            await attempt(self)
        except Fenced:
            _take_again(self._lease)
            await self._lease.publish_and_commit(self._scored.outputs, self._scored.end)

    with patch.object(Step, "attempt", planted):
        yield


def _take_again(lease: Lease) -> None:
    while isinstance(lease, TappedLease):
        lease = lease._inner
    assert isinstance(lease, MemoryLease)
    cursor = lease._group.cursors.get(lease.place)
    if cursor is None:
        raise Fenced("the stream is gone")
    cursor.owner, cursor.epoch = lease.member_id, cursor.epoch + 1
    lease.epoch = cursor.epoch
    lease._over = asyncio.get_running_loop().create_future()


@contextmanager
def marks_not_checked() -> Iterator[None]:
    """The sink keeps what it has seen before."""
    with patch.object(Marks, "seen", lambda _self, _source: False):
        yield


@contextmanager
def claim_not_adopted() -> Iterator[None]:
    """A sink that finds its claim's place taken goes on with its own."""

    async def planted(self: Chain, claim: Claim) -> Claim:
        with suppress(AlreadyExists):
            await self._create(claim.key, encode(claim), operation="create claim")
        return claim

    with patch.object(Chain, "append", planted):
        yield


@contextmanager
def unknown_taken_for_failed() -> Iterator[None]:
    """A publish whose outcome is unknown is done again without asking the log what became of it."""

    async def planted(self: Step) -> bool:
        return False

    with patch.object(Step, "_done", planted):
        yield


@contextmanager
def clamp_not_kept() -> Iterator[None]:
    """A snapshot forgets the last ROWTIME: after a jump of the broker's clock, times go back."""
    frozen = PartitionModel.frozen

    def planted(self: PartitionModel) -> Any:
        clamp_ms, self.clamp_ms = self.clamp_ms, 0
        try:
            return frozen(self)
        finally:
            self.clamp_ms = clamp_ms

    with patch.object(PartitionModel, "frozen", planted):
        yield


@contextmanager
def minute_rounded() -> Iterator[None]:
    """An arrival's minute is the nearest one, not the one that it is in."""
    half_ms = MINUTE_MS // 2
    with patch.object(stretch, "minute_of", lambda arrival_ms: (arrival_ms + half_ms) // MINUTE_MS * MINUTE_MS):
        yield


@contextmanager
def order_forgotten() -> Iterator[None]:
    """An object's lines stay in the order of their positions."""
    with patch.object(stretch, "order", lambda seconds, _scores: list(range(len(seconds)))):
        yield


@contextmanager
def stop_holds_up_others() -> Iterator[None]:
    """Where one partition's records are lost, its process does nothing for its others either, and does not say so."""
    work, park = PartitionRunner._work_until_done, PartitionRunner._park

    async def planted_work(self: PartitionRunner, held: _Held) -> None:
        if getattr(self, "planted", False):
            await held.stop.wait()
        else:
            await work(self, held)

    async def planted_park(self: PartitionRunner, held: _Held, error: PartitionStopped) -> None:
        if error.reason == "position_lost":
            self.planted = True  # type: ignore[attr-defined]
            for other in self._held.values():
                if other is not held and other.task is not None:
                    other.task.cancel()
        await park(self, held, error)

    with patch.multiple(PartitionRunner, _work_until_done=planted_work, _park=planted_park):
        yield


BUGS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "commit before put": commit_before_put,
    "snapshot without its position": snapshot_without_position,
    "newest claim not finished": newest_claim_not_finished,
    "zombie rebuilds its right to write": zombie_rebuilds_its_right,
    "marks not checked": marks_not_checked,
    "claim not adopted": claim_not_adopted,
    "unknown outcome taken for failed": unknown_taken_for_failed,
    "clamp not kept": clamp_not_kept,
    "minute rounded": minute_rounded,
    "order forgotten": order_forgotten,
    "a stop holds up others": stop_holds_up_others,
}
"""All of them, by name."""
