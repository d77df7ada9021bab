"""Any sequence of calls on the embedded log gives what a plain list in memory would give.

The model knows nothing of rows, files or threads: a partition is a list of records with a first position, a group is
who owns what in which epoch. Two handles act in turn, so that everything passes through the file.
"""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.errors import Fenced, PositionLost
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Partition, Position
from cutbank.testing import ManualClock
from cutbank.transports.base import Output, Start, StreamConfig
from cutbank.transports.local import LocalSettings, LocalTransport, groups
from cutbank.transports.local.lease import LocalLease

RETENTION_MS = 10_000
SOURCE, OUT = Partition("s", "0"), Partition("out", "0")


@dataclass
class Model:
    """One partition as a list of (arrival, key, value); one group of one partition."""

    first: int = 0
    records: list[tuple[int, bytes | None, bytes]] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.first + len(self.records)

    def append(self, records: list[tuple[bytes | None, bytes]], now_ms: int) -> None:
        arrival_ms = max(now_ms, self.records[-1][0] if self.records else self.last_ms)
        self.records += [(arrival_ms, key, value) for key, value in records]
        self.last_ms = arrival_ms

    last_ms: int = 0

    def expire(self, now_ms: int) -> None:
        kept = [record for record in self.records if record[0] > now_ms - RETENTION_MS]
        self.first += len(self.records) - len(kept)
        self.records = kept

    def at_or_after(self, timestamp_ms: int) -> int:
        return next((self.first + i for i, record in enumerate(self.records) if record[0] >= timestamp_ms), self.end)


RECORD = st.tuples(st.none() | st.binary(max_size=3), st.binary(max_size=12))
OPERATION = st.one_of(
    st.tuples(st.just("publish"), st.lists(RECORD, min_size=1, max_size=8)),
    st.tuples(st.just("read"), st.tuples(st.integers(-2, 30), st.integers(1, 12), st.integers(0, 60))),
    st.tuples(st.just("find"), st.integers(-12_000, 3_000)),
    st.tuples(st.just("pass"), st.integers(-2_000, 6_000)),
    st.tuples(st.just("expire"), st.none()),
    st.tuples(st.just("take"), st.integers(0, 1)),
    st.tuples(st.just("commit"), st.tuples(st.integers(0, 1), st.integers(0, 30))),
    st.tuples(
        st.just("publish_and_commit"),
        st.tuples(st.integers(0, 1), st.integers(0, 30), st.lists(st.binary(max_size=8), max_size=4)),
    ),
)


class Run:
    """The log and the model side by side."""

    def __init__(self, clock: ManualClock, handles: list[LocalTransport]) -> None:
        self.clock = clock
        self.handles = handles
        self.models = {SOURCE: Model(), OUT: Model()}
        self.turn = 0
        self.leases: list[LocalLease | None] = [None, None]
        self.owner: int | None = None
        self.committed: int | None = None

    @property
    def handle(self) -> LocalTransport:
        self.turn += 1
        return self.handles[self.turn % 2]

    async def publish(self, records: list[tuple[bytes | None, bytes]]) -> None:
        await self.handle.publish([Message("s", value, key, "0") for key, value in records])
        self.models[SOURCE].append(records, self.clock.now_ms())

    async def read(self, wanted: tuple[int, int, int]) -> None:
        offset, records_max, bytes_max = wanted
        for partition, model in self.models.items():
            start = max(0, model.first + offset)
            if start < model.first:
                with pytest.raises(PositionLost):
                    await self.handle.read(partition, Position(start), records_max=records_max, bytes_max=bytes_max)
                continue
            batch = await self.handle.read(partition, Position(start), records_max=records_max, bytes_max=bytes_max)
            expected = model.records[start - model.first :][:records_max]
            got = list(zip(batch.arrivals_ms, batch.keys, batch.values, strict=True))
            assert got == expected[: len(got)]
            assert list(batch.positions) == list(range(start, start + len(got)))
            assert (batch.start, batch.end) == (start, start + len(got))
            size = sum(len(value) for *_, value in got)
            assert size <= bytes_max or len(got) == 1
            if len(got) < len(expected):
                follows = len(expected[len(got)][2])
                assert size + follows > bytes_max or size == bytes_max, "stopped without need"
                assert got, "one record at least"

    async def find(self, ago_ms: int) -> None:
        timestamp_ms = self.clock.now_ms() + ago_ms
        for partition, model in self.models.items():
            assert await self.handle.position_at(partition, Start("earliest")) == model.first
            assert await self.handle.position_at(partition, Start("latest")) == model.end
            found = await self.handle.position_at(partition, Start("timestamp", timestamp_ms))
            assert found == model.at_or_after(timestamp_ms)

    async def expire(self, _: None) -> None:
        await self.handle.expire()
        for model in self.models.values():
            model.expire(self.clock.now_ms())

    async def take(self, member: int) -> None:
        """A new member takes the partition from whoever has it, as after a time-out."""
        engine = self.handles[member]._engine
        name = f"member {member}.{self.turn}"

        def takes(db: Any) -> groups.View:
            if self.owner is not None and (old := self.leases[self.owner]) is not None:
                groups.leave(db, "g", old.member_id)
            me = groups.Member(name, "g", ("s",), 5000)
            groups.join(db, me, takes=True)
            return groups.look(db, me, new_id="", takes=True, silence=groups.Silence(), passed_ms=None)

        view = await engine.write(takes)
        ((row_id, epoch),) = view.owned.items()

        async def give_back(_: LocalLease) -> None:
            raise AssertionError("nothing is released here")

        self.leases[member] = LocalLease(
            engine,
            group="g",
            member_id=name,
            row_id=row_id,
            epoch=epoch,
            partition=SOURCE,
            give_back=give_back,
            fenced=lambda: None,
        )
        self.turn += 1
        self.owner = member
        assert await self.leases[member].fence() == self.committed  # type: ignore[union-attr]

    async def commit(self, wanted: tuple[int, int]) -> None:
        await self.publish_and_commit((*wanted, []))

    async def publish_and_commit(self, wanted: tuple[int, int, list[bytes]]) -> None:
        member, position, outputs = wanted
        lease = self.leases[member]
        if lease is None:
            return
        call = lease.publish_and_commit([Output("out", value) for value in outputs], Position(position))
        if self.owner != member:
            with pytest.raises(Fenced):
                await call
        else:
            await call
            self.committed = position
            if outputs:
                self.models[OUT].append([(None, value) for value in outputs], self.clock.now_ms())
            assert await lease.fence() == position
        assert await self.handle.committed("g", SOURCE) == self.committed


async def run(operations: list[tuple[str, Any]], folder: Path) -> None:
    clock = ManualClock()
    options = LocalSettings(durability="process-crash")
    first = LocalTransport(folder / "log.db", options, clock=clock, metrics=NoMetrics())
    second = LocalTransport(folder / "log.db", options, clock=clock, metrics=NoMetrics())
    async with first, second:
        for stream in ("s", "out"):
            await first.ensure(StreamConfig(stream, retention_ms=RETENTION_MS))
        for transport in (first, second):
            # Removal is an operation here, not the transport's own task's.
            transport._keep = lambda: None  # type: ignore[method-assign]
        both = Run(clock, [first, second])
        for name, argument in operations:
            if name == "pass":
                clock.jump_wall(argument)
            else:
                await getattr(both, name)(argument)
        await both.find(0)
        await both.read((0, 1000, 1 << 20))


@settings(max_examples=60, deadline=None)
@given(operations=st.lists(OPERATION, min_size=5, max_size=40))
def test_the_log_is_a_list_in_a_file(operations: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(operations, Path(folder)))
