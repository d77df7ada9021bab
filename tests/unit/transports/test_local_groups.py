"""Membership in its hard cases: who stands still, who is taken for dead, what a lost answer or a held lock does."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from cutbank.errors import Fenced, LogDamaged, StreamMissing, StreamUnavailable
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.testing import ManualClock
from cutbank.testing.group_contract import Crew
from cutbank.transports.base import StreamConfig
from cutbank.transports.local import LocalSettings, LocalTransport
from cutbank.transports.local.groups import Silence

HERE = Partition("s", "0")
WAIT_S_MAX = 60.0
SOON_BUSY = LocalSettings(durability="process-crash", busy_ms=50)


class Site:
    """Handles on one file, each with its own clock."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self.path = path
        self.settings = LocalSettings(durability="process-crash")
        self._stack = stack
        self.clocks: dict[LocalTransport, ManualClock] = {}

    async def open(self) -> LocalTransport:
        clock = ManualClock()
        transport = LocalTransport(self.path, self.settings, clock=clock, metrics=NoMetrics())
        self.clocks[transport] = clock
        return await self._stack.enter_async_context(transport)

    def stop(self, transport: LocalTransport) -> None:
        """As if its process were stopped: no news reaches it, and its clock stands still unless it is made to beat."""
        engine = transport._engine
        assert engine._watcher is not None
        engine._watcher._waiters.clear()
        engine.changed = lambda topic, *, seen: asyncio.get_running_loop().create_future()  # type: ignore[method-assign]

    async def beat(self, *transports: LocalTransport) -> None:
        """Let a heartbeat's time pass for these, and wait for what they write."""
        for transport in transports:
            await self.clocks[transport].advance(self.settings.heartbeat_ms / 1000)
        for transport in transports:
            with suppress(StreamUnavailable, LogDamaged):
                await transport._engine.write(lambda _: None)
        await asyncio.sleep(0)

    async def until(self, condition: object, *transports: LocalTransport) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while not condition():  # type: ignore[operator]
                await self.beat(*transports)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(tmp_path / "log.db", stack)


async def two_members(site: Site) -> tuple[LocalTransport, LocalTransport]:
    first, second = await site.open(), await site.open()
    await first.ensure(StreamConfig("s", partitions=2))
    return first, second


def test_silence_counts_only_while_the_counter_stands_still() -> None:
    silence = Silence()
    assert silence.observe("m", 3, passed_ms=500) == 0.0
    assert silence.observe("m", 3, passed_ms=500) == 500.0
    assert silence.observe("m", 3, passed_ms=200) == 700.0
    assert silence.observe("m", 4, passed_ms=500) == 0.0
    assert silence.observe("m", 4, passed_ms=500) == 500.0
    silence.keep_only(set())
    assert silence.observe("m", 4, passed_ms=500) == 0.0


async def test_who_is_silent_for_less_than_the_time_out_keeps_its_partitions(site: Site) -> None:
    first, second = await two_members(site)
    # A beat may be seen one or two beats late.
    beats = site.settings.session_timeout_ms // site.settings.heartbeat_ms - 2
    async with Crew(first) as a, Crew(second) as b:
        await site.until(lambda: len(a.held) == len(b.held) == 1, first, second)
        site.stop(first)
        for _ in range(beats - 1):
            await site.beat(second)
        await site.beat(first, second)
        for _ in range(beats - 1):
            await site.beat(second)
        assert len(b.held) == 1
        await site.until(lambda: len(b.held) == 2, second)
        (lost,) = a.held.values()
        with pytest.raises(Fenced):
            await lost.commit(Position(0))


async def test_all_that_stood_still_together_kill_nobody(site: Site) -> None:
    """A suspended machine: hours pass on every clock between two heartbeats."""
    first, second = await two_members(site)
    async with Crew(first) as a, Crew(second) as b:
        await site.until(lambda: len(a.held) == len(b.held) == 1, first, second)
        leases = [*a.held.values(), *b.held.values()]
        for _ in range(5):
            for transport in (first, second):
                site.clocks[transport]._elapsed_s += 3600.0
            await site.beat(first, second)
        for lease in leases:
            await lease.commit(Position(0))
        assert [*a.lost, *b.lost] == []


