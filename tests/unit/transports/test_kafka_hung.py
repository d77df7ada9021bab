"""Brokers that take a connection and then say nothing: who waits, for how long, and what is made of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import NoReturn

import pytest
from aiokafka.client import AIOKafkaClient
from structlog.testing import capture_logs

from brokers.ports import free_ports
from cutbank.clock import SystemClock
from cutbank.errors import CutbankError, Fenced, PositionLost, StreamUnavailable, UsageError
from cutbank.records import Partition, Position
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.testing.clock import ManualClock
from cutbank.transports.base import tell_nobody
from cutbank.transports.kafka.cluster import Cluster, NoAnswer, Patience
from cutbank.transports.kafka.lease import ABANDONED_S, KafkaLease
from cutbank.transports.kafka.routing import Router
from cutbank.transports.kafka.settings import KafkaSettings
from cutbank.transports.kafka.watch import Watch

WAIT_S_MAX = 30.0


@pytest.fixture
async def hung() -> AsyncIterator[str]:
    """The address of one."""
    ends = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ends.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
        ends.set()


@pytest.fixture
def closed() -> str:
    """The address of nobody."""
    return f"127.0.0.1:{free_ports(1)[0]}"


async def test_a_server_that_hangs_leaves_time_for_those_behind_it(hung: str, closed: str) -> None:
    cluster = Cluster([hung, closed], KafkaSettings(start_wait_ms=400), SystemClock(), client_id="t")
    with pytest.raises(UsageError) as raised:
        async with asyncio.timeout(WAIT_S_MAX):
            await cluster.open()
    assert f"{hung}: no answer in time; {closed}: " in str(raised.value)
    assert "Connect call failed" in str(raised.value)


def test_a_try_takes_a_part_of_the_call_and_after_a_lost_answer_more() -> None:
    patience = Patience(ManualClock(), KafkaSettings(try_timeout_ms=100), timeout_ms=10_000)
    assert patience.try_s() == pytest.approx(0.1)
    assert patience.try_s(held_s=0.5) == pytest.approx(0.6)
    assert Patience(ManualClock(), KafkaSettings(), timeout_ms=50).try_s() == pytest.approx(0.05)


async def test_the_next_try_takes_longer_only_after_a_lost_answer() -> None:
    clock = ManualClock()
    patience = Patience(clock, KafkaSettings(try_timeout_ms=100), timeout_ms=1_000)
    for why, expected_s in ((StreamUnavailable("refused"), 0.1), (NoAnswer("late"), 0.2)):
        pausing = asyncio.ensure_future(patience.pause(why))
        await asyncio.sleep(0)
        await clock.advance(0.1)
        await pausing
        assert patience.try_s() == pytest.approx(expected_s)
    await clock.advance(0.75)
    assert patience.try_s() == pytest.approx(0.05)


class Reading:
    """A lease whose reads a test makes up."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        cluster = Cluster(["127.0.0.1:1"], KafkaSettings(), self.clock, client_id="t")
        self.lease = KafkaLease(
            cluster,
            self,
            router=Router(cluster),
            group="g",
            place=("s", 0),
            partition=Partition("s", "0"),
            give_back=lambda _: None,
            fenced=lambda: None,
        )

    held = 1

    async def confirm(self, *, always: bool) -> None:
        """Takes so long that the consumer has left by then."""
        self.lease.end("left")

    async def read(self, *, took_s: float, error: CutbankError) -> None:
        """A read that fails after so long."""

        async def fails() -> NoReturn:
            await self.clock.advance(took_s)
            raise error

        call: Awaitable[object] = fails()
        with pytest.raises(type(error)):
            await self.lease._noted("read", call)


async def test_silence_counts_from_when_the_call_began() -> None:
    reading = Reading()
    began_s = reading.clock.monotonic_s()
    await reading.read(took_s=10.0, error=StreamUnavailable("no answer"))
    await reading.read(took_s=10.0, error=StreamUnavailable("no answer"))
    assert reading.lease.failing == (began_s, "read")


async def test_any_answer_ends_the_silence() -> None:
    reading = Reading()
    await reading.read(took_s=1.0, error=StreamUnavailable("no answer"))
    await reading.read(took_s=1.0, error=PositionLost("past retention"))
    assert reading.lease.failing is None


async def test_what_nobody_tries_any_more_is_nobodys_trouble() -> None:
    reading = Reading()
    await reading.read(took_s=1.0, error=StreamUnavailable("no answer"))
    await reading.clock.advance(ABANDONED_S - 1.0)
    assert reading.lease.failing is not None
    await reading.clock.advance(2.0)
    assert reading.lease.failing is None


async def test_a_lease_that_ends_while_the_group_is_asked_begins_no_fetch() -> None:
    reading = Reading()
    reading.lease.seek(Position(0))
    with pytest.raises(Fenced):
        await reading.lease.receive(records_max=1, bytes_max=1, wait_s=1.0)
    assert reading.lease._fetching is None


async def test_a_restart_that_fails_is_tried_again_at_the_next_look_and_said_once(closed: str) -> None:
    settings = KafkaSettings(heartbeat_ms=50, session_timeout_ms=1_000, stuck_ms=1_001)
    clock, metrics = SystemClock(), PrometheusMetrics()
    cluster = Cluster([closed], settings, clock, client_id="t")
    cluster._client = AIOKafkaClient(bootstrap_servers=[closed])
    since_s = clock.monotonic_s() - 1000.0
    watch = Watch(cluster, lambda: (since_s, "silent"), group="g", metrics=metrics, tell=tell_nobody)
    with capture_logs() as lines:
        watching = asyncio.create_task(watch.run())
        async with asyncio.timeout(WAIT_S_MAX):
            while metrics.value("cutbank_retries_total", operation="client_restart") < 4:  # noqa: ASYNC110  # time must pass
                await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.wait({watching})
    await cluster.close()
    assert [line["event"] for line in lines].count("the Kafka client can't be restarted") == 1
