"""Finds where a chain goes on, and finishes what was begun: the work of a sink when it takes a partition.

Invariant: after `resume`, every object of the newest claim is there or said to be lost, the chain belongs to this
stream, and the committed position is where reading goes on. The store is the truth; the committed position counts
only where the newest claim's end is no longer retained and it is.
Event-loop only; one task a partition. A crash anywhere leaves what the next owner finishes in the same way.
"""

import hashlib

import structlog

from cutbank.errors import AnotherStream, ObjectsLost, PositionLost, StateLost, StreamUnavailable
from cutbank.pipeline.sinking.budget import Budget, Holder
from cutbank.pipeline.sinking.chain import Chain
from cutbank.pipeline.sinking.claims import Birth, Claim, DataObject
from cutbank.pipeline.sinking.config import SinkConfig
from cutbank.pipeline.sinking.reading import Reader
from cutbank.pipeline.sinking.stretch import Place, Stretch, held_bytes
from cutbank.records import Position, position_text
from cutbank.transports.base import RECORD_BYTES_MAX, Lease, PartitionInfo, Transport

log = structlog.get_logger(__name__)

EMPTY_READS_MAX = 30
"""Reads without a record, about a second each, before a claim's end that the log does not reach is a passing fault."""


def place_after(claim: Claim) -> Place:
    """The place right after a claim."""
    return Place(claim.end, claim.end, claim.marks_after, claim.minute_ms)


