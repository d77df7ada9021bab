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
    case.lag.tell()
    assert case.metrics.gauges == {}, "nothing is known, so nothing is said"
    case.lag.unread(0)
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


async def test_what_is_unread_is_newer_than_what_was_received_last_and_waits_on() -> None:
    case = Case()
    case.lag.received(batch(0, 3))
    await case.clock.advance(7.0)
    case.lag.published(Position(3))
    case.lag.unread(4)
    await case.clock.advance(1.0)
    assert case.told() == (4, 8.0)
    await case.clock.advance(600.0)
    assert case.told() == (4, 608.0), "also with nothing in hand"


async def test_what_came_after_a_quiet_hour_has_waited_since_it_came_at_most() -> None:
    case = Case()
    case.lag.received(batch(0, 3))
    case.lag.published(Position(3))
    await case.clock.advance(3600.0)
    case.lag.unread(0)
    await case.clock.advance(1.0)
    case.lag.unread(4)
    assert case.told() == (4, 1.0)


async def test_of_what_nobody_has_seen_yet_time_counts_from_when_it_was_told() -> None:
    case = Case()
    case.lag.unread(4)
    assert case.told() == (4, 0.0)
    await case.clock.advance(30.0)
    case.lag.unread(5)
    assert case.told() == (5, 30.0)


async def test_what_is_only_learnt_again_is_no_lag_and_tells_how_old_the_rest_may_be() -> None:
    case = Case()
    case.lag.taken_up()
    case.lag.learning(Position(0), Position(10))
    case.lag.unread(14)
    assert case.told()[0] == 4
    await case.clock.advance(60.0)
    case.lag.learning(Position(8), Position(10))
    case.lag.seen(batch(0, 8, arrival_ms=START_MS - 5_000))
    case.lag.unread(6)
    assert case.told() == (4, 65.0)


async def test_what_was_in_hand_when_it_is_taken_up_again_is_read_again() -> None:
    case = Case()
    case.lag.received(batch(0, 3))
    case.lag.received(batch(3, 5, arrival_ms=START_MS + 2_000))
    case.lag.unread(10)
    await case.clock.advance(5.0)
    assert case.told() == (15, 5.0)
    case.lag.taken_up()
    assert case.told() == (15, 5.0)
    case.lag.unread(15)
    assert case.told() == (15, 5.0)


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
    case.lag.tell()
    assert case.metrics.gauges == {}
    case.lag.received(batch(5, 6))
    assert case.told() == (1, 0.0)
    case.lag.clear()
    assert case.metrics.gauges == {"cutbank_lag_records": 0, "cutbank_lag_seconds": 0.0}
