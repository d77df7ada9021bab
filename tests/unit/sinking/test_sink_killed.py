"""The sink as a process, killed with kill -9 at random points of its work and started again."""

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.sinking import inspect, run_sink
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig
from cutbank_sink.settings import SinkSettings
from sinking_world import Counted, anomaly, ids

RECORDS = 2000
KILLS = 3
SESSION = "heartbeat_ms=50&session_timeout_ms=300"


@pytest.mark.slow
async def test_kills_at_random_points_lose_and_repeat_nothing(tmp_path: Path) -> None:
    rng = random.Random(4)
    settings = SinkSettings.load(
        {},
        transport_url=f"local://{tmp_path}/log.db?{SESSION}",
        store_url=f"file://{tmp_path}/objects",
        stretch_records_max=20,
        flush_on_stop=True,
    )
    clock = SystemClock()
    async with (
        open_transport(settings.transport_url, clock=clock, metrics=NoMetrics()) as transport,
        open_store(settings.store_url, clock=clock, metrics=NoMetrics()) as store,
    ):
        for stream in ("anomalies", "errors"):
            await transport.ensure(StreamConfig(stream))
        for first in range(0, RECORDS, 500):
            await transport.publish(
                [Message("anomalies", anomaly(n, pipeline=PipelineSpec().name)) for n in range(first, first + 500)]
            )

        async def claims() -> int:
            return len([key async for key, _ in inspect.links(store)])

        for _ in range(KILLS):
            wanted = await claims() + rng.randint(2, 25)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cutbank_sink", "--http-port", "off", "--log-level", "error"),
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "CUTBANK_TRANSPORT_URL": settings.transport_url,
                    "CUTBANK_STORE_URL": settings.store_url,
                    "CUTBANK_STRETCH_RECORDS_MAX": "20",
                },
            )
            async with asyncio.timeout(60):
                while await claims() < wanted:
                    assert process.returncode is None
                    await asyncio.sleep(0)
            process.kill()
            await process.wait()
        stop, metrics = asyncio.Event(), Counted()
        sink = asyncio.ensure_future(
            run_sink(
                transport, store, settings.config(PipelineSpec()), clock=clock, metrics=metrics, stop=stop, rng=rng
            )
        )
        async with asyncio.timeout(60):
            while metrics.gauges.get("cutbank_lag_records sink anomalies/0") != 0:
                assert not sink.done()
                await asyncio.sleep(0)
        stop.set()
        await asyncio.wait_for(sink, 60)
        end = 0
        lines: list[bytes] = []
        async for claim in inspect.claims(store):
            assert claim.start == end
            end = claim.end
            for item in claim.objects:
                lines += (await store.read(item.key)).removesuffix(b"\n").split(b"\n")
        assert end == RECORDS
        assert sorted(ids(lines)) == list(range(RECORDS))
