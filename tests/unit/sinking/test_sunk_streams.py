"""One sink, several streams: each under its own prefix and layout, with chains of its own, on one budget and group."""

import asyncio
import random
from collections.abc import Callable

import orjson
import pytest

from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.pipeline.sinking import Layout, SinkConfig, inspect, run_sink
from cutbank.pipeline.sinking.rendering import content, lines
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message, Position, position_text
from cutbank.testing.clock import ManualClock
from cutbank.testing.loop import simulate
from cutbank.testing.memory_log import MemoryLog
from cutbank.testing.memory_store import MemoryStore
from cutbank.testing.process import SimulatedProcess
from cutbank.transports.base import StreamConfig
from cutbank_sink.settings import SinkSettings
from sinking_world import Counted, anomaly, ids

SPEC = PipelineSpec(name="p")


def error(number: int, *, reason: str = "invalid_json", partition: str = "0") -> bytes:
    """An error record as the scorer makes it; `number` is its position in the source."""
    return orjson.dumps(
        {
            "ERROR_TIME": "2026-09-21T14:00:00.000Z",
            "ERROR_LEVEL": "ERROR",
            "ERROR_NAME": reason,
            "MESSAGE": "unexpected end",
            "DATA_ROWTIME": "2026-09-21T14:00:00.000Z",
            "DATA_ROW": "7b",
            "DATA_BYTES": 1,
            "PUMP_NAME": "p",
            "SOURCE": {
                "pipeline": "p",
                "stream": "trades@00000000",
                "run": 1,
                "partition": partition,
                "position": position_text(Position(number)),
                "ordinal": 0,
            },
        }
    )


class Town:
    """A log and a bucket; sinks come and go."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.log = MemoryLog(clock=self.clock)
        self.bucket = MemoryStore()
        self.metrics = Counted()

    async def fill(self, *, times: int = 1) -> None:
        transport = self.log.open()
        for name, partitions in (("anomalies", 2), ("errors", 3)):
            await transport.ensure(StreamConfig(name, partitions=partitions))
        for _ in range(times):
            await transport.publish([Message("anomalies", anomaly(n), partition_id="0") for n in range(5)])
            bad = [error(n, reason=("empty", "invalid_json")[n % 2]) for n in range(6)]
            await transport.publish([Message("errors", value, partition_id="2") for value in bad])

    async def sink(self, config: SinkConfig, *, until: Callable[[], bool]) -> None:
        process, stop = SimulatedProcess("sink", self.clock), asyncio.Event()
        process.start(
            run_sink(
                process.transport(self.log.open(clock=process.clock)),
                process.store(self.bucket.open()),
                config,
                clock=process.clock,
                metrics=self.metrics,
                stop=stop,
                rng=random.Random(1),
            )
        )
        while not until():
            await self.clock.sleep(1.0)
        stop.set()
        await process.ended()

    def objects(self) -> list[str]:
        return [key for key in self.bucket.objects if not key.startswith("_cutbank/")]

    async def found(self, stream: str) -> list[bytes]:
        """All lines of a stream's objects."""
        store = self.bucket.open()
        texts = []
        async for claim in inspect.claims(store, "p"):
            for item in claim.objects:
                if claim.stream == stream:
                    body = await store.read(item.key)
                    texts += lines(claim.layout, content(claim.layout, body))
        return texts


def config_of(**environ: str) -> SinkConfig:
    return SinkSettings.load({f"CUTBANK_{name}": value for name, value in environ.items()}).config(SPEC)


def test_anomalies_and_errors_lie_under_their_own_prefixes_each_once() -> None:
    town = Town()

    async def run() -> None:
        await town.fill(times=2)  # everything is delivered again
        config = config_of(ERRORS_PREFIX="bad/!{firehose:error-output-type}/!{timestamp:yyyy}/", COMPRESSION="gzip")
        await town.sink(config, until=lambda: len(town.objects()) == 3)
        assert ids(await town.found("anomalies")) == list(range(5))
        assert sorted(await town.found("errors")) == sorted(
            error(n, reason=("empty", "invalid_json")[n % 2]) for n in range(6)
        )
        chains = {str(chain) async for chain in inspect.chains(town.bucket.open(), "p")}
        assert chains == {f"p/{place}" for place in ("anomalies/0", "anomalies/1", "errors/0", "errors/1", "errors/2")}

    simulate(run(), clock=town.clock)
    assert sorted(key.rpartition("/")[0] for key in town.objects()) == [
        "2026/09/21/14",
        "bad/empty/2026",
        "bad/invalid_json/2026",
    ]
    assert all(key.endswith(".json.gz") for key in town.objects())
    assert town.metrics.counts["cutbank_repeats_dropped_total"] == 11
    assert "cutbank_record_errors_total foreign" not in town.metrics.counts


def test_each_stream_has_its_own_layout_and_changes_it_at_a_restart() -> None:
    town = Town()

    async def run() -> None:
        await town.fill()
        await town.sink(config_of(FORMAT="parquet"), until=lambda: len(town.objects()) == 2)
        transport = town.log.open()
        await transport.publish([Message("errors", error(6), partition_id="2")])
        await town.sink(config_of(FORMAT="csv", ERRORS_PREFIX="e/"), until=lambda: len(town.objects()) == 3)
        assert len(await town.found("errors")) == 7

    simulate(run(), clock=town.clock)
    assert [key[key.index(".") :] for key in town.objects()] == [".parquet", ".parquet", ".csv"]
    assert sorted(key.split("/")[0] for key in town.objects()) == ["2026", "e", "errors"]


def test_errors_are_left_alone_where_that_is_asked() -> None:
    town = Town()

    async def run() -> None:
        await town.fill()
        await town.sink(config_of(ERRORS_PREFIX=""), until=lambda: bool(town.objects()))
        assert await town.found("errors") == []

    simulate(run(), clock=town.clock)
    assert all("errors" not in key for key in town.bucket.objects)


def test_who_begins_to_sink_errors_later_gets_those_that_are_retained() -> None:
    town = Town()

    async def run() -> None:
        await town.fill()
        await town.sink(config_of(ERRORS_PREFIX=""), until=lambda: bool(town.objects()))
        await town.sink(config_of(), until=lambda: len(town.objects()) == 2)
        assert len(await town.found("errors")) == 6
        assert ids(await town.found("anomalies")) == list(range(5))

    simulate(run(), clock=town.clock)


def test_all_streams_are_waited_for_and_the_missing_one_is_named() -> None:
    town = Town()

    async def run() -> None:
        await town.log.open().ensure(StreamConfig("anomalies"))
        config = SinkConfig(pipeline="p", stream="anomalies", beside={"errors": Layout(), "more": Layout()})
        ready: list[str] = []
        with pytest.raises(UsageError, match="stream 'errors' did not appear within 60 s"):
            await run_sink(
                town.log.open(),
                town.bucket.open(),
                config,
                clock=town.clock,
                metrics=NoMetrics(),
                stop=asyncio.Event(),
                rng=random.Random(1),
                ready=lambda part, ok, why: ready.append(f"{part} {ok} {why}"),
            )
        assert "transport False waiting for streams: anomalies, errors, more" in ready
        assert "transport True " not in ready

    began_s = town.clock.monotonic_s()
    simulate(run(), clock=town.clock)
    assert 60.0 <= town.clock.monotonic_s() - began_s < 62.0
