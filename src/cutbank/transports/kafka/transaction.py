"""One transactional id: fence, then transactions one after another. Owns the producer's id, epoch and sequences.

A transaction is written out step by step, without aiokafka's own producer: that one sends EndTxn again by itself in the
same epoch, has no deadline for a commit, and commits although a send failed.

Invariants: no transaction begins while a request of an earlier one may still be under way, be it one that was asked
again and answered then (a new epoch first, which the broker gives only to the newest owner); nothing is committed
unless every batch and the position were acknowledged.
Event-loop only; one call at a time, and none of them may be cancelled: whoever calls shields them.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import structlog
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from cutbank.errors import Fenced, MessageTooLarge, OutcomeUnknown, StreamUnavailable
from cutbank.records import Position
from cutbank.transports.kafka import batches, wire
from cutbank.transports.kafka.cluster import Cluster, Patience, quietly
from cutbank.transports.kafka.codes import (
    FENCED,
    LEADER_BUSY,
    MESSAGE_BYTES,
    TOO_LARGE,
    Code,
    code_name,
    missing,
    raise_for,
)

log = structlog.get_logger(__name__)

GROUP: Literal[0] = 0
TRANSACTION: Literal[1] = 1
"""Kinds of coordinators, as FindCoordinator numbers them."""

ALL_REPLICAS = -1

OFF_LOOP_RECORDS = 500
"""A batch of at least so many records is built and compressed off the event loop."""

Records = Mapping[tuple[str, int], Sequence[tuple[bytes | None, bytes]]]
"""(key, value) pairs, in order, by stream and partition number."""


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """A position to commit with the records."""

    group: str
    stream: str
    number: int
    next_position: Position


def _code(answer: Any) -> int:
    return int(answer.error_code)


def _worst(answer: Any) -> int:
    """The code that tells most of an answer by topic and partition: not that of those for which another is to blame."""
    codes = {code for _, parts in answer.errors for _, code in parts if code}
    blameless = Code.OPERATION_NOT_ATTEMPTED
    return min(codes - {blameless}, default=blameless if codes else Code.NONE)


def _denied(answer: Any) -> str:
    """The topics of such an answer that this client may not use."""
    code = Code.TOPIC_AUTHORIZATION_FAILED
    return ", ".join(sorted({repr(topic) for topic, parts in answer.errors if any(code == c for _, c in parts)}))


def _produced(answer: Any) -> int:
    ((_, (part,)),) = answer.topics
    return int(part[1])


async def all_of(*calls: Coroutine[Any, Any, None]) -> None:
    """Run all to their ends, then raise what tells most: Fenced, else the first error."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if failures:
        raise min(failures, key=lambda failure: not isinstance(failure, Fenced))