class Resumption:
    """Takes up one chain. `finish` is also for a claim of somebody else's met on the way."""

    def __init__(
        self, *, transport: Transport, chain: Chain, config: SinkConfig, reader: Reader, budget: Budget, holder: Holder
    ) -> None:
        self._transport = transport
        self._chain = chain
        self._config = config
        self._reader = reader
        self._lease: Lease = reader.lease
        self._budget = budget
        self._holder = holder

    async def resume(self) -> Place:
        """Fence, finish the newest claim, and say where to go on; reading is set there.

        Raises AnotherStream, ObjectsLost, PositionLost, StateLost; Fenced; what the store and the transport raise.
        """
        committed = await self._lease.fence()
        birth = await self._birth()
        newest = await self._chain.newest()
        part = await self._described(birth)
        while True:
            if newest is not None:
                await self._same_records(newest, part)
                await self.finish(newest)
            place = self._place(birth, newest, part, committed)
            if place is not None:
                break
            newest = await self._chain.append(self._gap(birth, newest, part))
        if committed != place.reading:
            await self._lease.commit(place.reading)
        self._lease.seek(place.reading)
        log.info("chain taken up", chain=str(self._chain.id), start=place.start, reading=place.reading)
        return place

    async def finish(self, claim: Claim) -> None:
        """See to it that every object of this claim is there, from the records if need be; moves the reading position.

        Raises ObjectsLost, unless `accept_lost` says to go on without; AnotherStream.
        """
        missing = await self._chain.missing(claim)
        if (not missing and claim.objects) or await self._chain.is_lost(claim):
            return
        if not claim.objects:
            await self._chain.give_up(claim, missing=(), why="records past retention before they were read")
            return
        log.info("claim unfinished", chain=str(self._chain.id), start=claim.start, missing=len(missing))
        self._holder.busy = True
        try:
            bodies = await self._rebuilt(claim)
        except PositionLost as error:
            await self._lost(claim, missing, error)
            return
        else:
            if bodies is None:
                raise self._another(f"the records of claim {position_text(claim.start)} are not those it was made of")
            await self._chain.put(claim, bodies)
        finally:
            self._budget.hold(self._holder, 0)
            self._holder.busy = False

    async def _birth(self) -> Birth:
        birth = await self._chain.birth()
        if birth is not None:
            return birth
        if await self._chain.newest() is not None:
            raise StateLost(
                f"{self._chain.id}: there are claims but no birth; restore {self._chain.id.birth_key} "
                "(no lifecycle rule may remove it)"
            )
        partition = self._lease.partition
        start = await self._transport.position_at(partition, self._config.start)
        info = await self._transport.describe(partition.stream)
        # A second cluster may have more partitions: one that is new here must not begin beside another stream's chains.
        first = info.partitions[0].partition
        if first != partition:
            self._of_this_stream(await self._chain.sibling_birth(first.id), info.identity)
        return await self._chain.bear(start=start, identity=info.identity)

    async def _described(self, birth: Birth) -> PartitionInfo:
        partition = self._lease.partition
        info = await self._transport.describe(partition.stream)
        self._of_this_stream(birth, info.identity)
        return next(part for part in info.partitions if part.partition == partition)

    def _of_this_stream(self, birth: Birth | None, identity: str) -> None:
        """Raises AnotherStream where a chain was begun on a stream of another identity."""
        if birth is not None and birth.identity != identity:
            raise self._another(f"it is {identity}, chain {birth.chain} was begun on {birth.identity}")

    async def _same_records(self, claim: Claim, part: PartitionInfo) -> None:
        """Where the claim's first record is still retained, it has to be the one that the claim saw."""
        if claim.end > part.end:
            raise self._another(
                f"it ends at {position_text(part.end)}, before the newest claim does ({position_text(claim.end)})"
            )
        if claim.first is None:
            return
        try:
            batch = await self._transport.read(
                part.partition, claim.first.position, records_max=1, bytes_max=RECORD_BYTES_MAX
            )
        except PositionLost:
            return
        found = hashlib.sha256(batch.values[0]).hexdigest() if batch.values else ""
        if found != claim.first.sha256 or batch.positions[0] != claim.first.position:
            raise self._another(f"its record at {position_text(claim.first.position)} is not the one that a claim saw")

    def _another(self, why: str) -> AnotherStream:
        return AnotherStream(
            f"{self._chain.id}: another stream has taken this name: {why}. Give the new stream another name, "
            "or the sink another store URL or pipeline name"
        )

    def _place(
        self, birth: Birth, newest: Claim | None, part: PartitionInfo, committed: Position | None
    ) -> Place | None:
        """Where to go on; None: nowhere, but the setting says to go on at the oldest record."""
        place = place_after(newest) if newest is not None else Place(birth.start, birth.start, (), 0)
        if place.start > part.end:
            raise self._another(f"it ends at {position_text(part.end)}, before the chain's birth does")
        if place.start >= part.oldest:
            return place
        if committed is not None and max(place.start, part.oldest) <= committed <= part.end:
            log.warning(
                "chain goes on at the committed position", chain=str(self._chain.id), end=place.start, at=committed
            )
            return Place(place.start, committed, place.marks, place.minute_ms)
        if self._config.accept_lost:
            return None
        raise PositionLost(
            f"{self._chain.id}: the chain ends at {position_text(place.start)}, the oldest record retained is "
            f"{position_text(part.oldest)}: what lay between was never sunk. accept_lost=true goes on after the gap, "
            "and records it"
        )

    def _gap(self, birth: Birth, newest: Claim | None, part: PartitionInfo) -> Claim:
        """The claim that says that records are lost unread."""
        place = place_after(newest) if newest is not None else Place(birth.start, birth.start, (), 0)
        chain = self._chain.id
        return Claim(
            pipeline=chain.pipeline,
            stream=chain.stream,
            partition=chain.partition,
            start=place.start,
            end=part.oldest,
            minute_ms=place.minute_ms,
            layout=self._config.layout,
            objects=(),
            first=None,
            marks_before=place.marks,
            marks_after=place.marks,
            spec_hash=self._config.spec_hash,
        )

    async def _rebuilt(self, claim: Claim) -> list[bytes] | None:
        """The bodies of the claim's objects, in its own layout, from its records; None: not these. Raises PositionLost.

        Whatever this sink's settings are: they begin with the next claim.
        """
        assert claim.first is not None, "only a claim with objects is made again"
        wanted = held_bytes(claim.layout, count=claim.records, line_bytes=claim.line_bytes, objects=len(claim.objects))
        await self._reader.unless_stopped(self._budget.room(wanted))
        self._budget.hold(self._holder, wanted)
        stretch = Stretch(
            pipeline=claim.pipeline,
            layout=claim.layout,
            start=claim.start,
            reading=claim.first.position,
            marks=claim.marks_before,
            minute_ms=claim.minute_ms,
            bytes_max=claim.line_bytes,
            records_max=claim.records,
        )
        self._lease.seek(claim.first.position)
        empty = 0
        while stretch.end < claim.end:
            batch = (await self._reader.receive(wait_s=1.0)).before(claim.end)
            empty = 0 if len(batch) else empty + 1
            if empty > EMPTY_READS_MAX:
                raise StreamUnavailable(f"{self._chain.id}: the log does not reach {position_text(claim.end)} yet")
            if await self._reader.take(stretch, batch) < len(batch):
                break  # more, or later, than the claim was made of
        if not stretch.count:
            raise self._another(f"no record of claim {position_text(claim.start)} is in it")
        return await self._reader.bodies_of(stretch, claim)

    async def _lost(self, claim: Claim, missing: list[DataObject], error: PositionLost) -> None:
        names = ", ".join(item.key for item in missing[:3]) + (", …" if len(missing) > 3 else "")
        if not self._config.accept_lost:
            raise ObjectsLost(
                f"{self._chain.id}: objects are missing and their records are past retention: {names}. Restore them, "
                "or accept_lost=true records the loss and goes on"
            ) from error
        log.error("objects given up for lost", chain=str(self._chain.id), missing=names)
        await self._chain.give_up(claim, missing=missing, why="objects missing and records past retention")
