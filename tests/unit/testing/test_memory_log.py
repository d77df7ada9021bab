"""What the log in memory has beyond the contract: its operator's hands, its observers, and that it can be shared by
processes that stop, die and see each other's writes half done."""

import asyncio
from collections.abc import Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from cutbank.errors import Fenced, PositionLost, StreamMissing
from cutbank.records import Message, Partition, Position
from cutbank.testing import ManualClock
from cutbank.testing.loop import simulate
from cutbank.testing.memory_log import MemoryLog
from cutbank.testing.memory_transport import MemoryConsumer, MemoryTransport
from cutbank.transports.base import Assigned, Lease, Lost, Output, Revoked, Start, StreamConfig

T = TypeVar("T")
S0, OUT = Partition("s", "0"), Partition("out", "0")
LIMITS = {"records_max": 1000, "bytes_max": 1 << 20}


class DeadClock(ManualClock):
    """A clock that dies with its process."""

    def __init__(self, world: ManualClock) -> None:
        super().__init__()
        self._world = world
        self.dead = self.stopped = False

    def monotonic_s(self) -> float:
        return self._world.monotonic_s()

    async def sleep(self, delay_s: float) -> None:
        self._check()
        await self._world.sleep(delay_s)
        while self.stopped:
            await self._world.sleep(0.1)
        self._check()

    def _check(self) -> None:
        if self.dead:
            raise Died


class Died(BaseException):
    pass


def run(main: Coroutine[Any, Any, T], clock: ManualClock) -> T:
    return simulate(main, clock=clock, seconds_max=600.0)


async def made(log: MemoryLog, *, records: int = 0, clock: ManualClock | None = None) -> MemoryTransport:
    transport = log.open(clock=clock)
    await transport.ensure(StreamConfig("s"))
    await transport.ensure(StreamConfig("out"))
    await transport.publish([Message("s", b"%d" % number) for number in range(records)])
    return transport


@asynccontextmanager
async def only_lease(transport: MemoryTransport) -> Any:
    """A member of the group `g` with its one lease, fenced."""
    async with transport.consumer("g", ["s"]) as consumer:
        event = await anext(consumer.events())
        assert isinstance(event, Assigned)
        await event.lease.fence()
        yield consumer, event.lease


def test_positions_left_out_are_passed_and_are_the_same_for_a_seed() -> None:
    def positions(seed: int) -> list[Position]:
        clock = ManualClock()
        log = MemoryLog(clock=clock, gap_max=4, seed=seed)

        async def main() -> list[Position]:
            transport = await made(log)
            for number in range(40):
                await transport.publish([Message("s", b"%d.%d" % (number, i)) for i in range(2)])
            whole = log.content(S0)
            steps = [b - a for a, b in pairwise([*whole.positions, whole.end])]
            assert steps[::2] == [1] * 40, "no gap inside one publish"
            assert set(steps[1::2]) == {1, 2, 3, 4, 5}
            read, values = Position(0), []
            while len(batch := await transport.read(S0, read, records_max=3, bytes_max=1000)):
                assert batch.start == read
                values += batch.values
                read = batch.end
            assert values == whole.values
            assert read == await transport.position_at(S0, Start("latest")) == whole.end
            return list(whole.positions)

        return run(main(), clock)

    assert positions(1) == positions(1) != positions(2)


def test_an_operator_resets_and_loses_positions() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock)

    async def main() -> None:
        transport = await made(log, records=5)
        with pytest.raises(StreamMissing):
            log.set_committed("g", Partition("nowhere", "0"), Position(1))
        log.set_committed("g", S0, Position(2))
        async with only_lease(transport) as (_, lease):
            assert await lease.fence() == Position(2)
            await lease.commit(Position(4))
            log.set_committed("g", S0, None)
            assert await lease.fence() is None
            assert await transport.committed("g", S0) is log.committed("g", S0) is None
            await lease.commit(Position(5))
        assert log.committed("g", S0) == Position(5)
        assert log.committed("other", S0) is None

    run(main(), clock)


def test_an_operator_lets_records_pass_retention() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock)

    async def main() -> None:
        transport = await made(log, records=10)
        log.expire("s", keep=3)
        assert log.content(S0).values == [b"7", b"8", b"9"]
        with pytest.raises(PositionLost):
            await transport.read(S0, Position(6), **LIMITS)
        assert (await transport.read(S0, Position(7), **LIMITS)).values == [b"7", b"8", b"9"]
        log.expire("s", keep=50)
        assert len(log.content(S0)) == 3
        log.expire("s")
        info = (await transport.describe("s")).partitions[0]
        assert info.oldest == info.end == Position(10)
        await transport.publish([Message("s", b"new")])
        assert log.content(S0).positions == [Position(10)]

    run(main(), clock)


