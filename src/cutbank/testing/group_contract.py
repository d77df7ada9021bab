"""What every transport's groups must do: the half of the transport contract that exactly-once rests on.

Run it through `transport_contract.TransportContract`. Each test opens handles as separate processes would be.
"""

# ruff: noqa: D102  # a test's name says what it proves

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

import pytest

from cutbank.errors import CutbankError, Fenced, MessageTooLarge, PositionLost, StreamMissing
from cutbank.records import Message, Partition, Position
from cutbank.testing.log_under_test import WAIT_S_MAX, LogUnderTest, everything, soon
from cutbank.transports.base import Assigned, Lease, Lost, Output, Revoked, Start, StreamConfig, Transport

PARTITION = Partition("s", "0")


class Crew:
    """One member of a group with its leases, as a service would hold them."""

    def __init__(
        self, transport: Transport, *, group: str = "g", streams: Sequence[str] = ("s",), obey: bool = True
    ) -> None:
        """`obey`: a revoked lease is released at once."""
        self.consumer = transport.consumer(group, streams)
        self.held: dict[Partition, Lease] = {}
        self.assigned: list[Lease] = []
        self.revoked: list[Lease] = []
        self.lost: list[Lease] = []
        self._obey = obey

    async def __aenter__(self) -> Self:
        await self.consumer.__aenter__()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._task.cancel()
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        await self.consumer.__aexit__(*failure)
        if isinstance(outcome, Exception):
            raise outcome

    async def _follow(self) -> None:
        async for event in self.consumer.events():
            partition = event.lease.partition
            match event:
                case Assigned(lease):
                    assert partition not in self.held, f"{partition} assigned twice"
                    self.held[partition] = lease
                    self.assigned.append(lease)
                case Revoked(lease):
                    self.revoked.append(lease)
                    if self._obey:
                        await self.release(partition)
                case Lost(lease):
                    self.lost.append(lease)
                    assert self.held.pop(partition) is lease, "lost is the lease that was held"

    async def release(self, partition: Partition) -> None:
        """Give one lease back."""
        await self.held.pop(partition).release()


async def only_lease(log: LogUnderTest, crew: Crew) -> Lease:
    """The one lease that this member is to get, fenced, at its start."""
    await soon(log, lambda: len(crew.held) == 1)
    (lease,) = crew.held.values()
    await lease.fence()
    return lease


async def fresh_stream(log: LogUnderTest, *, partitions: int = 1, records: int = 0) -> Transport:
    """A handle on a log with the stream `s`, and `out` with two partitions."""
    transport = await log.open()
    await transport.ensure(StreamConfig("s", partitions=partitions))
    await transport.ensure(StreamConfig("out", partitions=2))
    if records:
        await transport.publish([Message("s", b"%d" % number, partition_id="0") for number in range(records)])
    return transport


async def content(transport: Transport, partition: Partition) -> list[bytes]:
    """All values of a partition."""
    return list((await everything(transport, partition)).values)


