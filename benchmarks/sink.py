"""`make bench-sink`: a sink between the embedded log and S3, part by part.

    throughput  gzip, from log to bucket, as a share of gzip alone on the same bytes in the same run; none and zstd too
    memory      a sink process while its storage refuses everything and the log is full, above idle; 1 and 20 partitions
    minutes     five real minutes, 20 partitions: puts a minute and partition, and minute's end to object visible
    verify      `cutbank verify` against reading and parsing the same objects plainly (benchmarks/verifying.py)

The last line is JSON with each part named. S3 is SeaweedFS on the same machine, which shares its cores with the sink.
Idle, for memory, is the sink's process once it has taken up all partitions, before the first record.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import verifying
from pipeline import Process
from sink_world import (
    SPEC,
    STREAM,
    Server,
    committed,
    in_process,
    lines_of_trades,
    made,
    open_log,
    plain_lines,
    publish,
    s3_server,
)

from cutbank.pipeline.sinking import SinkConfig
from cutbank.transports.base import Transport
from object_servers.proxy import FaultProxy
from object_servers.requests import SLOW_DOWN, Action, Fault, Rule, S3Request, What

MIB = 1 << 20
RECORDS = 3_000_000
"""About fifty objects: what a stretch waits for at the start and at the end is a few percent of it."""
ROUNDS = 3
HELD_BYTES_MAX = SinkConfig(pipeline=SPEC.name, stream=STREAM).held_bytes_max
OFFERED_S, OFFERED_RECORDS_PER_S = 300, 5_000
MANY = 20
"""Partitions, where there are many."""
MINUTES = 5
TICK_S = 0.2
GRACE_S = 2.0
READY_S_MAX = 180.0
DONE_S_MAX = 1200.0
SETTLED_S = 15.0
"""A memory that has not grown for so long, with all records offered, is the most that it gets."""


@dataclass(frozen=True)
class Scene:
    """What every part is given."""

    server: Server
    folder: Path
    records: int
    rounds: int
    minutes: int


def throughput(scene: Scene) -> dict[str, Any]:
    """Rounds of: gzip sunk, gzip alone on the objects' content, none sunk, zstd sunk. Shares are of one round."""
    url = f"local://{scene.folder}/throughput.db"
    asyncio.run(_fill(url, scene.records))
    rounds = []
    for _ in range(scene.rounds):
        store_url = scene.server.store_url()
        given = {"log_url": url, "records": scene.records}
        sunk = in_process("sunk", **given, store_url=store_url, compression="gzip")
        alone = in_process("packed", store_url=store_url, level=6)
        share = sunk["records_per_s"] / alone["records_per_s"]
        one = {"share": round(share, 3), "gzip": sunk, "gzip_alone": alone, "load_1min": round(os.getloadavg()[0], 2)}
        for compression in ("none", "zstd"):
            one[compression] = in_process("sunk", **given, store_url=scene.server.store_url(), compression=compression)
        print(f"  {one}", flush=True)
        rounds.append(one)
    middle = {
        f"{name}_records_per_s": statistics.median(one[name]["records_per_s"] for one in rounds)
        for name in ("gzip", "gzip_alone", "none", "zstd")
    }
    return {"share_of_gzip_alone": statistics.median(one["share"] for one in rounds), **middle, "rounds": rounds}


async def _fill(url: str, records: int) -> None:
    async with open_log(url) as log:
        await made(log)
        for values in lines_of_trades(records):
            await publish(log, values)


def memory(scene: Scene) -> dict[str, Any]:
    """With one partition, and with many, packed and not."""
    return {
        f"partitions_{count}_{compression}": asyncio.run(
            _held(scene, partitions=count, compression=compression, name=f"memory-{count}-{compression}")
        )
        for count in (1, MANY)
        for compression in ("gzip", "none")
    }


