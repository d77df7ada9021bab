"""From a lease to a model that may go live: fence, births, snapshots, replay.

Owns the order of these steps and what is done about each thing that can be missing. Invariant: a model that leaves
here has seen exactly the records before the committed position that was read last, this lease's fence was the newest
then, and its run is the partition's newest; nothing was published on the way.

Births are written before the first output and then everything is read again, so that two that race end up with the
same one. Event-loop only; decoding and scoring of the replay run in the given threads.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import structlog

from cutbank.errors import (
    AlreadyExists,
    AnotherStream,
    ObjectMissing,
    PartitionStopped,
    PositionLost,
    SnapshotUnusable,
    StateLost,
    StreamUnavailable,
)
from cutbank.pipeline.scoring.gauges import LagGauges
from cutbank.pipeline.scoring.model import PartitionModel
from cutbank.pipeline.scoring.scene import Scene
from cutbank.pipeline.scoring.shelf import ModelShelf
from cutbank.pipeline.scoring.snapshots import RUN_MAX, Birth, Run, StreamBirth
from cutbank.pipeline.scoring.state import Inventory, SnapshotEntry, check_newest_run
from cutbank.records import Batch, Partition, Position
from cutbank.transports.base import Lease, Start, StreamInfo

ROUNDS_MAX = 8
"""How often an assignment starts over, because a birth was written or a commit moved under it, before it pauses."""

EMPTY_READS_MAX = 60
"""Reads in a row that bring a replay no further, each as long as wait_s, before that is a passing fault."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that may go live."""

    model: PartitionModel
    committed: Position
    """The committed position, now; equals `model.next`."""
    kept_position: Position | None
    """Where the newest usable snapshot stands, or the run's birth; None: nowhere that is known."""
    unusable: frozenset[str]
    """Keys of snapshots that could not be read on the way."""


class _StartOver(Exception):
    """Something was written or has moved: read everything again."""


