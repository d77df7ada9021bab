"""How fast `cutbank verify` audits 1,000,000 anomalies, against reading and parsing the same objects plainly.

Run directly: `python benchmarks/verifying.py [anomalies]`; figures as JSON on the last line, of files, and of S3 where
this machine has SeaweedFS. The lines are as the scorer publishes them (282 bytes, scores of 16 digits); claims and
objects are what `Stretch` makes of them, in objects of 16 MiB before compression. Plainly: one thread; each object read
through the same store, unpacked, split into lines, each line through orjson. Each round is a process of its own, verify
and plain in turn; figures are medians, lines a second of wall clock, and memory is the largest of any round, of the
whole process. On a busy machine the fastest round of each, and processor time, say more than medians.
"""

import asyncio
import gzip
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson

from cutbank.cli import main
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectStore, open_store
from cutbank.objects.patient import PatientStore
from cutbank.pipeline.sinking import ChainId, Layout, inspect
from cutbank.pipeline.sinking.claims import Birth, encode
from cutbank.pipeline.sinking.stretch import Stretch
from cutbank.records import Batch, Partition, Position

ANOMALIES = 1_000_000
ROUNDS = 5
LAYOUTS = {"none": Layout(), "gzip": Layout(compression="gzip")}
CHAIN = ChainId("bench", "anomalies", "0")
OBJECT_BYTES = 16 << 20
START_MS = 1_795_388_400_000
BATCH = 5000
_SYMBOLS = (b"AMZN", b"AAPL", b"GOOG", b"MSFT", b"TSLA", b"NFLX", b"META", b"NVDA")


def anomalies(count: int) -> Iterator[bytes]:
    """Lines of the demo's columns, about a thousand a second."""
    draw = random.Random(1)
    ms = 0
    for number in range(count):
        ms += draw.randrange(3)
        second, rest = divmod(ms, 1000)
        yield (
            b'{"tickerSymbol":"%s","tradeType":"%s","price":%.2f,"quantity":%d,"id":%d,"ANOMALY_SCORE":%s,'
            b'"ROWTIME":"2026-11-22T23:%02d:%02d.%03dZ","SOURCE":{"pipeline":"bench","stream":"trades@1f2e3d4c",'
            b'"run":1,"partition":"0","position":"%d","ordinal":0}}'
        ) % (
            draw.choice(_SYMBOLS),
            draw.choice((b"BUY", b"SELL")),
            draw.random() * 700,
            draw.randrange(1, 900),
            number * 37,
            repr(1 + draw.random() * 3).encode(),
            second // 60 % 60,
            second % 60,
            rest,
            number * 37,
        )


async def make(url: str, layout: Layout, count: int) -> None:
    """A root with one chain, as a sink leaves it."""
    async with _store(url) as store:
        pipeline, stream, partition = CHAIN
        birth = Birth(pipeline=pipeline, stream=stream, partition=partition, start=Position(0), identity="bench")
        await store.create(birth.key, encode(birth))
        stretch = _stretch(layout, Position(0), ())
        lines = anomalies(count)
        for first in range(0, count, BATCH):
            values = [next(lines) for _ in range(min(BATCH, count - first))]
            positions = [Position(first + index) for index in range(len(values))]
            batch = Batch(
                partition=Partition(stream, partition),
                start=positions[0],
                end=Position(first + len(values)),
                positions=positions,
                arrivals_ms=[START_MS + 3_540_000] * len(values),
                keys=[None] * len(values),
                values=values,
            )
            taken = 0
            while (taken := stretch.take(batch, taken, broker_ms=START_MS)) < len(batch):
                stretch = await _put(store, stretch, layout)
        await _put(store, stretch, layout)


async def _put(store: ObjectStore, stretch: Stretch, layout: Layout) -> Stretch:
    """Claim a stretch and put its object; the next one."""
    claim, bodies = stretch.claim(CHAIN, spec_hash=None)
    await store.create(claim.key, encode(claim))
    for item, body in zip(claim.objects, bodies, strict=True):
        await store.create(item.key, body)
    return _stretch(layout, claim.end, claim.marks_after)


def _stretch(layout: Layout, start: Position, marks: Any) -> Stretch:
    return Stretch(
        pipeline=CHAIN.pipeline,
        layout=layout,
        start=start,
        reading=start,
        marks=marks,
        minute_ms=0,
        bytes_max=OBJECT_BYTES,
        records_max=1 << 30,
    )