async def test_a_locked_file_kills_nobody(site: Site) -> None:
    site.settings = SOON_BUSY
    first, second = await two_members(site)
    async with Crew(first) as a, Crew(second) as b:
        await site.until(lambda: len(a.held) == len(b.held) == 1, first, second)
        leases = [*a.held.values(), *b.held.values()]
        other = sqlite3.connect(site.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            for transport in (first, second):
                await site.clocks[transport].advance(site.settings.session_timeout_ms / 1000)
            with pytest.raises(StreamUnavailable):
                await leases[0].commit(Position(0))
        other.execute("COMMIT")
        other.close()
        for _ in range(4):
            await site.beat(first, second)
        for lease in leases:
            await lease.commit(Position(0))
        assert [*a.lost, *b.lost] == []


async def test_who_was_taken_for_dead_learns_it_and_joins_again(site: Site) -> None:
    first, second = await two_members(site)
    async with Crew(first) as a, Crew(second) as b:
        await site.until(lambda: len(a.held) == len(b.held) == 1, first, second)
        was = a.consumer.member_id  # type: ignore[attr-defined]
        (old,) = a.held.values()
        site.stop(first)
        await site.until(lambda: len(b.held) == 2, second)
        assert a.lost == []
        await site.until(lambda: len(a.held) == len(b.held) == 1 and a.lost == [old], first, second)
        assert a.consumer.member_id != was  # type: ignore[attr-defined]
        (new,) = a.held.values()
        assert new is not old
        await new.fence()


async def test_a_release_that_fails_is_made_up_for(site: Site) -> None:
    site.settings = SOON_BUSY
    first, second = await two_members(site)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(Crew(first, obey=False))
        await site.until(lambda: len(a.held) == 2, first)
        b = await stack.enter_async_context(Crew(second))
        await site.until(lambda: a.revoked != [], first, second)
        (lease,) = a.revoked
        other = sqlite3.connect(site.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await lease.release()
        with pytest.raises(Fenced):
            await lease.commit(Position(0))
        del a.held[lease.partition]
        other.execute("COMMIT")
        other.close()
        await site.until(lambda: set(b.held) == {lease.partition}, first, second)
        assert a.lost == []


async def test_a_member_that_reads_no_events_takes_nothing_more(site: Site) -> None:
    first, second = await two_members(site)
    async with first.consumer("g", ["s"]) as idle, Crew(second) as b:
        await site.until(lambda: len(b.held) == 2, first, second)
        events = idle.events()
        waiting = asyncio.ensure_future(anext(events))
        await site.until(waiting.done, first, second)
        assert waiting.result().lease.partition not in b.held
        assert len(b.held) == 1


async def test_events_end_with_the_consumer(site: Site) -> None:
    first, _ = await two_members(site)
    async with first.consumer("g", ["s"]) as consumer:
        events = consumer.events()
        leases = [(await anext(events)).lease for _ in range(2)]
        waiting = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(0)
    assert await waiting is None
    for lease in leases:
        with pytest.raises(Fenced, match="left"):
            await lease.commit(Position(0))
        await lease.release()


async def test_a_deleted_stream_ends_membership_loudly(site: Site) -> None:
    first, second = await two_members(site)
    async with first.consumer("g", ["s"]) as consumer:
        events = consumer.events()
        lease = (await anext(events)).lease
        lease.seek(Position(0))
        await anext(events)
        waiting = asyncio.create_task(lease.receive(records_max=1, bytes_max=1, wait_s=3600.0))
        await asyncio.sleep(0)
        await second.delete("s")
        async with asyncio.timeout(WAIT_S_MAX):
            with pytest.raises((StreamMissing, Fenced)):
                await waiting
            lost = [await anext(events), await anext(events)]
            assert lease in [event.lease for event in lost]
            with pytest.raises(StreamMissing, match="'s'"):
                await anext(events)
    with pytest.raises(StreamMissing):
        await first.committed("g", HERE)


async def test_a_removed_file_ends_membership_loudly(site: Site) -> None:
    first, _ = await two_members(site)
    async with first.consumer("g", ["s"]) as consumer:
        events = consumer.events()
        for _ in range(2):
            await anext(events)
        site.path.rename(site.path.with_suffix(".moved"))
        waiting = asyncio.gather(*(anext(events) for _ in range(1)))
        await site.until(waiting.done, first)
        await waiting  # A lease that is lost,
        await anext(events)  # the other,
        with pytest.raises(LogDamaged, match="removed"):
            await anext(events)  # and why.
        site.path.with_suffix(".moved").rename(site.path)


async def test_an_epoch_never_goes_back(site: Site) -> None:
    first, _ = await two_members(site)
    epochs = []
    for _ in range(3):
        async with Crew(first) as crew:
            await site.until(lambda crew=crew: len(crew.held) == 2, first)
            epochs.append(crew.held[HERE].epoch)  # type: ignore[attr-defined]
            await crew.release(HERE)
            await site.until(lambda crew=crew: len(crew.held) == 2, first)
            epochs.append(crew.held[HERE].epoch)  # type: ignore[attr-defined]
    assert epochs == [1, 2, 3, 4, 5, 6]


async def test_members_of_one_group_may_read_different_streams(site: Site) -> None:
    first, second = await two_members(site)
    await first.ensure(StreamConfig("t", partitions=2))
    async with Crew(first, streams=("s", "t")) as a, Crew(second, streams=("t",)) as b:
        await site.until(lambda: len(a.held) == 2 and len(b.held) == 2, first, second)
        assert {partition.stream for partition in b.held} == {"t"}
        assert {partition.stream for partition in a.held} == {"s"}


async def test_a_lease_reads_on_while_others_come_and_go(site: Site) -> None:
    first, second = await two_members(site)
    async with Crew(first) as a:
        await site.until(lambda: len(a.held) == 2, first)
        lease = a.held[HERE]
        await lease.fence()
        lease.seek(Position(0))
        got: list[bytes] = []
        for number in range(6):
            async with Crew(second, group="other"):
                await second.publish([Message("s", b"%d" % number, partition_id="0")])
                got += (await lease.receive(records_max=10, bytes_max=100, wait_s=3600.0)).values
        assert got == [b"%d" % number for number in range(6)]
