"""`make bench-kafka`: the scorer on a real broker against a bare reader and the detector alone, part by part.

All parts run one after another in one run on one machine and one broker (from its jars, or at KAFKA_BOOTSTRAP_SERVERS);
the last line is JSON with each part named. Rates count from the end of a warm-up to the last record, so starting and
compiling are left out; process CPU is the kernel's count for the same stretch. The broker runs beside what is measured.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from kafka_figures import (
    ideal_records_per_s,
    latency_records_per_s,
    medians,
    moment_s,
    pace_since,
    percentiles,
    replay_over_live,
    replay_pace,
    told_figures,
)
from kafka_world import (
    BATCH_RECORDS,
    DISTINCT,
    DONE_S_MAX,
    POLL_S,
    Pace,
    Pipeline,
    Scorer,
    broker,
    cpu_s,
    fill,
    trades,
)

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.transports import open_transport
from cutbank.transports.base import Transport

HERE = Path(__file__).parent
LATENCY_WARM_S = 5.0
LATENCY_S = 20.0
LATENCY_RECORDS_PER_S = 5_000
TICK_S = 0.002
MEMORY_S = 60.0
PASSES = 3
"""Times that the two throughput comparisons are made; each share is of one pass, the median of them counts."""


@dataclass(frozen=True)
class Scene:
    """What every part is given."""

    servers: str
    folder: Path
    stack: ExitStack
    values: list[bytes]
    records: int
    """Of a throughput run with the default detector; those without take ten times as many."""
    behind: tuple[int, ...]
    """Lags, records, behind which memory is looked at."""
    found: dict[str, Any]
    """The results of the parts before."""

    def pipeline(self, name: str, *, partitions: int = 1) -> Pipeline:
        """A new one, under a prefix of its own."""
        return Pipeline(self.servers, f"bench{os.getpid()}-{name}", self.folder, partitions=partitions)

    def transport(self, pipeline: Pipeline) -> Transport:
        """A handle to look with."""
        return open_transport(pipeline.url, clock=SystemClock(), metrics=NoMetrics())

    def rounded(self, records: int, *, partitions: int = 1) -> int:
        """Down to whole batches on each partition."""
        whole = BATCH_RECORDS * partitions
        return max(1, records // whole) * whole


async def peer(name: str, **given: Any) -> Any:
    """One function of kafka_peer, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "kafka_peer.py"), name, json.dumps(given), stdout=subprocess.PIPE
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise SystemExit(f"{name} ended with {process.returncode}")
    return json.loads(output.splitlines()[-1])


def told(pace: Pace) -> dict[str, float]:
    return {
        "records_per_s": round(pace.records_per_s),
        "cpu_us_per_record": round(1e6 / pace.records_per_cpu_s, 2),
        "records": pace.records,
        "seconds": round(pace.took_s, 2),
    }


async def throughput(scene: Scene) -> dict[str, Any]:
    """Scorer service, default detector: against 1/(1/reader + 1/detector). Then kill -9, and the replay's speed."""
    passes = []
    for number in range(PASSES):
        pipeline = scene.pipeline(f"default-{number}")
        records = scene.rounded(scene.records)
        warm = records // 5
        async with scene.transport(pipeline) as transport:
            await pipeline.ensure(transport)
            await fill(scene.servers, pipeline.topic, scene.values, records=records)
            reader = await peer(
                "reader", servers=scene.servers, topic=pipeline.topic, records=records, warm=warm, decode=True
            )
            alone = await peer("alone", records=records, warm=warm)
            scorer = pipeline.scorer(scene.stack)
            pace = await pipeline.pace(transport, [scorer], warm=warm, records=records)
            live = told(pace)
            whole_per_s = pace_since(scorer.said("live"), records, pace.ended_s)
            scorer.kill()
            again = pipeline.scorer(scene.stack, name="scorer-again")
            await again.until_said("live")
            replay = replay_pace(again.said("replaying"), again.said("replayed"))
            again.kill()
        ideal = ideal_records_per_s(reader["records_per_s"], alone["detector"]["records_per_s"])
        live["records_per_s_from_the_first"] = round(whole_per_s)
        figures = {"scorer": live, "bare_reader_orjson": reader, **alone, "replay": replay}
        reader_and_detector_us = reader["cpu_us_per_record"] + alone["detector"]["cpu_us_per_record"]
        shares = {
            "share_by_cpu": round(reader_and_detector_us / live["cpu_us_per_record"], 3),
            "share_of_reader_and_detector": round(live["records_per_s"] / ideal, 3),
            "replay_over_live": replay_over_live(replay, records=records, live_per_s=whole_per_s),
        }
        passes.append(shares | figures)
    return medians(passes, "share_of_reader_and_detector", "share_by_cpu", "replay_over_live")


