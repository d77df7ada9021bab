"""Reading: a batch that came is never lost to an interruption; broker time never goes back."""

import asyncio
import random
from typing import Any

import pytest

from cutbank.errors import PositionLost, StreamUnavailable
from cutbank.pipeline.sinking.budget import Budget
from cutbank.pipeline.sinking.patience import Interrupted
from cutbank.pipeline.sinking.reading import RECEIVE, Reader
from cutbank.records import Batch, Partition, Position
from cutbank.testing.clock import ManualClock
from sinking_world import CHAIN, FIRST_MINUTE_MS, STREAM, Counted, anomaly


def batch(*arrivals_ms: int) -> Batch:
    count = len(arrivals_ms)
    return Batch(
        partition=Partition(STREAM, "0"),
        start=Position(0),
        end=Position(count),
        positions=[Position(n) for n in range(count)],
        arrivals_ms=arrivals_ms,
        keys=[None] * count,
        values=[anomaly(n) for n in range(count)],
    )


class Log:
    """The part of a lease that reads, with a behaviour that no real log can be made to show on demand."""

    def __init__(self, *answers: Batch | Exception, stubborn: bool = False) -> None:
        self.answers = list(answers)
        self.stubborn = stubborn
        self.asked = asyncio.Event()

    async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        answer = self.answers.pop(0)
        if self.stubborn:
            self.asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return batch(FIRST_MINUTE_MS)  # it was on its way already: the reading position has moved
        if isinstance(answer, Exception):
            raise answer
        return answer


def reader(
    log: Log, clock: ManualClock, *, stop: asyncio.Event | None = None, metrics: Counted | None = None
) -> Reader:
    lease: Any = log
    return Reader(
        lease,
        chain=CHAIN,
        stop=stop or asyncio.Event(),
        budget=Budget(bytes_max=1 << 20),
        spec_hash=None,
        clock=clock,
        metrics=metrics or Counted(),
        rng=random.Random(1),
    )


@pytest.mark.parametrize("which", ["stop", "squeezed"])
async def test_a_batch_that_came_all_the_same_is_not_lost_to_an_interruption(which: str) -> None:
    stop, squeezed = asyncio.Event(), asyncio.Event()
    log = Log(batch(), stubborn=True)
    receiving = asyncio.ensure_future(reader(log, ManualClock(), stop=stop).receive(squeezed, wait_s=1.0))
    await log.asked.wait()
    (stop if which == "stop" else squeezed).set()
    assert len(await receiving) == 1


async def test_an_interruption_before_any_batch_is_told_as_one() -> None:
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(Interrupted):
        await reader(Log(batch(FIRST_MINUTE_MS)), ManualClock(), stop=stop).unless_stopped(asyncio.Event().wait())


async def test_passing_faults_are_tried_again_so_often_and_losses_at_once() -> None:
    clock, metrics = ManualClock(), Counted()
    passing = StreamUnavailable("busy")
    receiving = asyncio.ensure_future(
        reader(Log(passing, passing, batch(FIRST_MINUTE_MS)), clock, metrics=metrics).receive(wait_s=1.0)
    )
    await clock.advance(60)
    assert len(await receiving) == 1
    assert metrics.counts["cutbank_retries_total receive"] == 2
    assert RECEIVE.attempts_max is not None
    receiving = asyncio.ensure_future(reader(Log(*[passing] * 99), clock).receive(wait_s=1.0))
    await clock.advance(600)
    with pytest.raises(StreamUnavailable):
        await receiving
    with pytest.raises(PositionLost):
        await reader(Log(PositionLost("gone")), clock).receive(wait_s=1.0)


async def test_broker_time_is_the_newest_arrival_and_the_time_since_and_never_goes_back() -> None:
    clock = ManualClock()
    log = Log(
        batch(FIRST_MINUTE_MS, FIRST_MINUTE_MS + 500), batch(FIRST_MINUTE_MS - 3_600_000), batch(), batch(1 << 62)
    )
    reading = reader(log, clock)
    await reading.receive(wait_s=1.0)
    assert reading.broker_ms() == FIRST_MINUTE_MS + 500
    clock.jump_wall(10**9)  # this machine's clock is nobody's
    await clock.advance(10)
    assert reading.broker_ms() == FIRST_MINUTE_MS + 10_500
    await reading.receive(wait_s=1.0)
    assert reading.broker_ms() == FIRST_MINUTE_MS + 10_500
    await clock.advance(1)
    await reading.receive(wait_s=1.0)
    assert reading.broker_ms() == FIRST_MINUTE_MS + 11_500
    await reading.receive(wait_s=1.0)
    assert reading.broker_ms() == 253_402_300_799_999, "nonsense is cut to the last day that has a date"
