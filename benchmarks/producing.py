"""How fast the producer makes, reads and publishes records, each stage alone, on one process.

Run directly: `python benchmarks/producing.py [records]`; figures as JSON on the last line. Every stage checks that it
did its whole work. Figures are records a second unless their name says otherwise.
"""

import asyncio
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.pipeline.inputs import open_input
from cutbank.transports import open_transport
from cutbank_producer.producing import produce
from cutbank_producer.settings import ProducerSettings
from cutbank_producer.trades import FIRST_ID, AnomalyRule, TradeGenerator

RECORDS = 200_000
REPEATS = 3


def rate(records: int, work: Callable[[], int]) -> float:
    """The best of REPEATS: the machine's other work only ever slows it down."""
    best_s = float("inf")
    for _ in range(REPEATS):
        began_s = time.perf_counter()
        done = work()
        best_s = min(best_s, time.perf_counter() - began_s)
        assert done == records, f"{done} of {records} records"
    return round(records / best_s)


def generate(records: int) -> int:
    generator = TradeGenerator(seed=7, first_id=FIRST_ID, anomalies=AnomalyRule())
    return sum(len(generator.batch(1000)) for _ in range(records // 1000))


def read(path: Path) -> int:
    found = 0
    with open_input(str(path)) as source:
        while records := source.records(records_max=1000, bytes_max=1 << 22):
            found += len(records)
    return found


def publish(folder: Path, *, stream: str, **given: object) -> int:
    """Through the whole producer into the embedded log, every batch synced to disk."""
    settings = ProducerSettings.load({}, stream_name=stream, labels_stream="labels", pace="max", **given)

    async def run() -> int:
        url = f"local://{folder}/log.db"
        clock, metrics = SystemClock(), NoMetrics()
        async with open_transport(url, clock=clock, metrics=metrics) as transport:
            produced = await produce(
                settings,
                transport=transport,
                clock=clock,
                metrics=metrics,
                rng=random.Random(1),
                stop=asyncio.Event(),
            )
        return produced.records

    return asyncio.run(run())


def measure(records: int = RECORDS) -> dict[str, float]:
    """All stages; `records` is rounded down to thousands."""
    records -= records % 1000
    generator = TradeGenerator(seed=7, first_id=FIRST_ID, anomalies=AnomalyRule())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ndjson, rows = folder / "trades.ndjson", folder / "trades.csv"
        with ndjson.open("wb") as lines, rows.open("w") as table:
            table.write("tickerSymbol,tradeType,price,quantity,id\n")
            for _ in range(records // 1000):
                for trade in generator.batch(1000):
                    lines.write(trade.value + b"\n")
                    table.write(",".join(str(value) for value in json.loads(trade.value).values()) + "\n")
        return {
            "generate": rate(records, lambda: generate(records)),
            "read_csv": rate(records, lambda: read(rows)),
            "read_ndjson": rate(records, lambda: read(ndjson)),
            "publish_in_1000s": rate(
                records, lambda: publish(folder, stream="big", records_max=records, records_per_batch=1000)
            ),
            "publish_in_100s": rate(
                records // 10, lambda: publish(folder, stream="small", records_max=records // 10, records_per_batch=100)
            ),
            "replay_csv_in_1000s": rate(
                records, lambda: publish(folder, stream="replay", input=str(rows), records_per_batch=1000)
            ),
            "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)))
