"""The embedded log between real processes: killed, stopped and racing. Run as a script, this file is such a process."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import structlog

from cutbank.clock import SystemClock
from cutbank.errors import Fenced, StreamUnavailable
from cutbank.metrics import NoMetrics
from cutbank.records import Batch, Message, Partition, Position
from cutbank.transports import open_transport
from cutbank.transports.base import Assigned, Lease, Output, Revoked, Start, StreamConfig, Transport

QUICK = "heartbeat_ms=50&session_timeout_ms=600"
WAIT_S_MAX = 60.0
PER_CALL = 50


def open_log(url: str) -> Transport:
    return open_transport(url, clock=SystemClock(), metrics=NoMetrics())


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


# What the processes do.


async def publish_forever(url: str, name: str, calls_max: int) -> None:
    """Whole calls of PER_CALL numbered records, over two partitions, saying each call that was acknowledged."""
    async with open_log(url) as transport:
        for call in range(calls_max):
            values = [b"%s %d %d" % (name.encode(), call, number) for number in range(PER_CALL)]
            await transport.publish([Message("s", v, partition_id=str(i % 2)) for i, v in enumerate(values)])
            say(call=call)


async def hold(url: str) -> None:
    """Hold what is assigned; try to commit whenever a line comes in; say everything."""
    async with open_log(url) as transport, transport.consumer("g", ["s"]) as consumer:
        leases: dict[str, Lease] = {}

        async def follow() -> None:
            async for event in consumer.events():
                leases[event.lease.partition.id] = event.lease
                say(event=type(event).__name__, partition=event.lease.partition.id)
                if isinstance(event, Revoked):
                    await event.lease.release()

        following = asyncio.create_task(follow())
        while line := await asyncio.to_thread(sys.stdin.readline):
            lease = leases[line.strip()]
            try:
                await lease.publish_and_commit([Output("out", b"from the child")], Position(7))
                say(committed=lease.partition.id)
            except Fenced:
                say(fenced=lease.partition.id)
        following.cancel()


async def transform(url: str, records_max: int) -> None:
    """What a scorer does: each record of `s` becomes one of `out`, with the commit of its position; a batch a line."""
    go = asyncio.Semaphore(0)

    async def work(lease: Lease, revoked: asyncio.Event) -> None:
        with suppress(Fenced):
            lease.seek(await lease.fence() or Position(0))
            while not revoked.is_set():
                batch = await lease.receive(records_max=records_max, bytes_max=1 << 20, wait_s=0.2)
                if len(batch):
                    await go.acquire()
                    outputs = [Output("out", b"out of " + value) for value in batch.values]
                    await lease.publish_and_commit(outputs, batch.end)
                    say(done=len(batch))
        await lease.release()

    async def obey() -> None:
        while await asyncio.to_thread(sys.stdin.readline):
            go.release()

    flags: dict[Lease, asyncio.Event] = {}
    async with open_log(url) as transport, transport.consumer("g", ["s"]) as consumer, asyncio.TaskGroup() as tasks:
        tasks.create_task(obey())
        async for event in consumer.events():
            if isinstance(event, Assigned):
                flags[event.lease] = asyncio.Event()
                tasks.create_task(work(event.lease, flags[event.lease]))
            else:
                flags[event.lease].set()
                go.release()  # A task that waits for its turn need not wait any longer.


# The tests.


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"local://{tmp_path}/log.db?{QUICK}"


@pytest.fixture
async def transport(url: str) -> AsyncIterator[Transport]:
    async with open_log(url) as opened:
        await opened.ensure(StreamConfig("s", partitions=2))
        await opened.ensure(StreamConfig("out", partitions=2))
        yield opened


@contextmanager
def process(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A process of this file, killed at the end."""
    with subprocess.Popen(
        [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            with suppress(ProcessLookupError):
                running.send_signal(signal.SIGCONT)
            running.kill()


async def line(running: "subprocess.Popen[str]") -> dict[str, object]:
    """The next thing that a process says."""
    assert running.stdout is not None
    async with asyncio.timeout(WAIT_S_MAX):
        text = await asyncio.to_thread(running.stdout.readline)
    assert text, "the process has ended"
    return json.loads(text)  # type: ignore[no-any-return]


async def line_with(running: "subprocess.Popen[str]", key: str) -> object:
    """What a process says under this key, the next time it does."""
    while key not in (said := await line(running)):
        pass
    return said[key]


async def tell(running: "subprocess.Popen[str]", *lines: str) -> None:
    assert running.stdin is not None
    running.stdin.write("".join(text + "\n" for text in lines))
    running.stdin.flush()


async def everything(transport: Transport, stream: str) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for id_ in (await transport.describe(stream)).partition_ids:
        partition = Partition(stream, id_)
        found[id_], position = [], await transport.position_at(partition, Start("earliest"))
        while len(batch := await transport.read(partition, position, records_max=5000, bytes_max=1 << 22)):
            found[id_] += batch.values
            position = batch.end
    return found


async def test_a_killed_owners_partitions_pass_to_another(url: str, transport: Transport) -> None:
    with process("hold", url) as owner:
        assert {(await line(owner))["partition"], (await line(owner))["partition"]} == {"0", "1"}
        await tell(owner, "0")
        assert await line_with(owner, "committed") == "0"
        async with transport.consumer("g", ["s"]) as heir:
            events = heir.events()
            first = await anext(events)
            assert isinstance(first, Assigned), "it shares while both live"
            owner.send_signal(signal.SIGKILL)
            async with asyncio.timeout(WAIT_S_MAX):
                second = await anext(events)
            assert isinstance(second, Assigned)
            assert {first.lease.partition.id, second.lease.partition.id} == {"0", "1"}
            committed = {lease.partition.id: await lease.fence() for lease in (first.lease, second.lease)}
            assert committed == {"0": 7, "1": None}


async def test_a_stopped_owner_wakes_up_fenced_and_joins_again(url: str, transport: Transport) -> None:
    with process("hold", url) as owner:
        await line(owner)
        await line(owner)
        async with open_log(url + "&busy_ms=200") as probe:
            while True:
                owner.send_signal(signal.SIGSTOP)
                try:
                    await probe.publish([Message("s", b"is the lock free?")])
                    break
                except StreamUnavailable:
                    # Stopped in the middle of a heartbeat, it holds the file's lock: nobody can do anything.
                    owner.send_signal(signal.SIGCONT)
        async with transport.consumer("g", ["s"]) as heir:
            events = heir.events()
            leases: dict[str, Lease] = {}
            async with asyncio.timeout(WAIT_S_MAX):
                while len(leases) < 2:
                    event = await anext(events)
                    assert isinstance(event, Assigned)
                    leases[event.lease.partition.id] = event.lease
            assert await leases["0"].fence() is None
            await tell(owner, "0")
            owner.send_signal(signal.SIGCONT)
            said = await line(owner)
            while "event" in said:
                assert said["event"] != "Assigned", "its old lease answers first"
                said = await line(owner)
            assert said == {"fenced": "0"}
            assert await leases["0"].committed() is None
            assert await everything(transport, "out") == {"0": [], "1": []}
            revoked = await anext(events)
            assert isinstance(revoked, Revoked), "it has joined again and is to have its share"
            await revoked.lease.release()
            while await line_with(owner, "event") != "Assigned":
                pass


async def test_two_write_while_one_reads_and_nothing_is_lost_or_doubled(url: str, transport: Transport) -> None:
    calls = 60
    got: dict[str, list[bytes]] = {"0": [], "1": []}

    async def read(lease: Lease) -> None:
        lease.seek(await lease.fence() or Position(0))
        while len(got[lease.partition.id]) < calls * PER_CALL:
            batch: Batch = await lease.receive(records_max=333, bytes_max=5000, wait_s=WAIT_S_MAX)
            got[lease.partition.id] += batch.values
            await lease.commit(batch.end)

    async with transport.consumer("g", ["s"]) as consumer:
        events = consumer.events()
        leases = [(await anext(events)).lease for _ in range(2)]
        with process("publish_forever", url, "a", str(calls)), process("publish_forever", url, "b", str(calls)):
            async with asyncio.timeout(WAIT_S_MAX):
                await asyncio.gather(*(read(lease) for lease in leases))
    for id_, values in got.items():
        for name in (b"a", b"b"):
            mine = [value for value in values if value.startswith(name)]
            assert mine == [
                b"%s %d %d" % (name, call, number)
                for call in range(calls)
                for number in range(PER_CALL)
                if number % 2 == int(id_)
            ]


@pytest.mark.slow
async def test_a_producer_killed_while_it_publishes_leaves_whole_calls(url: str, transport: Transport) -> None:
    rng = random.Random(3)  # where the kills fall
    acknowledged: dict[str, int] = {}
    for name in ("a", "b", "c", "d"):
        with process("publish_forever", url, name, "100000") as producer:
            for _ in range(rng.randrange(3, 25)):
                acknowledged[name] = int(str(await line_with(producer, "call")))
            producer.send_signal(signal.SIGKILL)
            producer.wait()
            assert producer.stdout is not None
            for text in producer.stdout:
                with suppress(json.JSONDecodeError):  # The last line may be cut.
                    acknowledged[name] = json.loads(text)["call"]
    there = await everything(transport, "s")
    calls: dict[tuple[str, int], list[int]] = {}
    for value in there["0"] + there["1"]:
        name, call, number = value.decode().split()
        calls.setdefault((name, int(call)), []).append(int(number))
    assert all(sorted(numbers) == list(range(PER_CALL)) for numbers in calls.values()), "each call whole, once"
    for name, last in acknowledged.items():
        found = sorted(call for who, call in calls if who == name)
        assert found in (list(range(last + 1)), list(range(last + 2))), (
            "all that was acknowledged, and at most one more"
        )


@pytest.mark.slow
async def test_transformers_killed_at_any_moment_transform_each_record_once(url: str, transport: Transport) -> None:
    rng = random.Random(11)  # where the kills fall
    total, turns = 6000, 60  # More than all turns of all rounds together can transform, in each partition.
    await transport.publish([Message("s", b"%d" % number, partition_id=str(number % 2)) for number in range(total)])
    for _ in range(3):
        with process("transform", url, "7") as one, process("transform", url, "7") as two:
            await tell(one, *["go"] * turns)
            await tell(two, *["go"] * turns)
            for _ in range(rng.randrange(1, 20)):
                await line_with(one, "done")
            one.send_signal(signal.SIGKILL)
            await line_with(two, "done")
    done = sum(info.end for info in (await transport.describe("out")).partitions)
    assert 0 < done < total
    with process("transform", url, "500") as last:
        await tell(last, *["go"] * (total // 500 + 10))
        while done < total:
            await line_with(last, "done")
            done = sum(info.end for info in (await transport.describe("out")).partitions)
    source, out = await everything(transport, "s"), await everything(transport, "out")
    assert sum(map(len, source.values())) == total
    assert out == {id_: [b"out of " + value for value in values] for id_, values in source.items()}


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    role, *arguments = sys.argv[1:]
    with suppress(KeyboardInterrupt, BrokenPipeError):
        if role == "publish_forever":
            asyncio.run(publish_forever(arguments[0], arguments[1], int(arguments[2])))
        else:
            asyncio.run(transform(arguments[0], int(arguments[1])) if role == "transform" else hold(arguments[0]))
    os._exit(0)