async def constant(scene: Scene) -> dict[str, Any]:
    """The same service with a detector that returns a constant, over the bare reader; and our plain read alone."""
    pipeline = scene.pipeline("constant-topic")
    records = scene.rounded(scene.records * 10)
    warm = records // 5
    async with scene.transport(pipeline) as transport:
        await pipeline.ensure(transport)
        await fill(scene.servers, pipeline.topic, scene.values, records=records)
        passes = []
        for number in range(PASSES):
            what = {"servers": scene.servers, "topic": pipeline.topic, "records": records, "warm": warm}
            with_json = await peer("reader", **what, decode=True)
            without = await peer("reader", **what, decode=False)
            ours = await peer("our_reader", url=pipeline.url, stream=pipeline.spec.source, records=records, warm=warm)
            one = scene.pipeline(f"constant-{number}")
            async with scene.transport(one) as writer:
                await one.ensure(writer)
                await fill(scene.servers, one.topic, scene.values, records=records)
                scorer = one.scorer(scene.stack, module="kafka_constant")
                live = told(await one.pace(writer, [scorer], warm=warm, records=records))
                await asyncio.to_thread(scorer.finish, stop=True)
            passes.append(
                {
                    "share_of_bare_reader": round(live["records_per_s"] / with_json["records_per_s"], 3),
                    "scorer": live,
                    "bare_reader_orjson": with_json,
                    "bare_reader": without,
                    "our_plain_read": ours,
                }
            )
    return medians(passes, "share_of_bare_reader")


async def scaling(scene: Scene) -> dict[str, Any]:
    """Records per CPU-second of two scorer processes over that of one, four partitions; filled once all are live."""
    passes = []
    for number in range(PASSES):
        # Turn by turn, so that what the machine does meanwhile falls on both.
        paces = {
            count: await together(scene, count, f"scaling-{number}-{count}") for count in (1, 2)[:: 1 - number % 2 * 2]
        }
        share = paces[2].records_per_cpu_s / paces[1].records_per_cpu_s
        passes.append({"two_over_one_records_per_cpu_s": round(share, 3), "one": told(paces[1]), "two": told(paces[2])})
    return medians(passes, "two_over_one_records_per_cpu_s")


