"""What one transactional id makes of answers that are lost, or that say less than they seem to.

The coordinator here keeps epochs as Kafka's does (TransactionCoordinator, KIP-360); nothing is sent to partitions.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cutbank.errors import Fenced, OutcomeUnknown, StreamUnavailable
from cutbank.records import Position
from cutbank.testing import ManualClock
from cutbank.transports.kafka.codes import Code
from cutbank.transports.kafka.transaction import GroupPosition, Transactions
from kafka_answers import Answers, cluster_of

PRODUCER = 7
NONE = -1
POSITION = GroupPosition("g", "s", 0, Position(5))


class Coordinator:
    """One transactional id."""

    def __init__(self, answers: Answers) -> None:
        self.epoch, self.last = NONE, NONE
        self.open = False
        self.committed = 0
        self.lose_epochs = False
        """Epochs are given, but nobody hears of it."""
        self.end_code: int = Code.NONE
        """What a commit that was appended is answered with."""
        ok = SimpleNamespace(error_code=0, errors=[("s", [(0, 0)])])
        answers.set("InitProducer", self._init)
        answers.set("EndTxn", self._end)
        answers.set("AddOffsetsToTxn", self._add)
        answers.set("TxnOffsetCommit", lambda _: ok)

    def taken_over(self) -> None:
        """Another owner begins an epoch, knowing of none before."""
        self.epoch, self.last, self.open = self.epoch + 1, NONE, False

    async def _init(self, request: Any) -> Any:
        _, _, producer, epoch = request._fields[:4]
        if producer != NONE and epoch not in (self.epoch, self.last):
            return SimpleNamespace(error_code=int(Code.PRODUCER_FENCED))
        if producer == NONE:
            self.taken_over()
        elif epoch == self.epoch:
            self.epoch, self.last, self.open = self.epoch + 1, self.epoch, False
        if self.lose_epochs:
            raise OSError("the connection was cut")
        return SimpleNamespace(error_code=0, producer_id=PRODUCER, producer_epoch=self.epoch)

    def _add(self, request: Any) -> Any:
        self.open = True
        return SimpleNamespace(error_code=0)

    def _end(self, request: Any) -> Any:
        if request._producer_epoch != self.epoch:
            return SimpleNamespace(error_code=int(Code.PRODUCER_FENCED))
        if not self.open and not request._transaction_result:
            return SimpleNamespace(error_code=int(Code.INVALID_TXN_STATE))
        self.committed += self.open and request._transaction_result
        self.open = False
        return SimpleNamespace(error_code=self.end_code)


class Case:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.answers = Answers("s")
        self.coordinator = Coordinator(self.answers)
        self.transactions = Transactions(cluster_of(self.answers, clock=self.clock), "g/s/0")

    async def fence(self) -> None:
        await self._until_done(self.transactions.fence())

    async def commit(self) -> None:
        await self._until_done(self.transactions.commit({}, POSITION))

    async def _until_done(self, call: Any) -> None:
        task = asyncio.ensure_future(call)
        while not task.done():
            await self.clock.advance(0.1)
        await task


@pytest.mark.parametrize("code", [Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR])
async def test_a_commit_that_was_sent_and_sent_elsewhere_may_be_done(code: Code) -> None:
    case = Case()
    await case.fence()
    case.coordinator.end_code = code
    with pytest.raises(OutcomeUnknown, match="may or may not be done"):
        await case.commit()
    assert case.coordinator.committed == 1
    with pytest.raises(OutcomeUnknown, match="fence first"):
        await case.commit()
    case.coordinator.end_code = Code.NONE
    await case.fence()
    await case.commit()
    assert case.coordinator.committed == 2


@pytest.mark.parametrize("in_a_transaction", [False, True])
async def test_a_fence_whose_answer_was_lost_is_no_reason_to_give_up(*, in_a_transaction: bool) -> None:
    case = Case()
    await case.fence()
    if in_a_transaction:
        case.coordinator.end_code = Code.NOT_COORDINATOR
        with pytest.raises(OutcomeUnknown):
            await case.commit()
        case.coordinator.end_code = Code.NONE
    case.coordinator.lose_epochs = True
    with pytest.raises(StreamUnavailable):
        await case.fence()
    assert case.coordinator.epoch == 1, "given, and not heard of"
    case.coordinator.lose_epochs = False
    await case.fence()
    await case.commit()
    assert case.coordinator.committed == 1 + in_a_transaction


async def test_a_commit_after_a_fence_whose_answer_was_lost_begins_with_another() -> None:
    case = Case()
    await case.fence()
    case.coordinator.lose_epochs = True
    with pytest.raises(StreamUnavailable):
        await case.fence()
    case.coordinator.lose_epochs = False
    await case.commit()
    assert case.coordinator.committed == 1


@pytest.mark.parametrize("lost", [False, True])
async def test_somebody_else_who_began_an_epoch_keeps_it(*, lost: bool) -> None:
    case = Case()
    await case.fence()
    await case.commit()
    if lost:
        case.coordinator.lose_epochs = True
        with pytest.raises(StreamUnavailable):
            await case.fence()
        case.coordinator.lose_epochs = False
    case.coordinator.taken_over()
    epoch = case.coordinator.epoch
    with pytest.raises(Fenced):
        await case.fence()
    assert case.coordinator.epoch == epoch
