"""A replay on a real Kafka: the live lines again, each once, though cut off, and where positions have gaps."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest

from brokers.fixtures import Broker
from cutbank.clock import SystemClock
from cutbank.errors import StreamUnavailable
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.replaying import Account, Request, prepare, replay, running
from cutbank.pipeline.scoring import ScorerConfig, group_name, run_scorer
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.records import Message, Partition
from cutbank.retry import RetryPolicy
from cutbank.testing.taps import Call, TappedTransport
from cutbank.transports import open_transport
from cutbank.transports.base import Start, StreamConfig, Transport
from scoring_stage import DETECTORS, SPEC, trades

T = TypeVar("T")
RECORDS = 600
WAIT_S = 120.0


async def lines(transport: Transport, stream: str) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for info in (await transport.describe(stream)).partitions:
        position, values = info.oldest, found.setdefault(info.partition.id, [])
        while position < info.end:
            batch = await transport.read(info.partition, position, records_max=1000, bytes_max=1 << 24)
            values += batch.values
            if batch.end <= position:
                break
            position = batch.end
    return found


async def score(transport: Transport, folder: Path) -> None:
    """A live scorer, until it has caught up; a snapshot is taken at its end."""
    stop, clock = asyncio.Event(), SystemClock()
    async with open_store(f"file://{folder}/state", clock=clock, metrics=NoMetrics()) as store:
        scoring = asyncio.create_task(
            run_scorer(
                transport,
                store,
                SPEC,
                ScorerConfig(output_partitions=2, batch_records_max=50),
                clock=clock,
                metrics=NoMetrics(),
                stop=stop,
                rng=random.Random(1),
                detectors=DETECTORS,
            )
        )
        ends = {info.partition: info.end for info in (await transport.describe("trades")).partitions}
        for partition, end in ends.items():
            while ((await transport.committed(group_name(SPEC), partition)) or 0) < end:  # noqa: ASYNC110  # of the log
                await asyncio.sleep(0.02)
        stop.set()
        await scoring


async def publish(transport: Transport, first: int) -> None:
    for value in trades(RECORDS // 2, first=first):
        await transport.publish([Message("trades", value, partition_id=one) for one in "01"])


async def test_the_live_lines_once_though_cut_off(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "BATCH_RECORDS_MAX", 40)
    monkeypatch.setattr(running, "CALL", RetryPolicy(attempts_max=2))
    clock = SystemClock()
    url = f"{broker.url}?prefix=t{uuid4().hex[:12]}-&session_timeout_ms=6000&heartbeat_ms=100"
    left = 4

    async def tired(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        nonlocal left
        if call.name == "publish_and_commit":
            left -= 1
            if left < 0:
                raise StreamUnavailable("cut off")
        return await do()

    async with asyncio.timeout(WAIT_S), open_transport(url, clock=clock, metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig("trades", partitions=2))
        await publish(transport, 0)
        await score(transport, tmp_path)
        live = await lines(transport, "anomalies")
        committed = await transport.committed(group_name(SPEC), Partition("trades", "0"))

        async def again(through: Transport, output: str, start: Start) -> Account:
            account = Account()
            async with open_store(f"file://{tmp_path}/state", clock=clock, metrics=NoMetrics()) as store:
                room = StateRoom(store, pipeline=SPEC.name, stream="trades")
                request = Request(output=output, start=start)
                plan = await prepare(through, room, SPEC, request, detectors=DETECTORS)
                assert all(part.origin.live is not None for part in plan.parts)
                await replay(through, plan, account=account, clock=clock, rng=random.Random(1), threads=2)
            return account

        with pytest.raises(StreamUnavailable, match="cut off"):
            await again(TappedTransport(transport, tired), "again", Start("earliest"))
        some = await lines(transport, "again")
        assert 0 < sum(map(len, some.values())) < sum(map(len, live.values()))
        account = await again(transport, "again", Start("earliest"))
        assert await lines(transport, "again") == live
        assert account.total("lines") - account.total("published") == sum(map(len, some.values()))
        assert await transport.committed(group_name(SPEC), Partition("trades", "0")) == committed

        start = Start("timestamp", clock.now_ms())
        await publish(transport, RECORDS // 2)
        account = await again(transport, "later", start)
        assert account.total("learnt") == 0  # from the snapshots at the scorer's end
        await score(transport, tmp_path)
        whole = await lines(transport, "anomalies")
        assert await lines(transport, "later") == {one: rows[len(live[one]) :] for one, rows in whole.items()}
