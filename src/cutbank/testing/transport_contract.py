"""What every transport must do, as tests that any transport's author can run.

Subclass `TransportContract`, give it a fixture `log` that yields a `LogUnderTest`, and pytest (with pytest-asyncio in
auto mode) runs every promise of `transports.base` against it. `group_contract` holds the group side. Needs pytest,
which only these two modules import.
"""

# ruff: noqa: D102  # a test's name says what it proves

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from cutbank.errors import MessageTooLarge, PositionLost, StreamMissing
from cutbank.records import Message, Partition, Position
from cutbank.testing.group_contract import GroupContract
from cutbank.testing.log_under_test import LogUnderTest, everything
from cutbank.transports.base import Start, StreamConfig, Transport

EVERYTHING = {"records_max": 100_000, "bytes_max": 1 << 30}
"""Limits that no test reaches."""


async def values(transport: Transport, stream: str) -> dict[str, list[bytes]]:
    """All values of a stream by partition id."""
    info = await transport.describe(stream)
    return {id_: list((await everything(transport, Partition(stream, id_))).values) for id_ in info.partition_ids}


def numbered(stream: str, numbers: Sequence[int], *, partition_id: str = "0") -> list[Message]:
    """Messages whose values are numbers."""
    return [Message(stream, b"%d" % number, partition_id=partition_id) for number in numbers]