class Assignment:
    """One lease's way to a live model."""

    def __init__(self, scene: Scene, shelf: ModelShelf, lease: Lease, stop: asyncio.Event, *, lag: LagGauges) -> None:
        self._scene = scene
        self._lag = lag
        self._shelf = shelf
        self._lease = lease
        self._partition = lease.partition
        self._stop = stop
        self._unusable: set[str] = set()
        self._log = log.bind(partition=str(lease.partition))

    async def take_up(self) -> Ready | None:
        """The model, with the lease fenced and reading from its next position; None if asked to stop on the way.

        Raises Fenced, PartitionStopped and below, StreamMissing, StoreRefused, and what may be tried again:
        StreamUnavailable, OutcomeUnknown, StoreUnavailable.
        """
        for _ in range(ROUNDS_MAX):
            try:
                return await self._once()
            except _StartOver as why:
                self._log.info("assignment starts over", why=str(why))
        raise StreamUnavailable(f"{self._partition}: its state kept changing while it was read")

    async def run_anew(self, why: str) -> None:
        """Begin a new run from the oldest record retained: what was lost stays lost. `take_up` follows.

        Only with on_lost_state=new_run; else raises PositionLost.
        """
        if self._scene.config.on_lost_state != "new_run":
            raise PositionLost(f"{why}; {_WAY_OUT}")
        inventory = await self._scene.state.inventory(self._partition)
        info = await self._scene.transport.describe(self._partition.stream)
        try:
            await self._begin_from_oldest(info, inventory, why)
        except _StartOver:
            return

    async def _once(self) -> Ready | None:
        scene, lease = self._scene, self._lease
        # The fence comes first: what is read before it, an earlier owner may still change.
        committed = await lease.fence()
        if committed is not None:
            # Nothing is read from there yet; but from now on the lag is told, whatever comes in between.
            lease.seek(committed)
            self._lag.taken_up()
        info = await scene.transport.describe(self._partition.stream)
        inventory = await scene.state.inventory(self._partition)
        await self._check_stream(info, committed, inventory)
        if not inventory.runs:
            await self._first_birth(info, committed, inventory)
        model, position, from_shelf = await self._model(info, committed, inventory)
        await self._check_reach(info, position, model.run)
        kept_position = None if from_shelf else model.next
        if model.next < position and not await self._replay(model, position, info, inventory):
            return None
        if await lease.committed() != committed:
            raise _StartOver("the committed position moved")
        await check_newest_run(scene.state, model.run)
        if committed is None or committed < position:
            await lease.commit(position)
        lease.seek(position)
        self._lag.taken_up()
        if not _begins_after(info, self._partition, position):
            await self._forget_futures(inventory, model.run.number, committed)
        # Else whoever set that position may set it back: what lies beyond is all that is left of the model.
        return Ready(model=model, committed=position, kept_position=kept_position, unusable=frozenset(self._unusable))

    async def _check_stream(self, info: StreamInfo, committed: Position | None, inventory: Inventory) -> None:
        """The stream must be the one that the pipeline began with. Writes its birth the first time."""
        state = self._scene.state
        unreadable = ""
        try:
            birth = await state.stream_birth()
        except SnapshotUnusable as error:
            birth, unreadable = None, str(error)
        if birth is None:
            start = self._scene.config.first_start()
            if unreadable or committed is not None or inventory.runs:
                why = unreadable or f"{state.url} has no birth of stream {info.name}, which was scored before"
                self._lost_unless_allowed(why)
                start = Start("earliest")
            if unreadable:
                await state.discard_stream_birth()
            birth = await self._create_stream_birth(info, start)
        self._check_identity(info, birth.identity)
        self._check_end(info, committed)

    def _check_end(self, info: StreamInfo, committed: Position | None) -> None:
        """A log that ends before what was committed has been cut: what comes next would be taken for known."""
        for bounds in info.partitions:
            if bounds.partition == self._partition and committed is not None and bounds.end < committed:
                raise PartitionStopped(
                    f"{self._partition} ends at {bounds.end}, before its committed position {committed}: "
                    "the log was cut; bring it back, or give the pipeline another name in the spec"
                )

    async def _check_reach(self, info: StreamInfo, position: Position, run: Run) -> None:
        """A model that knows more than the log holds: with no committed position nothing else tells of a cut log."""
        if not _ends_before(info, self._partition, position):
            return
        # The description is older than what was read since: another process may have begun at a newer end.
        if _ends_before(await self._scene.transport.describe(info.name), self._partition, position):
            raise PartitionStopped(
                f"{self._partition} ends before {position}, where the birth and snapshots of run {run.number} in "
                f"{self._scene.state.url} go on: the log was cut; bring it back, or give the pipeline another name in "
                "the spec"
            )

    def _check_identity(self, info: StreamInfo, identity: str) -> None:
        if identity != info.identity:
            raise AnotherStream(
                f"stream {info.name!r} is not the one that pipeline {self._scene.spec.name!r} has scored: it was made "
                f"anew ({info.identity}, before {identity}); give the pipeline another name in the spec, or bring the "
                "old stream back"
            )

    async def _create_stream_birth(self, info: StreamInfo, start: Start) -> StreamBirth:
        scene = self._scene
        starts = {}
        for bounds in info.partitions:
            starts[bounds.partition.id] = await scene.transport.position_at(bounds.partition, start)
        birth = StreamBirth(pipeline=scene.spec.name, stream=info.name, identity=info.identity, starts=starts)
        try:
            await scene.state.create_stream_birth(birth)
        except AlreadyExists:
            raise _StartOver("somebody else wrote the stream's birth, its starts count") from None
        self._log.info("stream born", stream=info.name, start=start.at, partitions=len(starts))
        return birth

    async def _first_birth(self, info: StreamInfo, committed: Position | None, inventory: Inventory) -> NoReturn:
        """Begin the first run: where the stream's birth says; a partition found later starts at its beginning."""
        if committed is not None:
            why = f"{self._scene.state.url} has no birth of {self._partition}, which was scored up to {committed}"
            await self._begin_from_oldest(info, inventory, why)
        birth = await self._scene.state.stream_birth()
        if birth is None:
            raise _StartOver("the stream's birth has gone")
        start = birth.starts.get(self._partition.id)
        if start is None:
            start = await self._scene.transport.position_at(self._partition, Start("earliest"))
            self._log.warning(
                "partition was added: its model begins empty, at its oldest record",
                start=start,
                meaning="records whose keys have moved here are scored without what their old partitions had learned",
            )
        await self._begin(info, number=1, start=start)

    async def _begin(self, info: StreamInfo, *, number: int, start: Position) -> NoReturn:
        """Write a run's birth, then start over: whoever wrote it, it counts."""
        scene = self._scene
        await self._lease.committed()  # raises Fenced if we own nothing any more: then nothing is ours to begin
        run = Run(
            pipeline=scene.spec.name,
            partition=self._partition,
            identity=info.identity,
            number=number,
            spec_hash=scene.spec_hash,
        )
        try:
            await scene.state.create_birth(Birth(run=run, start=start))
        except AlreadyExists:
            raise _StartOver("somebody else wrote the birth, its start counts") from None
        scene.metrics.add("cutbank_runs_started_total")
        self._log.info("run born", run=number, start=start)
        raise _StartOver("a run was born")

    async def _begin_from_oldest(self, info: StreamInfo, inventory: Inventory, why: str) -> NoReturn:
        """The user allowed it: an empty model that learns what is retained; what was published before stays."""
        self._lost_unless_allowed(why)
        oldest = await self._scene.transport.position_at(self._partition, Start("earliest"))
        # With no birth left nobody knows the last number, and sinks drop what is of an older run: minutes since the
        # epoch exceed every number that was counted up.
        number = inventory.newest_run + 1 if inventory.runs else self._scene.clock.now_ms() // 60_000
        if number > RUN_MAX:
            raise StateLost(f"{self._partition}: run numbers end at {RUN_MAX}")
        self._log.error("state lost: a new run begins from the oldest record retained", run=number, why=why)
        await self._begin(info, number=number, start=oldest)

    def _lost_unless_allowed(self, why: str) -> None:
        if self._scene.config.on_lost_state != "new_run":
            raise StateLost(f"{why}; {_WAY_OUT}")

    async def _model(
        self, info: StreamInfo, committed: Position | None, inventory: Inventory
    ) -> tuple[PartitionModel, Position, bool]:
        """The newest model at or before the committed position, where to bring it to, and if it was in memory."""
        number = inventory.newest_run
        birth = await self._birth(number)
        if birth is not None:
            self._check_identity(info, birth.run.identity)
            if birth.run.spec_hash != self._scene.spec_hash:
                await self._new_spec(info, committed, inventory, birth.start)
        kept = self._shelf.take(self._partition)
        if kept is not None and kept.run.number == number and kept.next == committed:
            self._log.info("model still in memory", run=number, next=kept.next)
            return kept, kept.next, True
        model = await self._thawed(committed, inventory)
        if model is None:
            if birth is None:
                why = f"neither the birth nor any snapshot of {self._partition}, run {number}, can be read"
                await self._begin_from_oldest(info, inventory, f"{why} in {self._scene.state.url}")
            model = PartitionModel.born(self._scene.spec, birth, self._scene.detectors, emit=self._scene.config.emit)
        elif birth is None:
            self._check_identity(info, model.run.identity)
            if model.run.spec_hash != self._scene.spec_hash:
                await self._new_spec(info, committed, inventory, model.next)
        position = model.next if committed is None else max(committed, model.next)
        return model, position, False

    async def _birth(self, number: int) -> Birth | None:
        try:
            return await self._scene.state.birth(self._partition, number)
        except SnapshotUnusable as error:
            self._log.warning("birth unusable", why=str(error))
            self._scene.metrics.add("cutbank_snapshots_unusable_total")
            return None

    async def _new_spec(
        self, info: StreamInfo, committed: Position | None, inventory: Inventory, start: Position
    ) -> NoReturn:
        """Another spec: a new run with an empty model, at the committed position."""
        if committed is None:
            # Where the last run got to is unknown: from anywhere earlier its anomalies would come a second time.
            why = f"the committed position of {self._partition} is gone and the spec has changed since the last run"
            await self._begin_from_oldest(info, inventory, f"{why}; start once with the spec as it was")
        number = inventory.newest_run + 1
        self._log.warning("the spec has changed: a new run begins with an empty model", run=number, start=committed)
        await self._begin(info, number=number, start=max(committed, start))

    async def _thawed(self, committed: Position | None, inventory: Inventory) -> PartitionModel | None:
        """The model in the newest good snapshot at or before the committed position."""
        for entry in inventory.of_run(inventory.newest_run):
            if committed is not None and entry.next > committed:
                continue
            try:
                return await self._thaw(entry)
            except (SnapshotUnusable, ObjectMissing) as error:
                self._log.warning("snapshot unusable: the one before it is tried", key=entry.key, why=str(error))
                self._scene.metrics.add("cutbank_snapshots_unusable_total")
                self._unusable.add(entry.key)
        return None

    async def _thaw(self, entry: SnapshotEntry) -> PartitionModel:
        scene = self._scene
        snapshot = await scene.state.snapshot(self._partition, entry)
        return await scene.in_thread(
            lambda: PartitionModel.thawed(scene.spec, snapshot, scene.detectors, emit=scene.config.emit)
        )

    async def _replay(self, model: PartitionModel, position: Position, info: StreamInfo, inventory: Inventory) -> bool:
        """Learn the records before `position` again, without output; False if asked to stop."""
        scene, first = self._scene, model.next
        self._log.info("replaying", run=model.run.number, start=first, end=position)
        self._lease.seek(first)
        self._lag.learning(first, position)
        try:
            batch = await self._read_on(first, position)
            while batch is not None:
                learning = asyncio.ensure_future(scene.in_thread(partial(model.replay, batch.before(position))))
                try:
                    # The next records come while these are learnt, as they do when live.
                    following = await self._read_on(batch.end, position)
                    done = await learning
                finally:
                    # Only left undone by an error or cancellation: then this model is never used.
                    learning.cancel()
                    learning.add_done_callback(lambda left: left.cancelled() or left.exception())
                scene.metrics.add("cutbank_replayed_records_total", done.records)
                batch = following
        except PositionLost as error:
            why = f"records from {first} on are needed to rebuild the model of {self._partition} and are gone ({error})"
            await self._begin_from_oldest(info, inventory, why)
        if model.next < position:
            return False
        self._log.info("replayed", run=model.run.number, next=model.next)
        return True

    async def _read_on(self, reached: Position, position: Position) -> Batch | None:
        """The records that follow, as long as `position` is not reached; None where it is, or if asked to stop."""
        wait_s = self._scene.config.wait_s
        for _ in range(EMPTY_READS_MAX + 1):
            if reached >= position or self._stop.is_set():
                return None
            records_max, bytes_max = self._scene.rooms.room()
            batch = await self._lease.receive(records_max=records_max, bytes_max=bytes_max, wait_s=wait_s)
            if batch.end > reached:
                self._lag.learning(batch.end, position)
                self._lag.seen(batch.before(position))
                return batch
        raise StreamUnavailable(f"{self._partition}: the log does not reach {position} yet")

    async def _forget_futures(self, inventory: Inventory, number: int, committed: Position | None) -> None:
        """Delete snapshots of this run from beyond the committed position, which was read twice since they were listed.

        They were taken after a commit that the log has lost since, maybe with the records, so others may follow.
        """
        if committed is None:
            return
        for entry in inventory.of_run(number):
            if entry.next > committed:
                self._log.warning("snapshot from beyond the committed position deleted", key=entry.key)
                await self._scene.state.discard(entry)


_WAY_OUT = "restore it, or set on_lost_state=new_run to begin a new run from the oldest record retained"


def _ends_before(info: StreamInfo, partition: Partition, position: Position) -> bool:
    """Whether the next record of the partition would get a position below this one."""
    return any(bounds.partition == partition and bounds.end < position for bounds in info.partitions)


def _begins_after(info: StreamInfo, partition: Partition, position: Position) -> bool:
    """Whether the record at this position is past retention."""
    return any(bounds.partition == partition and position < bounds.oldest for bounds in info.partitions)
