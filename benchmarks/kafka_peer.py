"""What the scorer on Kafka is held against, each in a process of its own: bare readers, the detector alone, a source.

`python kafka_peer.py NAME JSON`: NAME is a function below, JSON its arguments; the result is JSON on the last line.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from kafka_world import DISTINCT, trades
from scoring import BATCH_RECORDS, PARTITION, batches

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.pipeline.scoring import PartitionModel
from cutbank.pipeline.scoring.decode import Decoder
from cutbank.pipeline.scoring.model import registered
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Position
from cutbank.transports import open_transport

FETCH_BYTES = 1 << 20


class Watch:
    """Wall and CPU time from the end of the warm-up on."""

    def __init__(self, warm: int) -> None:
        self._warm = warm
        self._began: tuple[int, float, float] | None = None
        self.records = 0

    def add(self, records: int) -> None:
        """So many more are done."""
        self.records += records
        if self._began is None and self.records >= self._warm:
            self._began = (self.records, time.perf_counter(), time.process_time())

    def figures(self) -> dict[str, float]:
        """Up to now."""
        assert self._began is not None, "no warm-up"
        first, wall_s, cpu_s = self._began
        count = self.records - first
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        return {"records_per_s": round(count / wall_s), "cpu_us_per_record": round(cpu_s / count * 1e6, 2)}


async def reader(servers: str, topic: str, records: int, warm: int, *, decode: bool) -> dict[str, float]:
    """A bare aiokafka consumer, read_committed, fetches as large as ours; with orjson on every value if `decode`."""
    watch = Watch(warm)
    async with AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level="read_committed", max_partition_fetch_bytes=FETCH_BYTES
    ) as consumer:
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        while watch.records < records:
            for found in (await consumer.getmany(timeout_ms=1000, max_records=BATCH_RECORDS)).values():
                if decode:
                    for record in found:
                        orjson.loads(record.value)
                watch.add(len(found))
    return watch.figures()


async def our_reader(url: str, stream: str, records: int, warm: int) -> dict[str, float]:
    """Our transport's plain `read`, without JSON: the client's share of the way, without read-ahead."""
    watch = Watch(warm)
    async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        partition = (await transport.describe(stream)).partitions[0].partition
        position = Position(0)
        while watch.records < records:
            batch = await transport.read(partition, position, records_max=BATCH_RECORDS, bytes_max=4 << 20)
            position = batch.end
            watch.add(len(batch))
    return watch.figures()


def _cut(records: int) -> list[Batch]:
    values = trades(DISTINCT)
    return batches([values[index % DISTINCT] for index in range(records)])


def alone(records: int, warm: int) -> dict[str, dict[str, float]]:
    """Decoding, the default detector, and a whole batch's way from values to lines: each alone, on one thread."""
    spec = PipelineSpec()
    source = registered(spec)
    source.self_check()  # compiles
    cut = _cut(records)
    decoder, detector = Decoder(spec), source.create()
    decoding, kernel, whole = Watch(warm), Watch(warm), Watch(warm)
    decoded = []
    for batch in cut:
        decoded.append(decoder.decode(batch.values))
        decoding.add(len(batch))
    result = {"decode": decoding.figures()}
    for part in decoded:
        detector.score_then_learn(part.features)
        kernel.add(len(part.features))
    result["detector"] = kernel.figures()
    del decoded
    run = Run(pipeline=spec.name, partition=PARTITION, identity="", number=1, spec_hash="")
    model = PartitionModel.born(spec, Birth(run=run, start=Position(0)), source)
    lines = 0
    for batch in cut:
        lines += len(model.apply(batch).outputs)
        whole.add(len(batch))
    result["decode_detector_encode"] = {**whole.figures(), "lines": lines}
    return result


async def source(servers: str, topic: str, records_per_s: int, seconds: float, tick_s: float) -> dict[str, float]:
    """Records at an even rate, a tick's worth at once. Behind time it sends what is due, and says how late it was."""
    values = trades(DISTINCT)
    sent, late_s = 0, 0.0
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all", compression_type="lz4", linger_ms=0) as producer:
        began_s = time.monotonic()
        pending: Sequence[asyncio.Future[object]] = ()
        while sent < records_per_s * seconds:
            due = min(round((time.monotonic() - began_s + tick_s) * records_per_s), round(records_per_s * seconds))
            pending = [await producer.send(topic, values[n % DISTINCT], partition=0) for n in range(sent, due)]
            sent = due
            ahead_s = sent / records_per_s - (time.monotonic() - began_s)
            late_s = max(late_s, -ahead_s)
            await asyncio.sleep(max(0.0, ahead_s))
        await asyncio.gather(*pending)
    return {"records": sent, "late_ms_max": round(late_s * 1000.0, 1)}


CALLS = {"reader": reader, "our_reader": our_reader, "alone": alone, "source": source}

if __name__ == "__main__":
    result = CALLS[sys.argv[1]](**json.loads(sys.argv[2]))  # type: ignore[operator]  # each has its own arguments
    print(json.dumps(asyncio.run(result) if asyncio.iscoroutine(result) else result))