def test_records_of_one_partition_alone_may_go() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock)

    async def main() -> None:
        transport = log.open()
        await transport.ensure(StreamConfig("s", partitions=2))
        await transport.publish([Message("s", b"x", partition_id=str(number % 2)) for number in range(6)])
        log.expire("s", keep=1, partition_id="1")
        assert [len(log.content(Partition("s", number))) for number in "01"] == [3, 1]
        with pytest.raises(StreamMissing):
            log.expire("s", partition_id="2")

    run(main(), clock)


def test_a_stream_made_again_ends_old_leases_and_forgets_positions() -> None:
    clock = ManualClock()

    def identities(seed: int) -> list[str]:
        log = MemoryLog(clock=clock, seed=seed)

        async def main() -> list[str]:
            transport = await made(log, records=3)
            first = (await transport.describe("s")).identity
            async with transport.consumer("g", ["s"]) as consumer:
                events = consumer.events()
                old = (await anext(events)).lease
                await old.fence()
                await old.commit(Position(2))
                log.delete("s")
                with pytest.raises(StreamMissing):
                    await old.commit(Position(3))
                again = await transport.ensure(StreamConfig("s"))
                assert log.committed("g", S0) is None
                with pytest.raises(StreamMissing):
                    await old.commit(Position(3))
                assert await anext(events) == Lost(old)
                new = await anext(events)
                assert isinstance(new, Assigned)
                assert await new.lease.fence() is None
            return [first, again.identity]

        return run(main(), clock)

    assert identities(1) == identities(1)
    assert len({*identities(1), *identities(2)}) == 4


def test_a_deleted_stream_ends_membership() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock)

    async def main() -> None:
        transport = await made(log)
        async with transport.consumer("g", ["s"]) as consumer:
            events = consumer.events()
            lease = (await anext(events)).lease
            log.delete("s")
            assert await anext(events) == Lost(lease)
            with pytest.raises(StreamMissing):
                await anext(events)

    run(main(), clock)


def test_observers_are_told_after_the_fact_and_in_order() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock)
    told: list[tuple[object, ...]] = []

    def published(partition: Partition, positions: Any, values: Any) -> None:
        assert list(log.content(partition).positions[-len(positions) :]) == list(positions)
        told.append((str(partition), list(positions), list(values)))

    def committed(group: str, partition: Partition, position: Position) -> None:
        assert log.committed(group, partition) == position
        told.append((group, str(partition), position))

    log.on_publish.append(published)
    log.on_commit.append(committed)

    async def main() -> None:
        transport = await made(log)
        await transport.publish([Message("s", b"a"), Message("out", b"b"), Message("s", b"c")])
        async with only_lease(transport) as (_, lease):
            await lease.commit(Position(1))
            await lease.publish_and_commit([Output("out", b"d")], Position(2))
            await lease.publish_and_commit([], Position(3))

    run(main(), clock)
    assert told == [
        ("s/0", [0, 1], [b"a", b"c"]),
        ("out/0", [0], [b"b"]),
        ("g", "s/0", 1),
        ("out/0", [1], [b"d"]),
        ("g", "s/0", 2),
        ("g", "s/0", 3),
    ]


def test_arrivals_are_the_brokers_time_wherever_it_jumps() -> None:
    broker_clock = ManualClock(start_ms=1_000_000)
    log = MemoryLog(clock=broker_clock)

    async def main() -> None:
        transport = await made(log, clock=ManualClock(start_ms=77))
        for jump_ms in (0, 5_000, -3_000):
            broker_clock.jump_wall(jump_ms)
            await transport.publish([Message("s", b"x")])
        assert log.content(S0).arrivals_ms == [1_000_000, 1_005_000, 1_002_000]
        assert await transport.position_at(S0, Start("timestamp", 1_001_000)) == Position(1)
        assert await transport.position_at(S0, Start("timestamp", 1_006_000)) == Position(3)

    run(main(), broker_clock)


async def taken_over(log: MemoryLog) -> tuple[float, MemoryConsumer, Lease]:
    """Let a second member wait for the partition; returns how long that took, and what it got, fenced."""
    heir = log.open().consumer("g", ["s"])
    await heir.__aenter__()
    event = await anext(heir.events())
    assert isinstance(event, Assigned)
    await event.lease.fence()
    return log._clock.monotonic_s(), heir, event.lease


