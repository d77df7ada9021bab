"""One measurement of `make bench-sink` in a process of its own: sinking, or packing alone. Called by name with JSON."""

import asyncio
import gzip
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sink_world import SPEC, STREAM, open_log

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.sinking import Layout, SinkConfig, inspect, run_sink
from cutbank.pipeline.sinking.rendering import content
from cutbank.testing.taps import Call, TappedStore, TappedTransport
from cutbank_sink.settings import SinkSettings

T = TypeVar("T")


class _Span:
    """Around log and store: begins when the chain is born, sets `stop` when everything has been read."""

    def __init__(self, records: int, stop: asyncio.Event) -> None:
        self._records = records
        self._stop = stop
        self.began_s = 0.0
        self.cpu_s = 0.0

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        result = await do()
        if call.name == "create" and call.subject.endswith("/birth"):
            self.began_s, self.cpu_s = time.perf_counter(), time.process_time()
        elif call.name == "receive" and getattr(result, "end", 0) >= self._records:
            self._stop.set()
        return result


async def _sunk(log_url: str, store_url: str, compression: str, records: int) -> dict[str, Any]:
    clock, metrics, stop = SystemClock(), NoMetrics(), asyncio.Event()
    span = _Span(records, stop)
    layout = Layout(compression=compression)  # type: ignore[arg-type]  # of its choices
    config = SinkConfig(pipeline=SPEC.name, stream=STREAM, layout=layout, flush_on_stop=True)
    async with open_log(log_url) as log, open_store(store_url, clock=clock, metrics=metrics) as store:
        await run_sink(
            TappedTransport(log, span),
            TappedStore(store, span),
            config,
            clock=clock,
            metrics=metrics,
            stop=stop,
            rng=random.Random(1),
        )
        took_s, cpu_s = time.perf_counter() - span.began_s, time.process_time() - span.cpu_s
        claims = [claim async for claim in inspect.claims(store)]
    assert sum(claim.records for claim in claims) == records, "every record is in an object"
    return {
        "records_per_s": round(records / took_s),
        "us_per_record": round(took_s / records * 1e6, 3),
        "cpu_us_per_record": round(cpu_s / records * 1e6, 3),
        "mb_per_s": round(sum(claim.line_bytes for claim in claims) / took_s / 1e6, 1),
        "objects": len(claims),
    }


def sunk(**given: Any) -> dict[str, Any]:
    """From the chain's birth to the last commit, everything that the log has."""
    sys.setswitchinterval(SinkSettings().thread_switch_ms / 1000.0)  # as the service does
    return asyncio.run(_sunk(**given))


async def _packed(store_url: str, level: int) -> dict[str, Any]:
    clock, metrics = SystemClock(), NoMetrics()
    took_s, size, packed, records = 0.0, 0, 0, 0
    async with open_store(store_url, clock=clock, metrics=metrics) as store:
        async for claim in inspect.claims(store):
            for item in claim.objects:
                whole = content(claim.layout, await store.read(item.key))
                began_s = time.perf_counter()
                body = gzip.compress(whole, level, mtime=0)
                took_s += time.perf_counter() - began_s
                size, packed, records = size + len(whole), packed + len(body), records + item.count
    return {
        "records_per_s": round(records / took_s),
        "us_per_record": round(took_s / records * 1e6, 3),
        "bytes_per_line": round(size / records, 1),
        "packed_to": round(packed / size, 3),
    }


def packed(**given: Any) -> dict[str, Any]:
    """Python's gzip alone, one thread, on the content of a sink's own objects, each in one call."""
    return asyncio.run(_packed(**given))


if __name__ == "__main__":
    print(json.dumps({"sunk": sunk, "packed": packed}[sys.argv[1]](**json.loads(sys.argv[2]))))
