"""How fast the sink is alone: anomalies that lie in the embedded log, into objects on the file system, not compressed.

A stage of `make bench`; into S3, with gzip, `make bench-sink` (sink.py) measures it.

Run directly: `python benchmarks/sinking.py [records]`; figures as JSON on the last line. It checks that every record
is in an object. `pure` leaves out the log and the store: decoding, marks, sorting, hashing of the same records in one
thread. Figures are records a second unless their name says otherwise.
"""

import asyncio
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.sinking import ChainId, Layout, SinkConfig, inspect, run_sink
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Batch, Message, Partition, Position
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig

RECORDS = 300_000
STREAM = "anomalies"
PIPELINE = "bench"
START_MS = 1_795_388_400_000
PUBLISHED_AT_ONCE = 2000


def anomaly(number: int) -> bytes:
    """About 190 bytes, as the scorer publishes them."""
    return (
        b'{"tickerSymbol":"AMZN","tradeType":"BUY","price":%d.25,"quantity":%d,"id":%d,"ANOMALY_SCORE":1.%d,'
        b'"ROWTIME":"2026-11-22T23:00:%02d.%03dZ","SOURCE":{"pipeline":"bench","stream":"trades@1f2e3d4c","run":1,"partition":"0",'
        b'"position":"%d","ordinal":0}}'
    ) % (number % 700, number % 900, number, number * 7919 % 10_000, number // 1000 % 60, number % 1000, number)


def pure(records: int) -> float:
    """The work of `Stretch` alone."""
    values = [anomaly(number) for number in range(records)]
    batch = Batch(
        partition=Partition(STREAM, "0"),
        start=Position(0),
        end=Position(records),
        positions=[Position(number) for number in range(records)],
        arrivals_ms=[START_MS] * records,
        keys=[None] * records,
        values=values,
    )
    began_s = time.perf_counter()
    stretch = Stretch(
        pipeline=PIPELINE,
        layout=Layout(),
        start=Position(0),
        reading=Position(0),
        marks=(),
        minute_ms=0,
        bytes_max=1 << 30,
        records_max=records,
    )
    assert stretch.take(batch, broker_ms=START_MS) == records
    claim, _ = stretch.claim(ChainId(PIPELINE, STREAM, "0"), spec_hash=None)
    assert claim.records == records
    return round(records / (time.perf_counter() - began_s))


async def sink(folder: Path, records: int) -> dict[str, Any]:
    """From the log to the last commit."""
    clock, metrics, stop = SystemClock(), NoMetrics(), asyncio.Event()
    config = SinkConfig(pipeline=PIPELINE, stream=STREAM, flush_on_stop=True)
    async with (
        open_transport(f"local://{folder}/log.db", clock=clock, metrics=metrics) as transport,
        open_store(f"file://{folder}/objects", clock=clock, metrics=metrics) as store,
    ):
        await transport.ensure(StreamConfig(STREAM))
        for first in range(0, records, PUBLISHED_AT_ONCE):
            numbers = range(first, min(records, first + PUBLISHED_AT_ONCE))
            await transport.publish([Message(STREAM, anomaly(number)) for number in numbers])
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began_s = time.perf_counter()
        reader = _Watch()
        sinking = asyncio.ensure_future(
            run_sink(transport, store, config, clock=clock, metrics=reader, stop=stop, rng=random.Random(1))
        )
        await reader.read_all.wait()
        stop.set()
        await sinking
        took_s = time.perf_counter() - began_s
        claims = [claim async for claim in inspect.claims(store, PIPELINE)]
        assert sum(claim.records for claim in claims) == records, "every record is in an object"
        line_bytes = sum(claim.line_bytes for claim in claims)
    return {
        "records_per_s": round(records / took_s),
        "mb_per_second": round(line_bytes / took_s / 1e6, 1),
        "objects": len(claims),
        "memory_mib": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024, 1),
    }


class _Watch(NoMetrics):
    """Tells when the sink has read everything: its lag is 0 after an empty read."""

    def __init__(self) -> None:
        self.read_all = asyncio.Event()

    def set(self, name: str, value: float, /, **labels: str) -> None:  # noqa: ARG002  # the protocol's
        if name == "cutbank_lag_records" and value == 0:
            self.read_all.set()


def measure(records: int = RECORDS) -> dict[str, Any]:
    """Sinking alone, and the part of it that is neither log nor store."""
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(sink(Path(folder), records))
    return {**figures, "pure_records_per_s": pure(min(records, 100_000)), "records": records}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)))
