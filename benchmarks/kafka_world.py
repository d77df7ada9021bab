"""The world of `make bench-kafka`: a broker, filled topics, scorer processes, and a clock on the committed position.

Owns the broker and the processes that it starts; all end with the stack. Linux only (/proc). Event-loop only, but for
starting and closing.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from pipeline import Process

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from brokers.jars import kafka_version
from brokers.kafka_server import KafkaCluster
from cutbank.errors import StreamUnavailable
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Partition
from cutbank.transports.base import StreamConfig, Transport

RECORD_BYTES = 128
BATCH_RECORDS = 500
"""Records in one batch of the log: 64 kB before compression, as a busy producer with a linger of some ms sends them."""
DISTINCT = 100_000
POLL_S = 0.02
READY_S_MAX = 180.0
DONE_S_MAX = 600.0
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def broker(folder: Path, stack: ExitStack) -> tuple[str, str]:
    """Its servers and its name: KAFKA_BOOTSTRAP_SERVERS, or one of ours."""
    if there := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return there, f"what is at {there}"
    cluster = stack.enter_context(KafkaCluster(folder / "broker"))
    return cluster.bootstrap_servers, f"Apache Kafka {kafka_version()}, one broker on this machine"


def trades(count: int, *, seed: int = 7) -> list[bytes]:
    """JSON of exactly RECORD_BYTES, two features among six fields; 5 % are 2 to 3 times as high."""
    rng = random.Random(seed)
    values = []
    for number in range(count):
        factor = rng.uniform(2.0, 3.0) if rng.random() < 0.05 else 1.0
        record: dict[str, Any] = {
            "tickerSymbol": rng.choice(("AMZN", "AAPL", "GOOGL", "MSFT", "TSLA")),
            "tradeType": rng.choice(("BUY", "SELL")),
            "price": round(rng.gauss(100.0, 5.0) * factor, 2),
            "quantity": round(rng.gauss(500.0, 50.0) * factor),
            "id": 1_000_000_000 + number,
            "trader": "",
        }
        missing = RECORD_BYTES - len(orjson.dumps(record))
        record["trader"] = f"{rng.getrandbits(4 * missing):0{missing}x}"
        values.append(orjson.dumps(record))
    assert {len(value) for value in values} == {RECORD_BYTES}
    return values


async def fill(servers: str, topic: str, values: Sequence[bytes], *, records: int, partitions: int = 1) -> None:
    """`records` of `values`, over and over, in whole batches turn by turn on each partition."""
    assert records % (BATCH_RECORDS * partitions) == 0, "whole batches"
    async with AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", compression_type="lz4", max_batch_size=1 << 20, retry_backoff_ms=5
    ) as producer:
        waiting: list[asyncio.Future[Any]] = []
        for number in range(records // BATCH_RECORDS):
            batch = producer.create_batch()
            first = number * BATCH_RECORDS
            for index in range(first, first + BATCH_RECORDS):
                assert batch.append(key=None, value=values[index % len(values)], timestamp=None) is not None
            batch.close()
            waiting.append(await producer.send_batch(batch, topic, partition=number % partitions))
            if len(waiting) == 4 * partitions:
                await asyncio.gather(*waiting)
                waiting.clear()
        await asyncio.gather(*waiting)


def cpu_s(process_id: int) -> float:
    """User and system time that a process and its threads have taken so far, s."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


class Scorer(Process):
    """One scorer service; `module` is what `python -m` runs."""

    def __init__(self, name: str, module: str, environ: Mapping[str, str], folder: Path, stack: ExitStack) -> None:
        super().__init__(name, environ, folder, stack, command=(sys.executable, "-m", module))

    def said(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of this event."""
        lines = self.log.read_bytes().splitlines()
        records = [json.loads(line) for line in lines if line.startswith(b"{")]
        return [record for record in records if record.get("event") == event]

    async def until_said(self, event: str, *, times: int = 1) -> None:
        """Wait for it; ends the run if it does not come."""
        deadline_s = time.monotonic() + READY_S_MAX
        while len(self.said(event)) < times:
            self.check()
            if time.monotonic() > deadline_s:
                raise SystemExit(f"{self.name} did not say {event!r}:\n{self.log.read_text()[-2000:]}")
            await asyncio.sleep(POLL_S)


@dataclass(frozen=True)
class Pace:
    """How fast scorers went between their warm-up and the end."""

    records: int
    took_s: float
    cpu_s: float
    ended_s: float
    """When the last record was seen to be done, on the wall clock."""

    @property
    def records_per_s(self) -> float:
        """Of all of them together."""
        return self.records / self.took_s

    @property
    def records_per_cpu_s(self) -> float:
        """Of all of them together, per second of processor time."""
        return self.records / self.cpu_s


class Pipeline:
    """One pipeline on the broker under a prefix of its own, its streams made."""

    def __init__(self, servers: str, name: str, folder: Path, *, partitions: int = 1) -> None:
        self.spec = PipelineSpec()
        self.partitions = partitions
        self.url = f"kafka://{servers}?prefix={name}-"
        self.topic = f"{name}-{self.spec.source}"
        self.destination = f"{name}-{self.spec.destination}"
        self.folder = folder / name
        self.folder.mkdir()
        self.environ = {
            "CUTBANK_TRANSPORT_URL": self.url,
            "CUTBANK_STATE_URL": f"file://{self.folder}/state",
            "CUTBANK_HTTP_PORT": "off",
            "CUTBANK_LOG_FORMAT": "json",
            "CUTBANK_SNAPSHOT_S": "60",  # as the figure asks
        }

    async def ensure(self, transport: Transport) -> None:
        """Make its streams."""
        for stream in (self.spec.source, self.spec.destination, self.spec.errors, self.spec.scores):
            count = self.partitions if stream == self.spec.source else 1
            await transport.ensure(StreamConfig(stream, partitions=count))

    def scorer(self, stack: ExitStack, *, module: str = "cutbank_scorer", name: str = "scorer") -> Scorer:
        """Start one."""
        return Scorer(name, module, self.environ, self.folder, stack)

    async def done(self, transport: Transport) -> int:
        """Records committed; positions of the source have no gaps, since `fill` uses no transactions."""
        total = 0
        for number in range(self.partitions):
            while True:
                try:
                    position = await transport.committed(
                        f"{self.spec.name}.scorer", Partition(self.spec.source, str(number))
                    )
                    break
                except StreamUnavailable:
                    continue  # hidden behind a transaction; the transport has waited
            total += position or 0
        return total

    async def pace(self, transport: Transport, scorers: Sequence[Scorer], *, warm: int, records: int) -> Pace:
        """From the first look that finds `warm` committed to the one that finds all."""
        began: tuple[int, float, float] | None = None
        deadline_s = time.monotonic() + DONE_S_MAX
        while True:
            done, now_s = await self.done(transport), time.monotonic()
            if began is None and done >= warm:
                began = (done, now_s, sum(cpu_s(scorer.process_id) for scorer in scorers))
            if done >= records:
                break
            for scorer in scorers:
                scorer.check()
            if now_s > deadline_s:
                raise SystemExit(f"{done} of {records} records after {DONE_S_MAX:.0f} s")
            await asyncio.sleep(POLL_S)
        assert began is not None
        spent_s = sum(cpu_s(scorer.process_id) for scorer in scorers) - began[2]
        assert done > began[0], "the warm-up took it all; more records are needed"
        return Pace(done - began[0], now_s - began[1], spent_s, time.time() - (time.monotonic() - now_s))