class GroupContract:
    """The group side of the protocol."""

    async def test_one_member_gets_every_partition_of_every_stream(self, log: LogUnderTest) -> None:
        transport = await fresh_stream(log, partitions=3)
        async with Crew(transport, streams=("s", "out")) as crew:
            await soon(log, lambda: len(crew.held) == 5)
            assert set(crew.held) == {Partition("s", str(n)) for n in range(3)} | {
                Partition("out", str(n)) for n in range(2)
            }

    async def test_a_missing_stream_ends_membership(self, log: LogUnderTest) -> None:
        transport = await log.open()
        with pytest.raises(StreamMissing):
            async with transport.consumer("g", ["nowhere"]) as consumer:
                await anext(consumer.events())

    async def test_members_share_fairly_and_never_hold_one_twice(self, log: LogUnderTest) -> None:
        first, second, third = await fresh_stream(log, partitions=5), await log.open(), await log.open()
        everybody: list[Crew] = []

        def shares() -> list[int]:
            held = [partition for crew in everybody for partition in crew.held]
            assert len(held) == len(set(held)), "a partition in two live leases"
            return sorted(len(crew.held) for crew in everybody)

        async with Crew(first) as a:
            everybody.append(a)
            await soon(log, lambda: shares() == [5])
            async with Crew(second) as b:
                everybody.append(b)
                await soon(log, lambda: shares() == [2, 3])
                async with Crew(third) as c:
                    everybody.append(c)
                    await soon(log, lambda: shares() == [1, 2, 2])
                    assert [*a.lost, *b.lost, *c.lost] == [], "all moves were handed over"
                    everybody.remove(c)
                await soon(log, lambda: shares() == [2, 3])

    async def test_a_partition_moves_only_after_its_release(self, log: LogUnderTest) -> None:
        first, second = await fresh_stream(log, partitions=2), await log.open()
        async with Crew(first, obey=False) as a:
            await soon(log, lambda: len(a.held) == 2)
            async with Crew(second) as b:
                await soon(log, lambda: len(a.revoked) == 1)
                lease = a.revoked[0]
                await lease.fence()
                await lease.commit(Position(0))
                assert not b.held, "its owner still works"
                await a.release(lease.partition)
                await soon(log, lambda: lease.partition in b.held)
                assert await b.held[lease.partition].fence() == 0
                with pytest.raises(Fenced):
                    await lease.commit(Position(0))

    async def test_what_is_never_released_is_taken_away(self, log: LogUnderTest) -> None:
        first, second = await fresh_stream(log, partitions=2), await log.open()
        async with Crew(first, obey=False) as a, Crew(second) as b:
            await soon(log, lambda: len(b.held) == 1 and len(a.held) == 1)
            for lease in a.lost:
                with pytest.raises(Fenced):
                    await lease.commit(Position(0))
            assert set(a.held) | set(b.held) == {Partition("s", "0"), Partition("s", "1")}

    async def test_who_leaves_hands_over_at_once(self, log: LogUnderTest) -> None:
        first, second = await fresh_stream(log, records=5), await log.open()
        async with Crew(second) as heir:
            async with Crew(first) as crew:
                await soon(log, lambda: len(crew.held) + len(heir.held) == 1)
                if crew.held:
                    lease = await only_lease(log, crew)
                    await lease.commit(Position(3))
            lease = await only_lease(log, heir)
            await lease.fence()
        async with Crew(first) as crew:
            again = await only_lease(log, crew)
            with pytest.raises(Fenced):
                await lease.committed()
            assert await again.fence() == await first.committed("g", PARTITION)

    async def test_a_zombie_is_refused_and_leaves_no_trace(self, log: LogUnderTest) -> None:
        stopped, other = await fresh_stream(log, records=5), await log.open()
        async with Crew(stopped) as zombie:
            old = await only_lease(log, zombie)
            old.seek(Position(0))
            await old.publish_and_commit([Output("out", b"first")], Position(1))
            await log.silence(stopped)
            async with Crew(other) as heir:
                new = await only_lease(log, heir)
                assert await new.fence() == Position(1)
                with pytest.raises(Fenced):
                    await old.publish_and_commit([Output("out", b"zombie")], Position(5))
                with pytest.raises(Fenced):
                    await old.commit(Position(5))
                with pytest.raises(Fenced):
                    await old.fence()
                await new.publish_and_commit([Output("out", b"second")], Position(2))
                assert await other.committed("g", PARTITION) == Position(2)
                assert await content(other, Partition("out", "0")) == [b"first", b"second"]
                await log.wake(stopped)
                await soon(log, lambda: old in zombie.lost or not zombie.held)
                await old.release()
                await old.release()
                assert await new.committed() == Position(2), "a zombie's release changes nothing"
            # It has joined again by itself.
            again = await only_lease(log, zombie)
            assert again is not old
            assert await again.fence() == Position(2)

    @pytest.mark.parametrize("write", ["publish_and_commit", "commit", "fence", "committed", "receive"])
    async def test_every_call_of_a_zombie_is_refused_by_its_own_check(self, log: LogUnderTest, write: str) -> None:
        stopped, other = await fresh_stream(log, records=1), await log.open()
        async with Crew(stopped) as zombie:
            old = await only_lease(log, zombie)
            old.seek(Position(0))
            await log.silence(stopped)
            async with Crew(other) as heir:
                await only_lease(log, heir)
                calls: dict[str, Callable[[], Awaitable[object]]] = {
                    "publish_and_commit": lambda: old.publish_and_commit([Output("out", b"no")], Position(1)),
                    "commit": lambda: old.commit(Position(1)),
                    "fence": old.fence,
                    "committed": old.committed,
                    "receive": lambda: old.receive(records_max=1, bytes_max=1000, wait_s=0.0),
                }
                with pytest.raises(Fenced):
                    await calls[write]()
                assert await other.committed("g", PARTITION) is None
                assert await content(other, Partition("out", "0")) == []
            await log.wake(stopped)

    async def test_receive_goes_on_where_it_ended(self, log: LogUnderTest) -> None:
        transport = await fresh_stream(log, records=10)
        async with Crew(transport) as crew:
            lease = await only_lease(log, crew)
            lease.seek(await transport.position_at(PARTITION, Start("earliest")))
            first = await lease.receive(records_max=4, bytes_max=1 << 20, wait_s=0.0)
            second = await lease.receive(records_max=100, bytes_max=1 << 20, wait_s=0.0)
            assert first.values + second.values == [b"%d" % number for number in range(10)]  # type: ignore[operator]
            assert first.end == second.start
            empty = await lease.receive(records_max=100, bytes_max=1 << 20, wait_s=0.0)
            assert (len(empty), empty.start, empty.end) == (0, second.end, second.end)
            assert await lease.lag() == 0
            lease.seek(second.positions[2])
            third = await lease.receive(records_max=1, bytes_max=1 << 20, wait_s=0.0)
            assert third.values == [second.values[2]]
            assert await lease.lag() == 10 - 4 - 3

    async def test_receive_waits_and_is_woken(self, log: LogUnderTest) -> None:
        transport, producer = await fresh_stream(log), await log.open()
        async with Crew(transport) as crew:
            lease = await only_lease(log, crew)
            lease.seek(await transport.position_at(PARTITION, Start("latest")))
            waiting = asyncio.create_task(lease.receive(records_max=10, bytes_max=1000, wait_s=3600.0))
            await producer.publish([Message("s", b"news")])
            async with asyncio.timeout(WAIT_S_MAX):
                assert (await waiting).values == [b"news"]
            patient = asyncio.create_task(lease.receive(records_max=10, bytes_max=1000, wait_s=1.0))
            await soon(log, patient.done)
            assert len(patient.result()) == 0

    async def test_a_cancelled_receive_loses_nothing(self, log: LogUnderTest) -> None:
        transport, producer = await fresh_stream(log), await log.open()
        async with Crew(transport) as crew:
            lease = await only_lease(log, crew)
            lease.seek(await transport.position_at(PARTITION, Start("earliest")))
            got: list[bytes] = []
            for number in range(20):
                waiting = asyncio.create_task(lease.receive(records_max=10, bytes_max=1000, wait_s=3600.0))
                for _ in range(number % 5):
                    await asyncio.sleep(0)
                await producer.publish([Message("s", b"%d" % number)])
                for _ in range(number):
                    await asyncio.sleep(0)
                waiting.cancel()
                outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
                if not isinstance(outcome, BaseException):
                    got += outcome.values
            got += (await lease.receive(records_max=100, bytes_max=1000, wait_s=0.0)).values
            assert got == [b"%d" % number for number in range(20)]

    async def test_what_is_read_beside_a_write_is_neither_lost_nor_repeated(self, log: LogUnderTest) -> None:
        transport, producer = await fresh_stream(log), await log.open()
        async with Crew(transport) as crew:
            lease = await only_lease(log, crew)
            lease.seek(position := await transport.position_at(PARTITION, Start("earliest")))
            got: list[bytes] = []
            while len(got) < 12:
                reading = asyncio.create_task(lease.receive(records_max=1, bytes_max=1000, wait_s=3600.0))
                writing = asyncio.create_task(lease.publish_and_commit([Output("out", b"x")], position))
                await asyncio.gather(lease.lag(), producer.publish([Message("s", b"%d" % len(got))]), writing)
                async with asyncio.timeout(WAIT_S_MAX):
                    got += (batch := await reading).values
                position = batch.end
            assert got == [b"%d" % number for number in range(12)]

    async def test_receive_past_retention_is_loud(self, log: LogUnderTest) -> None:
        transport = await fresh_stream(log, records=3)
        await transport.ensure(StreamConfig("short", retention_ms=60_000))
        await transport.publish([Message("short", b"old")])
        async with Crew(transport, streams=("short",)) as crew:
            await soon(log, lambda: len(crew.held) == 1)
            start = await transport.position_at(Partition("short", "0"), Start("earliest"))
            await log.expire("short")
            # So much time may have cost it the lease; then there is another.
            await soon(log, lambda: len(crew.held) == 1)
            lease = await only_lease(log, crew)
            lease.seek(start)
            for _ in range(2):
                with pytest.raises(PositionLost):
                    await lease.receive(records_max=1, bytes_max=1000, wait_s=0.0)

    async def test_commits_are_kept_apart_by_group_and_partition(self, log: LogUnderTest) -> None:
        transport, other = await fresh_stream(log, partitions=2, records=5), await log.open()
        async with Crew(transport, group="one") as one, Crew(transport, group="two") as two:
            await soon(log, lambda: len(one.held) == 2 and len(two.held) == 2)
            lease = one.held[PARTITION]
            assert await lease.fence() is None
            assert await lease.committed() is None
            await lease.commit(Position(4))
            assert await lease.committed() == Position(4)
            assert await lease.fence() == Position(4)
            assert await other.committed("one", PARTITION) == Position(4)
            assert await other.committed("one", Partition("s", "1")) is None
            assert await other.committed("two", PARTITION) is None
            assert await two.held[PARTITION].fence() is None
        assert await other.committed("one", PARTITION) == Position(4)

    async def test_outputs_and_commit_happen_together(self, log: LogUnderTest) -> None:
        transport = await fresh_stream(log, records=5)
        async with Crew(transport) as crew:
            lease = await only_lease(log, crew)
            good = [Output("out", b"a", b"key"), Output("out", b"b")]
            await lease.publish_and_commit(good, Position(2))
            assert await content(transport, Partition("out", "0")) == [b"a", b"b"]
            assert await lease.committed() == Position(2)
            refused: list[tuple[Output, type[CutbankError]]] = [
                (Output("out", bytes(log.value_bytes_max + 1)), MessageTooLarge),
                (Output("nowhere", b"x"), StreamMissing),
            ]
            for bad, error in refused:
                with pytest.raises(error):
                    await lease.publish_and_commit([*good, bad], Position(3))
                assert await content(transport, Partition("out", "0")) == [b"a", b"b"]
                assert await lease.fence() == Position(2)
            await lease.publish_and_commit([], Position(4))
            assert await lease.committed() == Position(4)

    async def test_a_cancelled_write_is_whole_or_not_at_all(self, log: LogUnderTest) -> None:
        transport = await fresh_stream(log, records=30)
        async with Crew(transport) as crew:
            lease = await only_lease(log, crew)
            expected: list[bytes] = []
            position = Position(0)
            for number in range(12):
                outputs = [Output("out", b"%d.%d" % (number, i)) for i in range(3)]
                writing = asyncio.create_task(lease.publish_and_commit(outputs, Position(position + 1)))
                for _ in range(number):
                    await asyncio.sleep(0)
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                now = await lease.fence() or Position(0)
                assert now in {position, position + 1}
                if now > position:
                    expected += [output.value for output in outputs]
                position = now
                assert await content(transport, Partition("out", "0")) == expected

    async def test_the_output_partition_follows_from_the_source(self, log: LogUnderTest) -> None:
        transport = await fresh_stream(log, partitions=3, records=1)
        async with Crew(transport) as crew:
            await soon(log, lambda: len(crew.held) == 3)
            for partition, lease in crew.held.items():
                await lease.fence()
                for number in range(2):
                    await lease.publish_and_commit(
                        [Output("out", b"from %s" % partition.id.encode(), b"key %d" % number)], Position(0)
                    )
            assert sorted(await content(transport, Partition("out", "0"))) == [b"from 0"] * 2 + [b"from 2"] * 2
            assert await content(transport, Partition("out", "1")) == [b"from 1"] * 2

    async def test_an_output_that_names_a_partition_goes_there(self, log: LogUnderTest) -> None:
        transport = await fresh_stream(log, records=1)
        async with Crew(transport) as crew:
            lease = await only_lease(log, crew)
            named = [Output("out", b"%d" % number, partition_id="1") for number in range(2)]
            await lease.publish_and_commit([Output("out", b"unnamed"), *named], Position(1))
            assert await content(transport, Partition("out", "0")) == [b"unnamed"]
            assert await content(transport, Partition("out", "1")) == [b"0", b"1"]
            with pytest.raises(StreamMissing):
                await lease.publish_and_commit([Output("out", b"no", partition_id="no-such")], Position(2))
            assert await lease.fence() == Position(1)

    async def test_a_released_partition_comes_back_as_another_lease(self, log: LogUnderTest) -> None:
        transport = await fresh_stream(log, records=1)
        async with Crew(transport) as crew:
            lease = await only_lease(log, crew)
            await crew.release(PARTITION)
            await lease.release()
            again = await only_lease(log, crew)
            assert again is not lease
            with pytest.raises(Fenced):
                await lease.commit(Position(1))
            await again.commit(Position(1))
        await again.release()
        with pytest.raises(Fenced):
            await again.commit(Position(1))
        assert await transport.committed("g", PARTITION) == Position(1)
