"""The sink as a service: settings to config, and a whole run from URLs to objects."""

import asyncio
import sys
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.detectors import algorithm_version
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.sinking import Layout, SinkConfig, inspect
from cutbank.pipeline.sinking.schema import ERROR_COLUMNS
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message
from cutbank.runtime.service import Runtime
from cutbank.transports import open_transport
from cutbank.transports.base import Start, StreamConfig
from cutbank_sink.app import SERVICE
from cutbank_sink.settings import SinkSettings
from sinking_world import Counted, anomaly, ids


def test_defaults_are_those_of_the_library() -> None:
    spec = PipelineSpec()
    assert SinkSettings(errors_prefix="").config(spec) == SinkConfig(pipeline=spec.name, stream=spec.destination)


def test_every_setting_reaches_the_config() -> None:
    environ = {
        "CUTBANK_STRETCH_BYTES_MAX": "65536",
        "CUTBANK_STRETCH_RECORDS_MAX": "10",
        "CUTBANK_HELD_BYTES_MAX": "4194304",
        "CUTBANK_GRACE_MS": "1",
        "CUTBANK_FLUSH_ON_STOP": "true",
        "CUTBANK_ACCEPT_LOST": "true",
        "CUTBANK_SINK_START": "timestamp",
        "CUTBANK_SINK_START_TIMESTAMP_MS": "99",
        "CUTBANK_STREAM_WAIT_S": "5",
        "CUTBANK_ERRORS_PREFIX": "bad/",
    }
    spec = PipelineSpec(name="mine", destination="odd-ones", errors="bad-ones")
    assert SinkSettings.load(environ).config(spec) == SinkConfig(
        pipeline="mine",
        stream="odd-ones",
        beside={"bad-ones": Layout(prefix="bad/")},
        start=Start(at="timestamp", timestamp_ms=99),
        stretch_bytes_max=65536,
        stretch_records_max=10,
        held_bytes_max=4194304,
        grace_ms=1,
        flush_on_stop=True,
        accept_lost=True,
        stream_wait_s=5.0,
    )


def test_errors_are_laid_out_as_the_anomalies_are_under_their_own_prefix() -> None:
    """Zone, format and compression hold for both; partition keys are those that each prefix names."""
    environ = {
        "CUTBANK_PREFIX": "!{partitionKeyFromQuery:tradeType}/",
        "CUTBANK_ERRORS_PREFIX": "errors/!{firehose:error-output-type}/!{timestamp:yyyy}/",
        "CUTBANK_FORMAT": "csv",
        "CUTBANK_COMPRESSION": "gzip",
        "CUTBANK_TIMEZONE": "Asia/Tokyo",
        "CUTBANK_PARTITION_VALUES_MAX": "7",
    }
    config = SinkSettings.load(environ).config(PipelineSpec())
    errors = config.of("errors")
    assert (errors.stream, errors.layout) == (
        "errors",
        Layout(
            prefix="errors/!{firehose:error-output-type}/!{timestamp:yyyy}/",
            zone="Asia/Tokyo",
            format="csv",
            compression="gzip",
            columns=tuple(column.name for column in ERROR_COLUMNS),
            partition_keys=("ERROR_NAME",),
            partition_values_max=7,
        ),
    )
    assert config.of("anomalies").layout == config.layout
    assert config.layout.partition_keys == ("tradeType",)
    assert config.streams == ("anomalies", "errors")
    assert errors.streams == ("errors",)
    assert config.group == errors.group


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"CUTBANK_ERRORS_PREFIX": "yyyy/hh/"}, "prefix 'yyyy/hh/': hh in"),
        (
            {"CUTBANK_ERRORS_PREFIX": "!{partitionKeyFromQuery:price}/"},
            "'price' is not a column; columns are ERROR_TIME",
        ),
        ({"CUTBANK_PREFIX": "!{firehose:error-output-type}/"}, "belongs into errors_prefix"),
    ],
)
def test_a_wrong_prefix_of_errors_is_one_clear_line(environ: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        SinkSettings.load(environ).config(PipelineSpec())
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stream_is_not_sunk_twice() -> None:
    with pytest.raises(UsageError, match="'anomalies' is sunk twice"):
        SinkConfig(pipeline="p", stream="anomalies", beside={"anomalies": Layout()})


def test_no_size_exceeds_128_mib() -> None:
    with pytest.raises(UsageError, match="CUTBANK_STRETCH_BYTES_MAX"):
        SinkSettings.load({"CUTBANK_STRETCH_BYTES_MAX": str((128 << 20) + 1)})


async def test_from_urls_to_objects(tmp_path: Path) -> None:
    settings = SinkSettings.load(
        {},
        transport_url=f"local://{tmp_path}/log.db",
        store_url=f"file://{tmp_path}/objects",
        flush_on_stop=True,
        thread_switch_ms=0.25,
    )
    usual_s = sys.getswitchinterval()
    clock, metrics = SystemClock(), Counted()
    runtime = Runtime(clock=clock, metrics=metrics)
    async with (
        open_transport(settings.transport_url, clock=clock, metrics=NoMetrics()) as transport,
        open_store(settings.store_url, clock=clock, metrics=NoMetrics()) as store,
    ):
        service = asyncio.ensure_future(SERVICE.run(settings, runtime))
        await asyncio.sleep(0)
        assert not runtime.health.is_ready
        await transport.ensure(StreamConfig("anomalies"))
        await transport.ensure(StreamConfig("errors"))
        await transport.publish([Message("anomalies", anomaly(n, pipeline=PipelineSpec().name)) for n in range(3)])
        async with asyncio.timeout(30):
            # It tells its lag after it has taken what it read.
            while "cutbank_lag_records sink anomalies/0" not in metrics.gauges:
                assert not service.done()
                await asyncio.sleep(0)
        assert runtime.health.is_ready
        assert sys.getswitchinterval() == pytest.approx(0.00025)
        runtime.stop.set()
        await asyncio.wait_for(service, 30)
        assert sys.getswitchinterval() == usual_s
        lines = [
            line
            async for info in inspect.data_objects(store)
            for line in (await store.read(info.key)).removesuffix(b"\n").split(b"\n")
        ]
        claims = [claim async for claim in inspect.claims(store)]
    assert ids(lines) == [0, 1, 2]
    assert [claim.spec_hash for claim in claims] == [
        PipelineSpec().hash(algorithm_version=algorithm_version("ensemble"))
    ]