async def together(scene: Scene, count: int, name: str) -> Pace:
    """So many scorers on four partitions."""
    pipeline = scene.pipeline(name, partitions=4)
    records = scene.rounded(scene.records * 2, partitions=4)
    async with scene.transport(pipeline) as transport:
        await pipeline.ensure(transport)
        scorers = []
        for number in range(count):
            scorers.append(pipeline.scorer(scene.stack, name=f"scorer-{number}"))
            await scorers[-1].until_said("live", times=4 // (number + 1))
        await fill(scene.servers, pipeline.topic, scene.values, records=records, partitions=4)
        pace = await pipeline.pace(transport, scorers, warm=records // 5, records=records)
        for scorer in scorers:
            await asyncio.to_thread(scorer.finish, stop=True)
    return pace


async def latency(scene: Scene) -> dict[str, Any]:
    """Arrival in the log (LogAppendTime) to an anomaly in the hands of a bare read_committed reader, ms.

    Beside it the same for the records of the source themselves, with no scorer between: what log and machine take.
    """
    detectors = [one["detector"]["records_per_s"] for one in scene.found.get("throughput", {}).get("passes", ())]
    rate = latency_records_per_s(LATENCY_RECORDS_PER_S, detectors)
    return medians([await late(scene, f"latency-{number}", rate) for number in range(PASSES)], "p50_ms", "p99_ms")


async def late(scene: Scene, name: str, records_per_s: int) -> dict[str, Any]:
    """One pass."""
    pipeline = scene.pipeline(name)
    pipeline.environ["CUTBANK_HTTP_PORT"] = "0"
    async with scene.transport(pipeline) as transport:
        await pipeline.ensure(transport)
        scorer = pipeline.scorer(scene.stack)
        await scorer.until_said("live")
        began_s, spent_s = time.monotonic(), cpu_s(scorer.process_id)
        sending = asyncio.ensure_future(
            peer(
                "source",
                servers=scene.servers,
                topic=pipeline.topic,
                records_per_s=records_per_s,
                seconds=LATENCY_WARM_S + LATENCY_S,
                tick_s=TICK_S,
            )
        )
        over = asyncio.Event()
        source, of_anomalies, of_source = await asyncio.gather(
            until_scored(pipeline, transport, scorer, sending, over),
            seen(scene.servers, pipeline.destination, over, arrival_s=rowtime_s),
            seen(scene.servers, pipeline.topic, over, arrival_s=lambda record: record.timestamp / 1000.0),
        )
        spent_s, took_s = cpu_s(scorer.process_id) - spent_s, time.monotonic() - began_s
        url = scorer.said("ready")[0]["http"]
        told_of = await asyncio.to_thread(scorers_metrics, url)
        await asyncio.to_thread(scorer.finish, stop=True)
    assert of_source.count == source["records"], "the bare reader has seen every record"
    assert of_anomalies.count == told_of["cutbank_anomalies_total"], "and the other one every anomaly, however late"
    return {
        **percentiles(of_anomalies.took_ms),
        "log_alone": percentiles(of_source.took_ms),
        "anomalies": of_anomalies.count,
        "steps": means_ms(told_of),
        "scorer_cpu_share": round(spent_s / took_s, 3),
        "records_per_s": records_per_s,
        "source": source,
        "load_1min": round(os.getloadavg()[0], 2),
    }


def rowtime_s(record: Any) -> float:
    """Of an anomaly: when its record arrived."""
    return moment_s(orjson.loads(record.value)["ROWTIME"])


def scorers_metrics(url: str) -> dict[str, float]:
    """The scorer's own metrics that have no labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10.0) as answer:  # noqa: S310  # the scorer's own
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(cutbank_\w+) (\S+)$", text, re.MULTILINE)}


def means_ms(told_of: Mapping[str, float]) -> dict[str, float]:
    """How long the scorer's own steps took on average, by its metrics."""
    result: dict[str, float] = {}
    for name in ("score", "publish"):
        total, count = (told_of[f"cutbank_{name}_seconds_{what}"] for what in ("sum", "count"))
        result |= {f"{name}_ms_mean": round(total / count * 1000.0, 2), f"{name}_steps": count}
    return result


async def until_scored(
    pipeline: Pipeline, transport: Transport, scorer: Scorer, sending: "asyncio.Future[Any]", over: asyncio.Event
) -> Any:
    """What the source said, once all of it is committed; then `over` is set, so that what is late counts as well."""
    source = await sending
    deadline_s = time.monotonic() + DONE_S_MAX
    while await pipeline.done(transport) < source["records"]:
        scorer.check()
        if time.monotonic() > deadline_s:
            raise SystemExit(f"the scorer is still behind {DONE_S_MAX:.0f} s after the source's end")
        await asyncio.sleep(POLL_S)
    over.set()
    return source


@dataclass(frozen=True)
class Seen:
    """What a bare reader saw of a topic."""

    count: int
    """All records."""
    took_ms: list[float]
    """Of each record after the warm-up, how long after its arrival it was in hand."""


async def seen(servers: str, topic: str, over: asyncio.Event, *, arrival_s: Callable[[Any], float]) -> Seen:
    """Read until the end of the topic, as it is when nothing more will come."""
    took_ms: list[float] = []
    count, began_s = 0, None
    where = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level="read_committed", fetch_max_wait_ms=500
    ) as consumer:
        consumer.assign([where])
        await consumer.seek_to_beginning()
        while not over.is_set() or await consumer.position(where) < (await consumer.end_offsets([where]))[where]:
            found = await consumer.getmany(timeout_ms=200)
            now_s = time.time()
            for records in found.values():
                count += len(records)
                arrivals_s = [arrival_s(record) for record in records]
                began_s = began_s or arrivals_s[0]
                first_s = began_s + LATENCY_WARM_S
                took_ms += [(now_s - moment) * 1000.0 for moment in arrivals_s if moment > first_s]
    return Seen(count, took_ms)


async def memory(scene: Scene) -> dict[str, Any]:
    """Peak memory of the scorer, 4 partitions behind so many records, from start to a minute after going live, MB."""
    result: dict[str, Any] = {}
    for behind in scene.behind:
        pipeline = scene.pipeline(f"memory-{behind}", partitions=4)
        records = scene.rounded(behind, partitions=4)
        async with scene.transport(pipeline) as transport:
            await pipeline.ensure(transport)
            await fill(scene.servers, pipeline.topic, scene.values, records=records, partitions=4)
            scorer = pipeline.scorer(scene.stack)
            await scorer.until_said("live")
            end_s = time.monotonic() + MEMORY_S
            while time.monotonic() < end_s:
                scorer.check()
                await asyncio.sleep(0.5)
            scorer.note_memory()
            done = await pipeline.done(transport)
            scorer.kill()
        assert done > 0, "it has scored"
        result[f"behind_{behind}"] = {
            "peak_mb": round(scorer.rss_bytes_max / 1e6, 1),
            "records_done": done,
            "seconds": MEMORY_S,
        }
    return result


PARTS: dict[str, Callable[[Scene], Awaitable[dict[str, Any]]]] = {
    "throughput": throughput,
    "constant": constant,
    "scaling": scaling,
    "latency": latency,
    "memory": memory,
}


async def measure(parts: list[str], given: argparse.Namespace, scene: Scene, name: str) -> dict[str, Any]:
    results: dict[str, Any] = {
        "machine": {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 2),
        },
        "broker": name,
        "records": given.records,
    }
    scene.found.update(results)
    for part in parts:
        began_s = time.monotonic()
        about = (PARTS[part].__doc__ or "").strip().splitlines()[0]
        print(f"{part}: {about}", flush=True)
        results[part] = scene.found[part] = await PARTS[part](scene)
        results[part]["took_s"] = round(time.monotonic() - began_s)
        for key, value in results[part].items():
            if key != "passes":
                print(f"  {key:<40} {value}", flush=True)
    results["machine"]["load_1min_end"] = round(os.getloadavg()[0], 2)
    results["figures"] = told_figures(results)
    for figure, row in results["figures"].items():
        print(f"{figure:<42} {json.dumps(row)}", flush=True)
    return results


def main() -> int:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(prog="python benchmarks/kafka.py", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--records", type=int, default=100_000, help="of a run with the default detector")
    parser.add_argument("--behind", default="1000000,10000000", help="lags to look at memory behind, with commas")
    given = parser.parse_args()
    parts = given.parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; parts are {', '.join(PARTS)}")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="cutbank-bench-") as folder, ExitStack() as stack:
        servers, name = broker(Path(folder), stack)
        print(f"on {name}", flush=True)
        scene = Scene(
            servers,
            Path(folder),
            stack,
            values=trades(DISTINCT),
            records=given.records,
            behind=tuple(int(part) for part in given.behind.split(",")),
            found={},
        )
        print(json.dumps(asyncio.run(measure(parts, given, scene, name))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