class Transactions:
    """The transactions of one transactional id, for one owner."""

    def __init__(self, cluster: Cluster, transactional_id: str) -> None:
        self._cluster = cluster
        self._id = transactional_id
        self.line = cluster.new_line("transaction")
        """Where the steps of a transaction go; their order there is the order of the calls."""
        self._sends = cluster.new_line("produce")
        self._producer = wire.NO_PRODUCER
        self._sequences: dict[tuple[str, int], int] = {}
        self._too_large: set[str] = set()
        """Streams that have refused a batch for its size."""
        self._dirty = False
        """A request of this epoch may still be under way, or a transaction be open."""
        self._unknown = False
        """Whether the last transaction was committed is not known."""
        self._fencing = False
        """A new epoch was asked for, and perhaps given: the answer has not come."""

    @property
    def begun(self) -> bool:
        """Whether there was a fence."""
        return self._producer != wire.NO_PRODUCER

    def close(self) -> None:
        """Give the connections up."""
        self._cluster.drop(self.line)
        self._cluster.drop(self._sends)

    async def fence(self) -> None:
        """Cut off every other producer of this id, abort what is open, wait until what was committed is complete.

        The second and later fences succeed only if nobody else has fenced since. Raises Fenced, StreamUnavailable.
        """
        patience = self._cluster.patience()
        if self.begun and self._dirty:
            code = await self._end(patience, commit=False, again=True)
            # Where the new epoch was given, the old one may abort nothing. Asking again tells: the broker repeats its
            # answer as long as nobody else has begun an epoch since (KIP-360).
            if code not in {Code.NONE, Code.INVALID_TXN_STATE} and not (self._fencing and code in FENCED):
                raise_for(code, self._id)
        timeout_ms = self._cluster.settings.transaction_timeout_ms
        request = wire.InitProducerRequest(self._id, timeout_ms, self._producer)
        self._fencing = self._dirty = True
        answer, code = await self._ask(request, patience)
        if code:
            raise_for(code, self._id)
        self._producer = (answer.producer_id, answer.producer_epoch)
        self._sequences.clear()
        self._dirty = self._unknown = self._fencing = False

    async def commit(self, records: Records, position: GroupPosition | None) -> None:
        """One transaction, with our own deadline.

        Raises Fenced, MessageTooLarge, StreamMissing, StreamUnavailable (all: nothing done), OutcomeUnknown.
        """
        assert self.begun, "fence before a transaction"
        if self._unknown:
            raise OutcomeUnknown(f"{self._id}: the transaction before this one may have been committed; fence first")
        if not records and position is None:
            return
        patience = self._cluster.patience(self._cluster.settings.commit_timeout_ms)
        if self._dirty:
            await self.fence()
        self._dirty = True
        try:
            await all_of(self._add_and_send(records, patience), self._add_and_place(position, patience))
        except MessageTooLarge:
            # Nobody may come back to this: left open it would hold readers up until its time-out.
            await quietly(self.fence())
            raise
        try:
            code = await self._end(patience, commit=True, again=False)
        except StreamUnavailable as error:
            # Not NoAnswer alone: a coordinator that could not replicate the commit in time sends us elsewhere, and the
            # commit may count there.
            self._unknown = True
            # What is still under way on this connection would hold up the fence behind it.
            self._cluster.drop(self.line)
            raise OutcomeUnknown(f"{self._id}: the commit may or may not be done: {error}") from None
        if code in FENCED:
            raise_for(code, self._id)
        if code:
            self._unknown = True
            raise OutcomeUnknown(f"{self._id}: the broker answers the commit with {code_name(code)}")
        await quietly(self._complete(clean=not patience.unanswered))

    async def _complete(self, *, clean: bool) -> None:
        """Wait until readers see the commit: the broker answers a commit that is repeated when its markers are written.

        What fails here changes nothing; then the next transaction begins with a new epoch. So it does unless `clean`:
        a request whose answer was lost may arrive later, and a position that is late would undo a newer one.
        """
        # Markers take a little longer than an answer: asked at once, the broker only says that they are under way.
        await self._cluster.clock.sleep(self._cluster.settings.retry_ms / 1000)
        if not await self._end(self._cluster.patience(), commit=True, again=False):
            self._dirty = not clean

    async def _ask(self, request: Any, patience: Patience, *, again: bool = True) -> tuple[Any, int]:
        return await self._cluster.ask_coordinator(
            TRANSACTION, self._id, request, code_of=_code, patience=patience, line=self.line, again=again
        )

    async def _end(self, patience: Patience, *, commit: bool, again: bool) -> int:
        request = EndTxnRequest(self._id, *self._producer, commit)
        return (await self._ask(request, patience, again=again))[1]

    async def _add_and_send(self, records: Records, patience: Patience) -> None:
        """Take the partitions into the transaction, then send each its records."""
        if not records:
            return
        topics: dict[str, list[int]] = {}
        for stream, number in records:
            topics.setdefault(self._cluster.topic_name(stream), []).append(number)
        request = AddPartitionsToTxnRequest(self._id, *self._producer, list(topics.items()))
        while True:
            answer, code = await self._cluster.ask_coordinator(
                TRANSACTION, self._id, request, code_of=_worst, patience=patience, line=self.line
            )
            if code != Code.UNKNOWN_TOPIC_OR_PARTITION:
                break
            # The coordinator may not have heard of a new topic yet.
            there = await self._cluster.look(sorted({stream for stream, _ in records}))
            for stream, _ in records:
                if stream not in there:
                    raise missing(stream)
            await patience.pause(StreamUnavailable(f"{self._id}: {code_name(code)}"))
        if code == Code.TOPIC_AUTHORIZATION_FAILED:
            raise_for(code, f"topic {_denied(answer)}", needs="Write")
        if code:
            raise_for(code, self._id)
        await all_of(*(self._send(*place, part, patience) for place, part in records.items()))

    async def _send(
        self, stream: str, number: int, records: Sequence[tuple[bytes | None, bytes]], patience: Patience
    ) -> None:
        """One partition's batches, each acknowledged before the next."""
        for run in batches.cut(records, bytes_max=self._cluster.settings.batch_bytes_max):
            await self._send_batch(stream, number, run, patience)

    async def _send_batch(
        self, stream: str, number: int, run: Sequence[tuple[bytes | None, bytes]], patience: Patience
    ) -> None:
        """One batch; halved, and each half again, as long as the topic refuses it as too large."""
        cluster, settings = self._cluster, self._cluster.settings
        sequence = self._sequences.get((stream, number), 0)
        build = partial(
            batches.build,
            run,
            codec=batches.CODECS[settings.compression],
            producer=self._producer,
            sequence=sequence,
            now_ms=cluster.clock.now_ms(),
        )
        # A small batch takes less time than the way to a thread and back.
        body = build() if len(run) < OFF_LOOP_RECORDS else await asyncio.to_thread(build)
        request = ProduceRequest(
            transactional_id=self._id,
            required_acks=ALL_REPLICAS,
            timeout=settings.commit_timeout_ms,
            topics=[(cluster.topic_name(stream), [(number, body)])],
        )
        _, code = await cluster.ask_leader(
            stream,
            number,
            request,
            code_of=_produced,
            patience=patience,
            line=self._sends,
            extra=LEADER_BUSY,
        )
        if code in TOO_LARGE and len(run) > 1:
            self._say_smaller(stream, len(body))
            half = len(run) // 2
            # The broker has taken nothing of it, so the sequence goes on where it was.
            await self._send_batch(stream, number, run[:half], patience)
            await self._send_batch(stream, number, run[half:], patience)
            return
        if code not in {Code.NONE, Code.DUPLICATE_SEQUENCE_NUMBER}:
            raise_for(code, f"{stream}/{number}", stream=stream)
        self._sequences[(stream, number)] = batches.next_sequence(sequence, len(run))

    def _say_smaller(self, stream: str, size: int) -> None:
        """Once a stream: each such send costs as many more."""
        if stream not in self._too_large:
            self._too_large.add(stream)
            log.warning(
                "the topic takes no batch of this size: it is sent in parts; raise its max.message.bytes",
                bytes_enough=MESSAGE_BYTES,
                topic=self._cluster.topic_name(stream),
                batch_bytes=size,
            )

    async def _add_and_place(self, position: GroupPosition | None, patience: Patience) -> None:
        """Take the group into the transaction, then its position."""
        if position is None:
            return
        cluster = self._cluster
        _, code = await self._ask(AddOffsetsToTxnRequest(self._id, *self._producer, position.group), patience)
        if code:
            raise_for(code, self._id)
        topic = cluster.topic_name(position.stream)
        request = TxnOffsetCommitRequest(
            self._id, position.group, *self._producer, [(topic, [(position.number, position.next_position, "")])]
        )
        while True:
            _, code = await cluster.ask_coordinator(
                GROUP, position.group, request, code_of=_worst, patience=patience, line=self.line
            )
            if code not in {Code.UNKNOWN_TOPIC_OR_PARTITION, Code.REQUEST_TIMED_OUT}:
                break
            await cluster.topic(position.stream, fresh=True)
            await patience.pause(StreamUnavailable(f"group {position.group}: {code_name(code)}"))
        if code == Code.TOPIC_AUTHORIZATION_FAILED:
            raise_for(code, f"topic {topic!r}", needs="Read")
        if code:
            raise_for(code, f"group {position.group}")


async def committed(
    cluster: Cluster, group: str, stream: str, number: int, *, line: str, stable: bool = True
) -> Position | None:
    """A group's committed position. Raises StreamUnavailable, UsageError.

    `stable`: read when no commit is in flight, for owners; else without waiting, so it may be about to change.
    """

    def code_of(answer: Any) -> int:
        return int(answer.error_code) or next((part[4] for _, parts, _ in answer.topics for part in parts), Code.NONE)

    request = wire.CommittedRequest(group, cluster.topic_name(stream), number, stable=stable)
    answer, code = await cluster.ask_coordinator(
        GROUP, group, request, code_of=code_of, patience=cluster.patience(), line=line
    )
    if code:
        raise_for(code, f"committed position of group {group}", stream=stream)
    offset = next((part[1] for _, parts, _ in answer.topics for part in parts), -1)
    return None if offset < 0 else Position(offset)
