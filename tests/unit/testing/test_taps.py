"""Taps name every call, keep leases one to one, and keep the protocol's word when what is around a call raises."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from cutbank.errors import StreamUnavailable
from cutbank.records import Message, Partition, Position
from cutbank.testing import ManualClock
from cutbank.testing.faults import Fault, Faults, FaultyTransport
from cutbank.testing.loop import simulate
from cutbank.testing.memory_log import MemoryLog
from cutbank.testing.memory_store import MemoryStore
from cutbank.testing.taps import Call, TappedStore, TappedTransport
from cutbank.transports.base import Assigned, Lost, Revoked, Start, StreamConfig

T = TypeVar("T")

P0 = Partition("s", "0")
READ = {"records_max": 10, "bytes_max": 1000}


class Recorder:
    """Around calls: notes their names and subjects in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        self.calls.append(str(call))
        return await do()


def run(main: Callable[[ManualClock, MemoryLog], Coroutine[Any, Any, None]]) -> None:
    clock = ManualClock()
    simulate(main(clock, MemoryLog(clock=clock)), clock=clock)


def test_every_call_of_a_transport_has_its_name_and_subject() -> None:
    async def main(clock: ManualClock, log: MemoryLog) -> None:
        recorder = Recorder()
        async with TappedTransport(log.open(), recorder) as transport:
            await transport.ensure(StreamConfig("s"))
            await transport.publish([Message("s", b"one")])
            await transport.describe("s")
            await transport.streams()
            start = await transport.position_at(P0, Start())
            assert (await transport.read(P0, start, **READ)).values == [b"one"]
            async with transport.consumer("g", ["s"]) as consumer:
                events = consumer.events()
                event = await anext(events)
                assert isinstance(event, Assigned)
                lease = event.lease
                assert lease.partition == P0
                assert await lease.fence() is None
                assert await lease.committed() is None
                lease.seek(start)
                batch = await lease.receive(**READ, wait_s=0.0)
                assert await lease.lag() == 0
                await lease.commit(batch.start)
                await lease.publish_and_commit([], batch.end)
                await lease.release()
            assert await transport.committed("g", P0) == batch.end
        assert recorder.calls == [
            "ensure s",
            "publish s",
            "describe s",
            "streams ",
            *(f"{name} s/0" for name in ("position_at", "stream_read")),
            "join g",
            "next_event g",
            *(f"{name} s/0" for name in ("fence", "lease_committed", "receive", "lag", "commit", "publish_and_commit")),
            "release s/0",
            "leave g",
            "committed g s/0",
        ]

    run(main)


def test_every_call_of_a_store_has_its_name_and_subject() -> None:
    async def main(clock: ManualClock, log: MemoryLog) -> None:
        recorder = Recorder()
        async with TappedStore(MemoryStore(name="m").open(), recorder) as store:
            await store.create("a/1", b"one")
            await store.create("a/2", b"two")
            assert await store.read("a/1") == b"one"
            assert await store.exists("a/1")
            assert [info.key async for info in store.list("a/")] == ["a/1", "a/2"]
            assert [info.key async for info in store.list("b/")] == []
            await store.delete("a/1")
            await store.probe()
        assert recorder.calls == [
            *("create a/1", "create a/2", "read a/1", "exists a/1", "list a/", "list b/", "delete a/1"),
            "probe memory://m",
        ]

    run(main)


@pytest.mark.parametrize(
    "fault", [Fault.FAIL, Fault.FAIL_AFTER, Fault.lose_reply(5.0), Fault.lose_request(5.0)], ids=str
)
def test_a_receive_that_fails_does_not_move_the_reading_position(fault: Fault) -> None:
    async def main(clock: ManualClock, log: MemoryLog) -> None:
        faults = Faults(clock=clock)
        transport = FaultyTransport(log.open(), faults)
        await transport.ensure(StreamConfig("s"))
        await transport.publish([Message("s", str(number).encode()) for number in range(4)])
        async with transport.consumer("g", ["s"]) as consumer:
            event = await anext(consumer.events())
            assert isinstance(event, Assigned)
            await event.lease.fence()
            event.lease.seek(Position(0))
            values: list[bytes] = []
            faults.at("receive", fault=fault, nth=2)
            for _ in range(2):
                values += (await event.lease.receive(records_max=2, bytes_max=1000, wait_s=0.0)).values
                if len(values) == 2:
                    with pytest.raises(StreamUnavailable):
                        await event.lease.receive(records_max=2, bytes_max=1000, wait_s=0.0)
            assert values == [b"0", b"1", b"2", b"3"]

    run(main)


def test_a_lease_stays_one_lease_over_readers_of_events() -> None:
    async def main(clock: ManualClock, log: MemoryLog) -> None:
        transport = TappedTransport(log.open(), Recorder())
        await transport.ensure(StreamConfig("s"))
        async with transport.consumer("g", ["s"]) as consumer:
            event = await anext(consumer.events())
            assert isinstance(event, Assigned)
            waiting = asyncio.ensure_future(anext(consumer.events()))
            await clock.sleep(1.0)
            waiting.cancel()
            await asyncio.wait({waiting})
            log.delete("s")
            async for later in consumer.events():
                assert isinstance(later, Revoked | Lost)
                assert later.lease is event.lease
                break

    run(main)