class TransportContract(GroupContract):
    """The plain side of the protocol; the group side is inherited."""

    async def test_a_stream_is_made_once_and_left_as_it_is(self, log: LogUnderTest) -> None:
        first, second = await log.open(), await log.open()
        made = await first.ensure(StreamConfig("b", partitions=3, retention_ms=3_600_000))
        again = await second.ensure(StreamConfig("b", partitions=5, retention_ms=7_200_000))
        assert made == again == await second.describe("b")
        assert made.partition_ids == ("0", "1", "2")
        assert made.retention_ms == 3_600_000
        await second.ensure(StreamConfig("a"))
        assert await first.streams() == ("a", "b")

    async def test_concurrent_makers_make_one_stream(self, log: LogUnderTest) -> None:
        handles = [await log.open() for _ in range(3)]
        made = await asyncio.gather(*(handle.ensure(StreamConfig("s", partitions=2)) for handle in handles))
        assert len({info.identity for info in made}) == 1

    async def test_what_is_missing_is_said(self, log: LogUnderTest) -> None:
        transport = await log.open()
        nowhere = Partition("nowhere", "0")
        with pytest.raises(StreamMissing):
            await transport.describe("nowhere")
        with pytest.raises(StreamMissing):
            await transport.publish([Message("nowhere", b"x")])
        with pytest.raises(StreamMissing):
            await transport.read(nowhere, Position(0), **EVERYTHING)
        with pytest.raises(StreamMissing):
            await transport.position_at(nowhere, Start("latest"))
        await transport.ensure(StreamConfig("s"))
        with pytest.raises(StreamMissing):
            await transport.publish([Message("s", b"x", partition_id="7")])
        with pytest.raises(StreamMissing):
            await transport.read(Partition("s", "7"), Position(0), **EVERYTHING)

    async def test_records_come_back_in_order_with_keys_and_values(self, log: LogUnderTest) -> None:
        writer, reader = await log.open(), await log.open()
        await writer.ensure(StreamConfig("s"))
        sent = [(b"k1", b"one"), (None, b""), (b"", b"three"), (b"k4", b"\x00\xff" * 5000)]
        await writer.publish([Message("s", value, key) for key, value in sent[:3]])
        await writer.publish([Message("s", value, key) for key, value in sent[3:]])
        got = await everything(reader, Partition("s", "0"))
        assert list(zip(got.keys, got.values, strict=True)) == sent

    async def test_positions_increase_and_batches_join(self, log: LogUnderTest) -> None:
        transport = await log.open()
        await transport.ensure(StreamConfig("s"))
        for first in range(0, 60, 20):
            await transport.publish(numbered("s", range(first, first + 20)))
        partition = Partition("s", "0")
        whole = await everything(transport, partition)
        assert whole.start <= whole.positions[0]
        assert all(a < b for a, b in pairwise([*whole.positions, whole.end]))
        found: list[bytes] = []
        position = whole.start
        while len(batch := await transport.read(partition, position, records_max=7, bytes_max=1 << 20)):
            assert batch.start == position
            assert len(batch) <= 7
            found += batch.values
            position = batch.end
        assert found == whole.values
        for index in (0, 19, 20, 33, 59):
            batch = await transport.read(partition, whole.positions[index], records_max=1, bytes_max=1 << 20)
            assert batch.values == [whole.values[index]]
            assert batch.positions[0] == whole.positions[index]

    async def test_reading_keeps_to_bytes_but_gives_one_record(self, log: LogUnderTest) -> None:
        transport = await log.open()
        await transport.ensure(StreamConfig("s"))
        await transport.publish([Message("s", b"x" * 1000) for _ in range(50)])
        partition = Partition("s", "0")
        start = await transport.position_at(partition, Start("earliest"))
        some = await transport.read(partition, start, records_max=50, bytes_max=10_000)
        assert 1 <= len(some) <= 11
        one = await transport.read(partition, start, records_max=50, bytes_max=1)
        assert len(one) == 1

    async def test_the_end_is_empty(self, log: LogUnderTest) -> None:
        transport = await log.open()
        await transport.ensure(StreamConfig("s"))
        partition = Partition("s", "0")
        for _ in range(2):
            end = await transport.position_at(partition, Start("latest"))
            batch = await transport.read(partition, end, **EVERYTHING)
            assert (len(batch), batch.start, batch.end) == (0, end, end)
            await transport.publish([Message("s", b"x")])
            batch = await transport.read(partition, end, **EVERYTHING)
            assert batch.values == [b"x"]

    async def test_a_publish_is_whole_or_not_at_all(self, log: LogUnderTest) -> None:
        transport = await log.open()
        await transport.ensure(StreamConfig("s", partitions=2))
        good = numbered("s", range(3)) + numbered("s", range(3), partition_id="1")
        too_large = Message("s", bytes(log.value_bytes_max + 1))
        with pytest.raises(MessageTooLarge) as refused:
            await transport.publish([*good, too_large])
        assert refused.value.bytes_max == log.value_bytes_max
        with pytest.raises(StreamMissing):
            await transport.publish([*good, Message("nowhere", b"x")])
        assert await values(transport, "s") == {"0": [], "1": []}
        await transport.publish([*good, Message("s", bytes(log.value_bytes_max), partition_id="1")])
        there = await values(transport, "s")
        assert [len(there["0"]), len(there["1"])] == [3, 4]
        assert len(there["1"][3]) == log.value_bytes_max

    async def test_concurrent_publishers_keep_their_orders(self, log: LogUnderTest) -> None:
        handles = [await log.open() for _ in range(3)]
        await handles[0].ensure(StreamConfig("s"))

        async def publish(writer: int) -> None:
            for number in range(0, 40, 4):
                await handles[writer].publish([Message("s", b"%d:%d" % (writer, number + i)) for i in range(4)])

        await asyncio.gather(*(publish(writer) for writer in range(3)))
        got = (await values(handles[0], "s"))["0"]
        for writer in range(3):
            mine = [value for value in got if value.startswith(b"%d:" % writer)]
            assert mine == [b"%d:%d" % (writer, number) for number in range(40)]
        assert len(got) == 120

    async def test_keys_choose_partitions_always_the_same(self, log: LogUnderTest) -> None:
        first, second = await log.open(), await log.open()
        await first.ensure(StreamConfig("s", partitions=4))
        keys = [b"key-%d" % number for number in range(40)]
        await first.publish([Message("s", key, key) for key in keys])
        once = await values(first, "s")
        await second.publish([Message("s", key, key) for key in reversed(keys)])
        twice = await values(second, "s")
        assert all(set(twice[id_]) == set(once[id_]) for id_ in once)
        assert sum(bool(part) for part in once.values()) > 1

    async def test_without_a_key_every_partition_gets_its_part(self, log: LogUnderTest) -> None:
        transport = await log.open()
        await transport.ensure(StreamConfig("s", partitions=4))
        for _ in range(20):
            await transport.publish([Message("s", b"x") for _ in range(20)])
        assert all((await values(transport, "s")).values())

    async def test_starts_are_resolved(self, log: LogUnderTest) -> None:
        transport = await log.open()
        await transport.ensure(StreamConfig("s"))
        partition = Partition("s", "0")
        assert await transport.position_at(partition, Start("timestamp", 0)) == await transport.position_at(
            partition, Start("latest")
        )
        for number in range(4):
            await transport.publish(numbered("s", [3 * number, 3 * number + 1, 3 * number + 2]))
            await log.tick()
        got = await everything(transport, partition)
        assert all(a <= b for a, b in pairwise(got.arrivals_ms)), "arrivals never decrease"
        assert got.arrivals_ms[0] < got.arrivals_ms[-1], "ticks take time"
        for timestamp_ms in (0, *got.arrivals_ms, got.arrivals_ms[4] + 1, got.arrivals_ms[-1] + 1):
            at = await transport.position_at(partition, Start("timestamp", timestamp_ms))
            batch = await transport.read(partition, at, **EVERYTHING)
            expected = [v for v, ms in zip(got.values, got.arrivals_ms, strict=True) if ms >= timestamp_ms]
            assert batch.values == expected
        latest = await transport.position_at(partition, Start("latest"))
        assert latest > got.positions[-1]

    async def test_past_retention_is_lost_and_positions_go_on(self, log: LogUnderTest) -> None:
        transport = await log.open()
        await transport.ensure(StreamConfig("s", retention_ms=60_000))
        partition = Partition("s", "0")
        await transport.publish(numbered("s", range(10)))
        old = await everything(transport, partition)
        await log.expire("s")
        info = (await transport.describe("s")).partitions[0]
        assert info.oldest > old.positions[-1]
        assert info.end >= info.oldest
        with pytest.raises(PositionLost):
            await transport.read(partition, old.positions[3], **EVERYTHING)
        assert await transport.position_at(partition, Start("earliest")) == info.oldest
        await transport.publish([Message("s", b"new")])
        new = await everything(transport, partition)
        assert new.values == [b"new"]
        assert new.positions[0] >= info.end > old.positions[-1]

    async def test_another_stream_under_the_name_has_another_identity(self, log: LogUnderTest) -> None:
        transport = await log.open()
        before = await transport.ensure(StreamConfig("s"))
        await transport.publish([Message("s", b"old")])
        await log.delete("s")
        with pytest.raises(StreamMissing):
            await transport.publish([Message("s", b"nowhere")])
        after = await transport.ensure(StreamConfig("s"))
        assert after.identity != before.identity
        await transport.publish([Message("s", b"new")])
        assert await values(transport, "s") == {"0": [b"new"]}
