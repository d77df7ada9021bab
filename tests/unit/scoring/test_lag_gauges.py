"""The lag gauges of a live partition: what is in hand counts, and time passes though nothing else does."""

from cutbank.pipeline.scoring.gauges import LagGauges
from cutbank.records import Batch, Partition, Position
from cutbank.testing import ManualClock
from cutbank.testing.clock import START_MS
from scoring_stage import Recorder

P0 = Partition("trades", "0")


def batch(first: int, end: int, *, arrival_ms: int = START_MS) -> Batch:
    return Batch(
        partition=P0,
        start=Position(first),
        end=Position(end),
        positions=[Position(number) for number in range(first, end)],
        arrivals_ms=[arrival_ms] * (end - first),
        keys=[None] * (end - first),
        values=[b""] * (end - first),
    )


class Case:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.metrics = Recorder()
        self.lag = LagGauges(P0, clock=self.clock, metrics=self.metrics)

    def told(self) -> tuple[float, float]:
        self.lag.tell()
        return self.metrics.gauges["cutbank_lag_records"], self.metrics.gauges["cutbank_lag_seconds"]


async def test_without_anything_it_is_nothing() -> None:
    case = Case()
    await case.clock.advance(100.0)
    assert case.told() == (0, 0.0)


async def test_what_is_in_hand_counts_until_it_is_published() -> None:
    case = Case()
    case.lag.received(batch(0, 3))
    case.lag.received(batch(3, 8, arrival_ms=START_MS + 2_000))
    case.lag.unread(10)
    await case.clock.advance(5.0)
    assert case.told() == (18, 5.0)
    case.lag.published(Position(3))
    assert case.told() == (15, 3.0)
    await case.clock.advance(60.0)
    assert case.told() == (15, 63.0)
    case.lag.published(Position(8))
    case.lag.unread(0)
    assert case.told() == (0, 0.0)


async def test_what_is_unread_has_waited_as_long_as_what_was_published_last() -> None:
    case = Case()
    case.lag.received(batch(0, 3))
    await case.clock.advance(7.0)
    case.lag.published(Position(3))
    case.lag.unread(4)
    await case.clock.advance(1.0)
    assert case.told() == (4, 7.0)


async def test_a_record_after_a_quiet_hour_is_no_hour_behind() -> None:
    case = Case()
    case.lag.received(batch(0, 3))
    case.lag.published(Position(3))
    await case.clock.advance(3600.0)
    case.lag.received(batch(3, 4, arrival_ms=case.clock.now_ms()))
    await case.clock.advance(0.25)
    assert case.told() == (1, 0.25)


async def test_what_is_received_is_no_longer_unread() -> None:
    case = Case()
    case.lag.unread(4)
    case.lag.received(batch(0, 3))
    assert case.told()[0] == 4
    case.lag.published(Position(3))
    assert case.told()[0] == 1
    case.lag.received(batch(3, 8))  # more had come since the log was asked
    assert case.told()[0] == 5


async def test_a_broker_whose_clock_is_ahead_is_no_negative_lag() -> None:
    case = Case()
    case.lag.received(batch(0, 1, arrival_ms=START_MS + 10_000))
    assert case.told() == (1, 0.0)


async def test_an_empty_batch_is_not_in_hand_and_clear_forgets_the_gauges() -> None:
    case = Case()
    case.lag.received(batch(5, 5))
    assert case.told() == (0, 0.0)
    case.lag.received(batch(5, 6))
    assert case.told() == (1, 0.0)
    case.lag.clear()
    assert case.metrics.gauges == {"cutbank_lag_records": 0, "cutbank_lag_seconds": 0.0}