async def _held(scene: Scene, *, partitions: int, compression: str, name: str) -> dict[str, Any]:
    """From before the first record until nothing grows any more; then storage comes back, and all of it is sunk."""
    records = OFFERED_S * OFFERED_RECORDS_PER_S // partitions * partitions
    url = f"local://{scene.folder}/{name}.db"
    with ExitStack() as stack:
        async with FaultProxy(scene.server.endpoint) as proxy, open_log(url) as log:
            await made(log, partitions=partitions)
            sink = _sink(scene, stack, name, url=url, endpoint=proxy.url, compression=compression)
            await _taken_up(proxy, sink, partitions=partitions + 1)
            await asyncio.sleep(SETTLED_S)
            idle = _rss_bytes(sink)
            _begin_peak(sink)
            refusing = proxy.rule(Rule(fault=Fault.answer(SLOW_DOWN), times=None))
            began_s = time.monotonic()
            each = records // partitions
            for first in range(0, each, each // 20):
                for partition in range(partitions):
                    values = plain_lines(min(each // 20, each - first), source=str(partition), first=first)
                    await publish(log, values, partition=partition)
            offered_s = time.monotonic() - began_s
            peak = await _grown(sink)
            told = await asyncio.to_thread(_metrics, sink)
            proxy.remove(refusing)
            healed_s = time.monotonic()
            await _until(lambda: _is(log, records), sink)
            recovered_s = time.monotonic() - healed_s
            after = _peak_bytes(sink)
            await asyncio.to_thread(sink.finish, stop=True)
    return {
        "idle_mib": round(idle / MIB, 1),
        "peak_mib": round(peak / MIB, 1),
        "above_idle_mib": round((peak - idle) / MIB, 1),
        "byte_limit_mib": HELD_BYTES_MAX // MIB,
        "over_the_limit_mib": round((peak - idle - HELD_BYTES_MAX) / MIB, 1),
        "peak_with_recovery_above_idle_mib": round((after - idle) / MIB, 1),
        "records": records,
        "offered_s": round(offered_s, 1),
        "recovered_s": round(recovered_s, 1),
        "store_away_s": told.get("cutbank_store_away_seconds"),
    }


def _sink(scene: Scene, stack: ExitStack, name: str, *, url: str, endpoint: str, compression: str = "gzip") -> Process:
    return Process(
        "sink",
        {
            **scene.server.environ,
            "CUTBANK_TRANSPORT_URL": url,
            "CUTBANK_STORE_URL": scene.server.store_url(endpoint),
            "CUTBANK_COMPRESSION": compression,
            "CUTBANK_FLUSH_ON_STOP": "true",
            "CUTBANK_HTTP_PORT": "0",
            "CUTBANK_LOG_FORMAT": "json",
        },
        _folder(scene.folder / name),
        stack,
    )


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


async def _taken_up(proxy: FaultProxy, sink: Process, *, partitions: int) -> None:
    """Until every partition's chain is born."""

    async def born() -> bool:
        return proxy.seen[Action.CREATE, What.BIRTH] >= partitions

    await _until(born, sink, seconds=READY_S_MAX)


async def _until(condition: Callable[[], Awaitable[bool]], sink: Process, *, seconds: float = DONE_S_MAX) -> None:
    deadline_s = time.monotonic() + seconds
    while not await condition():
        sink.check()
        if time.monotonic() > deadline_s:
            raise SystemExit(f"not done within {seconds:.0f} s")
        await asyncio.sleep(TICK_S)


async def _is(log: Transport, records: int) -> bool:
    """Whether all of it is committed."""
    return await committed(log) >= records


async def _grown(sink: Process) -> int:
    """The peak of its memory, once that has not grown for a while, bytes."""
    peak, since_s = 0, time.monotonic()
    while time.monotonic() - since_s < SETTLED_S:
        sink.check()
        if (found := _peak_bytes(sink)) > peak:
            peak, since_s = found, time.monotonic()
        await asyncio.sleep(TICK_S)
    return peak


def _begin_peak(sink: Process) -> None:
    """The kernel forgets the peak so far."""
    Path(f"/proc/{sink.process_id}/clear_refs").write_text("5")


def _rss_bytes(sink: Process) -> int:
    return _status(sink, "VmRSS")


def _peak_bytes(sink: Process) -> int:
    return _status(sink, "VmHWM")


def _status(sink: Process, name: str) -> int:
    status = Path(f"/proc/{sink.process_id}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None, "Linux tells it"
    return int(found[1]) * 1024


def _metrics(sink: Process) -> dict[str, float]:
    """Its metrics that have no labels."""
    address = re.search(r"http://[\d.]+:\d+", sink.log.read_text())
    assert address is not None, "a service says where it listens"
    with urllib.request.urlopen(f"{address[0]}/metrics", timeout=10.0) as answer:  # noqa: S310  # the sink's own
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(cutbank_\w+) (\S+)$", text, re.MULTILINE)}


def minutes(scene: Scene) -> dict[str, Any]:
    """A quiet stream: a few records a second on every partition, puts counted on the wire."""
    return asyncio.run(_minutes(scene))


async def _minutes(scene: Scene) -> dict[str, Any]:
    url = f"local://{scene.folder}/minutes.db"
    puts: Counter[str] = Counter()
    late_s: list[float] = []
    first_ms = 0

    def seen(request: S3Request) -> None:
        if first_ms and request.what in (What.CLAIM, What.OBJECT):
            puts[request.what] += 1
            if request.what is What.OBJECT:
                # Its minute is over when it comes, and the next one is not.
                late_s.append(time.time() % 60.0)

    with ExitStack() as stack:
        async with FaultProxy(scene.server.endpoint) as proxy, open_log(url) as log:
            proxy.rule(Rule(fault=Fault.delay_reply(0.0), action=Action.CREATE, times=None, then=seen))
            await made(log, partitions=MANY)
            sink = _sink(scene, stack, "minutes", url=url, endpoint=proxy.url)
            await _taken_up(proxy, sink, partitions=MANY + 1)
            await asyncio.sleep(60.0 - time.time() % 60.0)
            first_ms = round(time.time() * 1000)
            until_s, number = time.time() + 60.0 * scene.minutes - 1.0, 0
            while time.time() < until_s:
                for partition in range(MANY):
                    await publish(log, plain_lines(2, source=str(partition), first=number), partition=partition)
                number += 2
                await asyncio.sleep(1.0 - time.time() % 1.0)
            await _until(lambda: _is(log, number * MANY), sink)
            await asyncio.to_thread(sink.finish, stop=True)
    late_s.sort()
    return {
        "partitions": MANY,
        "minutes": scene.minutes,
        "objects": puts[What.OBJECT],
        "claims": puts[What.CLAIM],
        "puts_per_minute_and_partition": round(puts.total() / MANY / scene.minutes, 3),
        "visible_after_minute_end_s": {
            "p50": round(statistics.median(late_s), 3),
            "p99": round(late_s[max(0, -(-len(late_s) * 99 // 100) - 1)], 3),
            "max": round(late_s[-1], 3),
        },
        "grace_s": GRACE_S,
        "load_1min": round(os.getloadavg()[0], 2),
    }


def verify(scene: Scene) -> dict[str, Any]:
    """As its own benchmark says."""
    return verifying.measure(s3_url=scene.server.store_url())


PARTS: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "throughput": throughput,
    "memory": memory,
    "minutes": minutes,
    "verify": verify,
}


def main() -> int:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(prog="python benchmarks/sink.py", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--records", type=int, default=RECORDS, help="of a throughput run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the throughput comparison")
    parser.add_argument("--minutes", type=int, default=MINUTES, help="real ones, of the part of that name")
    given = parser.parse_args()
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; parts are {', '.join(PARTS)}")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cutbank-bench-") as name, s3_server(Path(name) / "s3") as server:
        results["machine"] = {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 2),
            "seaweedfs": server.version,
            "stream": STREAM,
            "pipeline": SPEC.name,
        }
        scene = Scene(server, Path(name), given.records, given.rounds, given.minutes)
        for part in given.parts or PARTS:
            print(f"{part}: {PARTS[part].__doc__}", flush=True)
            results[part] = PARTS[part](scene)
            print(json.dumps(results[part], indent=1), flush=True)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