def test_who_dies_leaves_nothing_and_is_missed_after_the_session_time_out() -> None:
    world = ManualClock()
    log = MemoryLog(clock=world, heartbeat_s=1.0, session_timeout_s=10.0)

    async def main() -> None:
        own = DeadClock(world)
        transport = await made(log, records=5, clock=own)
        consumer = transport.consumer("g", ["s"])
        await consumer.__aenter__()
        lease = (await anext(consumer.events())).lease
        await world.sleep(20.0)
        own.dead = True
        for call in (lease.commit(Position(3)), lease.release(), consumer.__aexit__()):
            with pytest.raises(Died):
                await call
        await world.sleep(3.0)
        at_s, heir, lease = await taken_over(log)
        assert 20.0 + 10.0 - 1.0 <= at_s <= 20.0 + 10.0 + 1.0
        assert await lease.fence() is None, "the dead one's commit has left no trace"
        await heir.__aexit__()

    run(main(), world)


def test_who_sleeps_too_long_learns_that_its_partition_is_gone() -> None:
    world = ManualClock()
    log = MemoryLog(clock=world, heartbeat_s=1.0, session_timeout_s=10.0)

    async def main() -> None:
        own = DeadClock(world)
        transport = await made(log, records=5, clock=own)
        async with transport.consumer("g", ["s"]) as zombie:
            events = zombie.events()
            old = (await anext(events)).lease
            own.stopped = True
            writing = asyncio.create_task(old.commit(Position(1)))
            _, heir, new = await taken_over(log)
            await new.commit(Position(2))
            assert not writing.done()
            own.stopped = False
            with pytest.raises(Fenced):
                await writing
            assert await anext(events) == Lost(old)
            assert log.committed("g", S0) == Position(2)
            await heir.__aexit__()
            again = await anext(events)
            assert isinstance(again, Assigned)
            assert await again.lease.fence() == Position(2)

    run(main(), world)


def test_a_revoked_lease_works_until_the_hand_over_time_has_passed() -> None:
    world = ManualClock()
    log = MemoryLog(clock=world, heartbeat_s=1.0, session_timeout_s=5.0, hand_over_s=8.0)

    async def main() -> None:
        transport = log.open()
        await transport.ensure(StreamConfig("s", partitions=2))
        async with transport.consumer("g", ["s"]) as slow:
            events = slow.events()
            leases = [(await anext(events)).lease for _ in range(2)]
            taking = asyncio.create_task(taken_over(log))
            revoked = await anext(events)
            assert isinstance(revoked, Revoked)
            assert revoked.lease in leases
            revoked_s = world.monotonic_s()
            await world.sleep(7.0)
            await revoked.lease.fence()
            assert await anext(events) == Lost(revoked.lease)
            assert 8.0 <= world.monotonic_s() - revoked_s <= 10.0
            with pytest.raises(Fenced):
                await revoked.lease.commit(Position(0))
            _, heir, lease = await taking
            assert lease.partition == revoked.lease.partition
            await heir.__aexit__()

    run(main(), world)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_zombies_outputs_land_only_where_the_log_is_not_atomic(*, atomic: bool) -> None:
    world = ManualClock()
    log = MemoryLog(clock=world, atomic=atomic, heartbeat_s=1.0, session_timeout_s=10.0)

    async def main() -> None:
        own = DeadClock(world)
        transport = await made(log, records=5, clock=own)
        async with only_lease(transport) as (_, old):
            own.stopped = True
            _, heir, new = await taken_over(log)
            await new.publish_and_commit([Output("out", b"heir")], Position(1))
            own.stopped = False
            with pytest.raises(Fenced):
                await old.publish_and_commit([Output("out", b"zombie")], Position(5))
            assert log.committed("g", S0) == Position(1)
            assert log.content(OUT).values == ([b"heir"] if atomic else [b"heir", b"zombie"])
            await heir.__aexit__()

    run(main(), world)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_death_between_outputs_and_commit_is_possible_only_where_the_log_is_not_atomic(*, atomic: bool) -> None:
    world = ManualClock()
    log = MemoryLog(clock=world, atomic=atomic)

    async def main() -> None:
        own = DeadClock(world)
        transport = await made(log, records=5, clock=own)
        log.on_publish.append(lambda *_: setattr(own, "dead", True))
        with pytest.raises(Died):
            async with only_lease(transport) as (_, lease):
                await lease.publish_and_commit([Output("out", b"x")], Position(5))
        assert log.content(OUT).values == [b"x"]
        assert log.committed("g", S0) == (Position(5) if atomic else None)

    run(main(), world)


