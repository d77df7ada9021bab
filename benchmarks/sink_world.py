"""What the parts of `make bench-sink` share: lines as the scorer makes them, a log that holds them, an S3 server.

The server is SeaweedFS (tests/object_servers), on the same machine and cores as what is measured.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import orjson
from scoring import batches, trades

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.pipeline.scoring import PartitionModel
from cutbank.pipeline.scoring.lines import LineWriter
from cutbank.pipeline.scoring.model import registered
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message, Partition, Position
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig, Transport
from object_servers.seaweed import REGION, SeaweedFS, environ_of, weed_version

HERE = Path(__file__).parent
SPEC = PipelineSpec()
STREAM = SPEC.destination
START_MS = 1_795_388_400_000
AT_ONCE = 4000
"""Records published in one call."""


@dataclass(frozen=True)
class Server:
    """An S3 server that runs."""

    endpoint: str
    bucket: str
    environ: Mapping[str, str]
    version: str

    def store_url(self, endpoint: str = "", **parameters: str) -> str:
        """A root that nobody has used."""
        query = urlencode({"endpoint": endpoint or self.endpoint, "region": REGION, **parameters})
        return f"s3://{self.bucket}/{uuid4().hex}/root?{query}"


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """Its data in a folder that is not there yet; credentials are in this process's environment meanwhile."""
    environ = environ_of()
    before = {name: os.environ.get(name) for name in environ}
    os.environ.update(environ)
    try:
        with SeaweedFS(folder, bucket="bench") as server:
            yield Server(server.endpoint, server.bucket, environ, weed_version())
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


SCORED = 20_000
"""Trades that are really scored; their scores come round again for the others."""


def lines_of_trades(records: int) -> Iterator[list[bytes]]:
    """As [anomalies] would have them: generated trades, the default detector's scores, the scorer's own lines."""
    run = Run(pipeline=SPEC.name, partition=Partition(SPEC.source, "0"), identity="bench", number=1, spec_hash="")
    model = PartitionModel.born(SPEC, Birth(run=run, start=Position(0)), registered(SPEC), emit="all")
    some = [output.value for batch in batches(trades(SCORED)) for output in model.apply(batch).outputs]
    scores = [line["ANOMALY_SCORE"] for line in map(orjson.loads, some) if "ANOMALY_SCORE" in line]
    writer = LineWriter(SPEC, run)
    rows = [orjson.loads(value) for value in trades(SCORED)]
    for first in range(0, records, AT_ONCE):
        numbers = range(first, min(records, first + AT_ONCE))
        yield [
            writer.scored(
                {**rows[number % SCORED], "id": number},
                score=scores[number * 7919 % len(scores)],
                rowtime_ms=START_MS + number // 5,
                position=Position(number),
            )
            for number in numbers
        ]


def plain_lines(count: int, *, source: str, first: int = 0) -> list[bytes]:
    """Lines equal in kind, without a scorer: same fields, same length, scores of 16 digits."""
    draw = random.Random(f"{source}/{first}")
    return [
        (
            b'{"tickerSymbol":"AMZN","tradeType":"BUY","price":%.2f,"quantity":%d,"id":%d,"ANOMALY_SCORE":%s,'
            b'"ROWTIME":"2026-11-22T23:00:%02d.%03dZ","SOURCE":{"pipeline":"%s","stream":"trades@1f2e3d4c","run":1,'
            b'"partition":"%s","position":"%d","ordinal":0}}'
        )
        % (
            draw.random() * 700,
            draw.randrange(1, 900),
            number,
            repr(1 + draw.random() * 3).encode(),
            number // 1000 % 60,
            number % 1000,
            SPEC.name.encode(),
            source.encode(),
            number,
        )
        for number in range(first, first + count)
    ]


def open_log(url: str) -> Transport:
    """A handle on the log."""
    return open_transport(url, clock=SystemClock(), metrics=NoMetrics())


async def made(log: Transport, *, partitions: int = 1) -> None:
    """The streams that a sink reads."""
    await log.ensure(StreamConfig(STREAM, partitions=partitions))
    await log.ensure(StreamConfig(SPEC.errors))


async def publish(log: Transport, values: Sequence[bytes], *, partition: int = 0) -> None:
    """As fast as it goes."""
    for first in range(0, len(values), AT_ONCE):
        part = values[first : first + AT_ONCE]
        await log.publish([Message(STREAM, value, partition_id=str(partition)) for value in part])


async def committed(log: Transport) -> int:
    """Records of all partitions before the sink's committed positions."""
    total = 0
    for part in (await log.describe(STREAM)).partitions:
        total += await log.committed(f"{SPEC.name}.sink", part.partition) or 0
    return total


def in_process(name: str, **given: Any) -> Any:
    """What a function of `sink_peer` gives, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "sink_peer.py"), name, json.dumps(given)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