def _store(url: str) -> ObjectStore:
    clock = SystemClock()
    return PatientStore(open_store(url, clock=clock, metrics=NoMetrics()), clock=clock, rng=random.Random())


async def plain(url: str) -> int:
    """Read and parse every object, one after the other; the count of lines."""
    count = 0
    async with _store(url) as store:
        async for info in inspect.data_objects(store):
            body = await store.read(info.key)
            if info.key.endswith(".gz"):
                body = gzip.decompress(body)
            for line in body.split(b"\n"):
                if line:
                    orjson.loads(line)
                    count += 1
    return count


def _plainly(url: str) -> None:
    asyncio.run(plain(url))


def _verified(url: str) -> None:
    assert main(["verify", url]) == 0, "a clean root"


ROLES: dict[str, Callable[[str], None]] = {"plain": _plainly, "verify": _verified}


def timed(role: str, url: str) -> dict[str, float]:
    """One round in a process of its own: seconds from its first call on, and its peak memory, MiB."""
    output = subprocess.run([sys.executable, __file__, role, url], check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def compared(url: str, count: int) -> dict[str, Any]:
    """Verify and plain reading of one root, in turn."""
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "verify": []}
    for _ in range(ROUNDS):
        for role, results in rounds.items():
            results.append(timed(role, url))
    took_s = {role: statistics.median(result["seconds"] for result in results) for role, results in rounds.items()}
    fastest_s = {role: min(result["seconds"] for result in results) for role, results in rounds.items()}
    processor_s = {
        role: statistics.median(result["processor_s"] for result in results) for role, results in rounds.items()
    }
    return {
        "verify_lines_per_s": round(count / took_s["verify"]),
        "plain_lines_per_s": round(count / took_s["plain"]),
        "share_of_plain": round(took_s["plain"] / took_s["verify"], 3),
        "share_of_plain_fastest": round(fastest_s["plain"] / fastest_s["verify"], 3),
        "processor_share_of_plain": round(processor_s["plain"] / processor_s["verify"], 3),
        "memory_mib": max(result["memory_mib"] for result in rounds["verify"]),
        "memory_plain_mib": max(result["memory_mib"] for result in rounds["plain"]),
    }


def measure(anomalies: int = ANOMALIES, *, s3_url: str | None = None) -> dict[str, Any]:
    """Each layout, as files in a temporary folder and below `s3_url`, a root that nobody has used; None: files only."""
    figures: dict[str, Any] = {"anomalies": anomalies}
    with tempfile.TemporaryDirectory() as folder:
        for url in (f"file://{folder}", s3_url):
            if url is None:
                continue
            for name, layout in LAYOUTS.items():
                path, mark, query = url.partition("?")
                root = f"{path}/{name}{mark}{query}"
                asyncio.run(make(root, layout, anomalies))
                of = f"{path.partition(':')[0]}_{name}"
                figures |= {f"{of}_{figure}": value for figure, value in compared(root, anomalies).items()}
    figures["load_1min"] = round(os.getloadavg()[0], 2)
    return figures


def with_a_server(anomalies: int) -> dict[str, Any]:
    """On S3 too, where this machine has SeaweedFS."""
    from sink_world import s3_server

    from brokers.jars import NotOnThisMachine

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        try:
            server = stack.enter_context(s3_server(Path(folder) / "server"))
        except NotOnThisMachine as error:
            print(f"files only: {error}", file=sys.stderr)
            return measure(anomalies)
        return measure(anomalies, s3_url=server.store_url())


def _child(role: str, url: str) -> None:
    import cutbank.pipeline.verifying  # noqa: F401  # loaded before the clock runs

    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    ROLES[role](url)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    # Not ru_maxrss: that begins with the memory of the process that started this one.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None, "Linux tells it"
    memory_mib = round(int(peak[1]) / 1024, 1)
    print(json.dumps({"seconds": took_s, "processor_s": cpu_s, "memory_mib": memory_mib}))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ROLES:
        _child(*sys.argv[1:3])
    else:
        print(json.dumps(with_a_server(int(sys.argv[1]) if len(sys.argv) > 1 else ANOMALIES)))
