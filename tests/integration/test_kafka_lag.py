"""Lag and latency on a real Kafka, as /metrics tells them: right while a scorer is behind, zero when it is not.

Every call that publishes to the source leaves a marker in each partition, which takes a position and is no record.
"""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import orjson
import pytest

from brokers.fixtures import Broker
from cutbank.clock import Clock, SystemClock
from cutbank.metrics import Metrics
from cutbank.records import Message
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.runtime.service import Runtime
from cutbank.testing.taps import Call, TappedTransport
from cutbank.transports.base import Tell, Transport, tell_nobody
from cutbank.transports.registry import TRANSPORTS, open_kafka
from cutbank_sink.app import SERVICE as SINK
from cutbank_sink.settings import SinkSettings
from scorers_on_kafka import PARTITIONS, Site, until
from scoring_stage import trades

T = TypeVar("T")
CALLS = 40
PER_CALL = 10
GZIP = b"\x1f\x8b"
LATENCY = "cutbank_arrival_to_published_seconds"
HELD_S = 2.5
"""How old the oldest unpublished record is to become: more than the period at which the gauges are set."""


@pytest.fixture
async def site(broker: Broker, tmp_path: Path) -> AsyncIterator[Site]:
    async with Site(broker, tmp_path) as site:
        yield site


class Gate:
    """Around every Kafka transport that is opened: holds up each publish-and-commit while it is shut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = asyncio.Event()
        self.open.set()
        monkeypatch.setitem(TRANSPORTS, "kafka", self._open)

    def _open(
        self, url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None, tell: Tell = tell_nobody
    ) -> Transport:
        return TappedTransport(
            open_kafka(url, clock=clock, metrics=metrics, client_id=client_id, tell=tell), self._around
        )

    async def _around(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        if call.name == "publish_and_commit":
            await self.open.wait()
        return await do()


def lag(runtime: Runtime, what: str, partition: str) -> float:
    assert isinstance(runtime.metrics, PrometheusMetrics)
    return runtime.metrics.value(f"cutbank_lag_{what}", role="scorer", partition=f"trades/{partition}")


async def caught_up(site: Site, runtime: Runtime) -> None:
    """Once all is scored, and the gauges say so."""
    await site.all_scored()

    async def zero() -> bool:
        return not any(lag(runtime, what, one) for what in ("records", "seconds") for one in "01")

    await until(zero, what="no lag")


async def test_a_successor_tells_how_far_behind_a_stopped_scorer_left_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    values = trades(100 + CALLS * PER_CALL)
    async with site.service() as runtime:
        for first in range(0, 100, PER_CALL):
            await site.publish(values[first : first + PER_CALL])
        await caught_up(site, runtime)
    before = await site.lines(site.spec.destination)

    gate.open.clear()
    began_s = time.time()
    for first in range(100, len(values), PER_CALL):  # partition 1 gets nothing
        part = values[first : first + PER_CALL]
        await site.transport.publish([Message("trades", value, partition_id="0") for value in part])
    ended_s = time.time()
    behind = CALLS * PER_CALL
    async with site.service() as runtime:
        metrics = runtime.metrics
        assert isinstance(metrics, PrometheusMetrics)

        async def told() -> bool:
            # Until all is fetched, markers can't be told from records.
            assert lag(runtime, "records", "0") <= behind + CALLS
            return lag(runtime, "records", "0") == behind and lag(runtime, "seconds", "0") >= HELD_S

        await until(told, what=f"a lag of {behind} records")
        seconds = lag(runtime, "seconds", "0")
        assert seconds <= time.time() - began_s + 0.001
        assert lag(runtime, "records", "1") == lag(runtime, "seconds", "1") == 0
        assert metrics.value(LATENCY) == 0
        gate.open.set()
        held_s = time.time() - ended_s
        await caught_up(site, runtime)
        lines = (await site.lines(site.spec.destination))["0"][len(before["0"]) :]
        assert lines

        async def counted() -> bool:
            return metrics.value(LATENCY) == metrics.value("cutbank_anomalies_total") == len(lines)

        await until(counted, what="every anomaly to be counted")
        total_s = metrics.registry.get_sample_value(f"{LATENCY}_sum")
        assert total_s is not None
        assert held_s - 0.001 <= total_s / len(lines) <= time.time() - began_s + 0.001


async def test_a_process_tells_it_at_its_metrics_address(site: Site) -> None:
    began_s = time.time()
    async with site.process() as scorer:
        values = trades(200)
        for first in range(0, len(values), 20):
            await site.publish(values[first : first + 20])
        await site.all_scored()

        async def zero() -> bool:
            labels = [{"role": "scorer", "partition": f"trades/{one}"} for one in "01"]
            return not any([await scorer.metric("cutbank_lag_records", **which) for which in labels])

        await until(zero, what="no lag")

        async def counted() -> bool:
            return await scorer.metric("cutbank_records_scored_total") == PARTITIONS * len(values)

        await until(counted, what="every record to be counted")
        figures = await scorer.metrics()
        anomalies = sum(map(len, (await site.lines(site.spec.destination)).values()))
        assert anomalies > 0
        assert figures[f"{LATENCY}_count", ()] == anomalies
        assert figures[f"{LATENCY}_bucket", (("le", "+Inf"),)] == anomalies
        assert 0 < figures[f"{LATENCY}_sum", ()] / anomalies <= time.time() - began_s
        for one in "01":
            assert figures["cutbank_lag_seconds", (("partition", f"trades/{one}"), ("role", "scorer"))] == 0
    rows = [orjson.loads(line) for part in (await site.lines(site.spec.destination)).values() for line in part]
    assert all(row["ANOMALY_SCORE"] > site.spec.threshold for row in rows)


async def test_a_sink_that_has_read_all_is_not_behind_though_markers_follow(site: Site) -> None:
    """Each of the scorer's steps leaves a marker among the anomalies too."""
    values = trades(200)
    async with site.service():
        for first in range(0, len(values), 20):
            await site.publish(values[first : first + 20])
            await site.all_scored()
    lines = await site.lines(site.spec.destination)
    ends = {info.partition.id: info.end for info in (await site.transport.describe(site.spec.destination)).partitions}
    assert all(ends[one] > len(part) > 0 for one, part in lines.items())
    metrics = PrometheusMetrics()
    runtime = Runtime(clock=SystemClock(), metrics=metrics)
    told = SinkSettings.load(
        {**site.environment(), "CUTBANK_STORE_URL": f"file://{site.folder}/objects", "CUTBANK_FLUSH_ON_STOP": "true"}
    )
    running = asyncio.ensure_future(SINK.run(told, runtime))

    def lag(what: str, one: str) -> float | None:
        labels = {"role": "sink", "partition": f"{site.spec.destination}/{one}"}
        return metrics.registry.get_sample_value(f"cutbank_lag_{what}", labels)

    async def caught_up() -> bool:
        assert not running.done(), "the sink has ended"
        return all(lag(what, one) == 0 for what in ("records", "seconds") for one in lines)

    await until(caught_up, what="no lag")
    runtime.stop.set()
    await running
    stored = [line for path in (site.folder / "objects").rglob("*") if path.is_file() for line in path_lines(path)]
    assert sorted(stored) == sorted(orjson.loads(line)["id"] for part in lines.values() for line in part)


def path_lines(path: Path) -> list[int]:
    """The ids of the anomalies in a data object; none in another."""
    if "_cutbank" in path.parts:
        return []
    body = path.read_bytes()
    return [orjson.loads(line)["id"] for line in (gzip.decompress(body) if body[:2] == GZIP else body).splitlines()]