def test_a_wait_for_records_takes_simulated_time_and_a_publish_ends_it() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock)

    async def main() -> None:
        transport = await made(log)
        async with only_lease(transport) as (_, lease):
            lease.seek(Position(0))
            began_s = clock.monotonic_s()
            assert len(await lease.receive(wait_s=45.0, **LIMITS)) == 0
            assert clock.monotonic_s() == began_s + 45.0
            waiting = asyncio.create_task(lease.receive(wait_s=45.0, **LIMITS))
            await clock.sleep(7.0)
            await transport.publish([Message("s", b"news")])
            assert (await waiting).values == [b"news"]
            assert clock.monotonic_s() == began_s + 52.0
            waiting = asyncio.create_task(lease.receive(wait_s=45.0, **LIMITS))
            await clock.sleep(1.0)
            await lease.release()
            with pytest.raises(Fenced):
                await waiting

    run(main(), clock)


def test_a_release_that_is_cut_short_is_done_by_the_next_heartbeat() -> None:
    clock = ManualClock()
    log = MemoryLog(clock=clock, heartbeat_s=1.0)

    async def main() -> None:
        transport = await made(log)
        async with transport.consumer("g", ["s"]) as consumer:
            events = consumer.events()
            lease = (await anext(events)).lease
            releasing = asyncio.create_task(lease.release())
            await asyncio.sleep(0)
            releasing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await releasing
            again = await anext(events)
            assert isinstance(again, Assigned)
            assert again.lease is not lease
            await again.lease.fence()

    run(main(), clock)


class Worker:
    """Copies what its leases give to `out`, committing as it goes, and stays for a while."""

    def __init__(self, log: MemoryLog, clock: ManualClock, name: str, seen: list[tuple[object, ...]]) -> None:
        self._log, self._clock, self._name, self._seen = log, clock, name, seen

    async def run(self, stay_s: float) -> None:
        async with self._log.open(client_id=self._name).consumer("g", ["s"]) as consumer, asyncio.TaskGroup() as group:
            tasks: dict[Partition, asyncio.Task[None]] = {}
            following = group.create_task(self._follow(consumer, group, tasks))
            await self._clock.sleep(stay_s)
            for task in [following, *tasks.values()]:
                task.cancel()

    async def _follow(
        self, consumer: MemoryConsumer, group: asyncio.TaskGroup, tasks: dict[Partition, asyncio.Task[None]]
    ) -> None:
        async for event in consumer.events():
            self._seen.append((self._name, type(event).__name__, event.lease.partition))
            if isinstance(event, Assigned):
                tasks[event.lease.partition] = group.create_task(self._copy(event.lease))
            else:
                tasks.pop(event.lease.partition).cancel()
                await event.lease.release()

    async def _copy(self, lease: Lease) -> None:
        lease.seek(await lease.fence() or Position(0))
        while True:
            batch = await lease.receive(records_max=3, bytes_max=1000, wait_s=2.0)
            await lease.publish_and_commit([Output("out", value) for value in batch.values], batch.end)


def copied(seed: int) -> list[tuple[object, ...]]:
    """Three workers that come and go; returns all that happened."""
    clock = ManualClock()
    log = MemoryLog(clock=clock, gap_max=3, seed=seed, heartbeat_s=1.0)
    seen: list[tuple[object, ...]] = []
    log.on_publish.append(lambda partition, positions, _: seen.append((clock.now_ms(), partition, *positions)))
    log.on_commit.append(lambda group, partition, position: seen.append((clock.now_ms(), partition, position)))

    async def main() -> None:
        producer = log.open()
        await producer.ensure(StreamConfig("s", partitions=4))
        await producer.ensure(StreamConfig("out"))
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(Worker(log, clock, f"worker{number}", seen).run(20.0 + 15.0 * number))
            for number in range(180):
                await producer.publish([Message("s", b"%d" % number, b"%d" % number)])
                await clock.sleep(0.25)

    run(main(), clock)
    values = log.content(OUT).values
    assert sorted(map(int, values)) == list(range(180)), "each once, over all hand-overs"
    return seen


def test_what_happens_is_the_same_in_every_run() -> None:
    first = copied(5)
    assert any("Revoked" in event for event in first)
    assert first == copied(5) != copied(6)
