"""The producer on the embedded log: what is in the log is what was promised, whatever stops or fails."""

import asyncio
import gzip
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cutbank.clock import Clock, SystemClock
from cutbank.errors import OutcomeUnknown, StreamMissing, StreamUnavailable, UsageError
from cutbank.metrics import NoMetrics
from cutbank.pipeline.inputs import LINE_BYTES_MAX, open_input
from cutbank.records import Message, Position
from cutbank.retry import RetryPolicy
from cutbank.runtime.service import Runtime
from cutbank.testing import ManualClock
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig, Transport
from cutbank_producer import producing
from cutbank_producer.app import SERVICE
from cutbank_producer.lambda_function import lambda_handler
from cutbank_producer.producing import Produced, produce
from cutbank_producer.settings import ProducerSettings
from cutbank_producer.trades import FIRST_ID, PRICE_MAX

QUICK: dict[str, Any] = {"records_per_second": 0.0}


class Counts(NoMetrics):
    """Adds up, for the test to read."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        self.sums[name] += int(value)


class Failing:
    """A transport whose publishes fail as told: the n-th call raises the n-th error, before or after it was done."""

    def __init__(self, inner: Transport, failures: Sequence[BaseException | None], *, done: bool = False) -> None:
        self._inner = inner
        self._failures = list(failures)
        self._done = done
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def publish(self, messages: Sequence[Message]) -> None:
        self.calls += 1
        failure = self._failures.pop(0) if self._failures else None
        if failure is None or self._done:
            await self._inner.publish(messages)
        if failure is not None:
            raise failure


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"local://{tmp_path}/log.db?durability=process-crash"


@pytest.fixture
async def log(url: str) -> AsyncIterator[Transport]:
    async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        yield transport


async def made(
    transport: Any,
    *,
    clock: Clock | None = None,
    metrics: Counts | None = None,
    stop: asyncio.Event | None = None,
    tell: Callable[[bool, str], None] = lambda ok, why: None,
    **given: Any,
) -> Produced:
    return await produce(
        ProducerSettings.load({}, **given),
        transport=transport,
        clock=clock or SystemClock(),
        metrics=metrics or Counts(),
        rng=random.Random(1),
        stop=stop or asyncio.Event(),
        tell=tell,
    )


async def partitions_of(transport: Transport, stream: str) -> list[list[tuple[bytes | None, bytes]]]:
    """Keys and values of every partition, in order."""
    found = []
    for info in (await transport.describe(stream)).partitions:
        records: list[tuple[bytes | None, bytes]] = []
        position = info.oldest
        while position < info.end:
            batch = await transport.read(info.partition, position, records_max=10_000, bytes_max=1 << 24)
            records += zip(batch.keys, batch.values, strict=True)
            position = batch.end
        found.append(records)
    return found


async def values_of(transport: Transport, stream: str) -> list[bytes]:
    (records,) = await partitions_of(transport, stream)
    return [value for _, value in records]


async def documents_of(transport: Transport, stream: str) -> list[dict[str, Any]]:
    return [json.loads(value) for value in await values_of(transport, stream)]


def anomalous_ids(trades: list[dict[str, Any]]) -> list[int]:
    """By the multipliers, which never fall among normal prices."""
    return [trade["id"] for trade in trades if trade["price"] > PRICE_MAX]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0)


class TestTrades:
    async def test_ids_start_at_a_milliard_and_labels_name_exactly_the_anomalies(self, log: Transport) -> None:
        metrics = Counts()
        produced = await made(log, metrics=metrics, records_max=1050, labels_stream="labels", **QUICK)
        trades = await documents_of(log, "trades")
        labels = await values_of(log, "labels")
        assert [trade["id"] for trade in trades] == list(range(FIRST_ID, FIRST_ID + 1050))
        assert labels == [b'{"id": %d}' % trade_id for trade_id in anomalous_ids(trades)]
        assert len(labels) > 20
        assert produced == Produced(records=1050, labels=len(labels), why="records")
        assert metrics.sums == {"cutbank_records_produced_total": 1050}

    async def test_a_restarted_producer_goes_on_with_the_ids_and_repeats_no_trade(self, log: Transport) -> None:
        for _ in range(3):
            await made(log, records_max=150, stream_partitions=3, **QUICK)
        found = [json.loads(value) for records in await partitions_of(log, "trades") for _, value in records]
        assert sorted(trade["id"] for trade in found) == list(range(FIRST_ID, FIRST_ID + 450))
        assert len({trade["price"] for trade in found}) == 450

    async def test_a_first_id_that_is_set_counts(self, log: Transport) -> None:
        await made(log, records_max=2, first_id=-7, **QUICK)
        assert [trade["id"] for trade in await documents_of(log, "trades")] == [-7, -6]

    async def test_the_same_settings_give_the_same_bytes_however_they_are_batched(self, log: Transport) -> None:
        await made(log, records_max=2100, stream_name="a", **QUICK)
        await made(log, records_max=2100, stream_name="b", records_per_batch=2000, **QUICK)
        assert await values_of(log, "a") == await values_of(log, "b")

    async def test_by_ticker_each_ticker_has_one_partition_and_its_key(self, log: Transport) -> None:
        await made(log, records_max=2000, stream_partitions=3, **QUICK)
        seen = [
            {(key, json.loads(value)["tickerSymbol"].encode()) for key, value in records}
            for records in await partitions_of(log, "trades")
        ]
        assert all(key == ticker for part in seen for key, ticker in part)
        assert sum(len(part) for part in seen) == len(set().union(*seen)) == 20
        assert all(seen)

    async def test_round_robin_fills_the_partitions_evenly_and_in_order(self, log: Transport) -> None:
        await made(log, records_max=301, stream_partitions=3, partition_by="round-robin", **QUICK)
        ids = [[json.loads(value)["id"] - FIRST_ID for _, value in part] for part in await partitions_of(log, "trades")]
        assert ids == [list(range(start, 301, 3)) for start in range(3)]

    async def test_an_existing_stream_is_left_as_it_is(self, log: Transport) -> None:
        await log.ensure(StreamConfig("trades", partitions=2, retention_ms=60_000))
        await made(log, records_max=1, stream_partitions=5, **QUICK)
        info = await log.describe("trades")
        assert (len(info.partitions), info.retention_ms) == (2, 60_000)

    async def test_the_specs_source_is_the_stream_unless_one_is_named(self, log: Transport, tmp_path: Path) -> None:
        spec = tmp_path / "cutbank.toml"
        spec.write_text('source = "orders"\n')
        await made(log, records_max=1, spec=spec, **QUICK)
        await made(log, records_max=1, spec=spec, stream_name="mine", **QUICK)
        assert await log.streams() == ("mine", "orders")
        with pytest.raises(UsageError, match="spec's source are both 'orders'"):
            await made(log, records_max=1, spec=spec, labels_stream="orders", **QUICK)


class TestPace:
    async def test_a_hundred_a_second_without_drift_until_the_duration(self, log: Transport) -> None:
        clock, metrics = ManualClock(), Counts()
        producer = asyncio.create_task(made(log, clock=clock, metrics=metrics, duration_seconds=10.0))
        for second in range(10):
            # Parked: the watcher of the duration and the pause before the next batch.
            await until(
                lambda second=second: (
                    metrics.sums["cutbank_records_produced_total"] == 100 * (second + 1)  # type: ignore[misc]
                    and (clock.sleepers == 2 or producer.done())
                )
            )
            if second < 9:
                await clock.advance(0.99)
                await clock.settle()
                assert metrics.sums["cutbank_records_produced_total"] == 100 * (second + 1)
                await clock.advance(0.01)
        async with asyncio.timeout(20):
            produced = await producer
        assert (produced.records, produced.why) == (1000, "duration")
        assert clock.monotonic_s() == pytest.approx(9.0)

    async def test_a_stop_ends_a_pause_at_once(self, log: Transport) -> None:
        clock, metrics, stop = ManualClock(), Counts(), asyncio.Event()
        producer = asyncio.create_task(made(log, clock=clock, metrics=metrics, stop=stop, records_per_second=0.2))
        await until(lambda: clock.sleepers == 2)
        stop.set()
        async with asyncio.timeout(20):
            assert await producer == Produced(records=100, labels=0, why="stopped")

    async def test_a_stop_ends_flat_out_producing_within_one_batch(self, log: Transport) -> None:
        metrics, stop = Counts(), asyncio.Event()
        producer = asyncio.create_task(made(log, metrics=metrics, stop=stop, **QUICK))
        await until(lambda: metrics.sums["cutbank_records_produced_total"] >= 300)
        before = metrics.sums["cutbank_records_produced_total"]
        stop.set()
        async with asyncio.timeout(20):
            produced = await producer
        assert produced.records - before in {0, 100}
        assert len(await values_of(log, "trades")) == produced.records

    async def test_an_inputs_own_pace_is_kept_and_speed_divides_it(self, log: Transport, tmp_path: Path) -> None:
        path = tmp_path / "t.ndjson"
        path.write_text("".join(f'{{"t": {1_723_161_255_000 + at}}}\n' for at in (0, 1, 10_000, 40_000)))
        clock, metrics = ManualClock(), Counts()
        how: dict[str, Any] = {"input": str(path), "pace": "file", "timestamp_column": "t", "speed": 10.0}
        producer = asyncio.create_task(made(log, clock=clock, metrics=metrics, **how))
        for due_s, records in ((0.0, 2), (1.0, 3), (4.0, 4)):
            await clock.advance(max(due_s - clock.monotonic_s() - 0.001, 0.0))
            assert metrics.sums["cutbank_records_produced_total"] in {0, records - 1}
            await clock.advance(due_s - clock.monotonic_s())
            await until(
                lambda records=records: (
                    metrics.sums["cutbank_records_produced_total"] == records  # type: ignore[misc]
                    and (clock.sleepers == 1 or producer.done())
                )
            )
        async with asyncio.timeout(20):
            assert (await producer).why == "input"


class TestFailures:
    async def test_an_unreachable_log_is_tried_again_and_readiness_says_so(self, log: Transport) -> None:
        told: list[tuple[bool, str]] = []
        metrics = Counts()
        failing = Failing(log, [StreamUnavailable("busy"), StreamUnavailable("busy")])
        produced = await made(
            failing, metrics=metrics, records_max=200, tell=lambda ok, why: told.append((ok, why)), **QUICK
        )
        assert produced.records == len(await values_of(log, "trades")) == 200
        assert metrics.sums["cutbank_retries_total"] == 2
        assert told == [(True, ""), (False, "publish: busy"), (False, "publish: busy"), (True, ""), (True, "")]

    async def test_an_unknown_outcome_is_sent_again_with_the_same_ids_and_labels(self, log: Transport) -> None:
        failing = Failing(log, [OutcomeUnknown("no answer")], done=True)
        await made(failing, records_max=200, labels_stream="labels", **QUICK)
        ids = [trade["id"] for trade in await documents_of(log, "trades")]
        # At least once: the whole batch again, and nothing missing.
        assert ids == [*range(FIRST_ID, FIRST_ID + 100), *range(FIRST_ID, FIRST_ID + 200)]
        labelled = {label["id"] for label in await documents_of(log, "labels")}
        assert labelled == set(anomalous_ids(await documents_of(log, "trades")))

    async def test_a_batch_and_its_labels_go_out_together_or_not_at_all(self, log: Transport) -> None:
        failing = Failing(log, [None, StreamMissing("deleted")])
        with pytest.raises(StreamMissing):
            await made(failing, labels_stream="labels", anomaly_share=0.5, **QUICK)
        trades = await documents_of(log, "trades")
        labels = [label["id"] for label in await documents_of(log, "labels")]
        assert len(trades) == 100
        assert labels == anomalous_ids(trades) != []

    @pytest.mark.parametrize("failure", [StreamUnavailable("gone"), OutcomeUnknown("gone")])
    async def test_retries_end_with_the_logs_own_error(
        self, log: Transport, failure: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = RetryPolicy(attempts_max=3, delay_s_first=0.001)
        monkeypatch.setattr(producing, "PUBLISH_RETRY", policy)
        failing = Failing(log, [failure] * 3)
        with pytest.raises(type(failure), match="gone"):
            await made(failing, records_max=200, **QUICK)
        assert failing.calls == 3

    async def test_a_stop_in_an_outage_ends_it_without_waiting_for_the_retries(self, log: Transport) -> None:
        stop, told = asyncio.Event(), asyncio.Event()
        clock = ManualClock()
        failing = Failing(log, [StreamUnavailable("gone")] * 50)
        producer = asyncio.create_task(
            made(failing, clock=clock, stop=stop, tell=lambda ok, why: None if ok else told.set(), **QUICK)
        )
        async with asyncio.timeout(20):
            await told.wait()
            stop.set()
            with pytest.raises(StreamUnavailable):
                await producer
        assert failing.calls <= 2
        assert await values_of(log, "trades") == []

    async def test_a_log_whose_positions_count_nothing_asks_for_a_first_id(self, log: Transport) -> None:
        class Numbered:
            """As Kinesis: positions are sequence numbers."""

            async def ensure(self, config: StreamConfig) -> Any:
                from dataclasses import replace

                info = await log.ensure(config)
                return replace(info, partitions=tuple(replace(p, end=Position(1 << 120)) for p in info.partitions))

            async def publish(self, messages: Sequence[Message]) -> None:
                await log.publish(messages)

        with pytest.raises(UsageError, match="set FIRST_ID"):
            await made(Numbered(), records_max=1, **QUICK)
        assert (await made(Numbered(), records_max=1, first_id=5, **QUICK)).records == 1


class TestReplay:
    async def test_every_line_of_an_ndjson_file_is_a_record_the_bad_ones_too(
        self, log: Transport, tmp_path: Path
    ) -> None:
        lines = [b'{"a": 1.50}', b"nonsense", b"", b"\xff\xfe", b'{"b":[1]}'] * 50
        path = tmp_path / "t.ndjson"
        path.write_bytes(b"\n".join(lines))
        produced = await made(log, input=str(path), pace="max", labels_stream="labels")
        assert await values_of(log, "trades") == lines
        assert produced == Produced(records=250, labels=0, why="input")
        assert await log.streams() == ("trades",)

    async def test_an_input_is_not_cut_off_by_the_duration_of_made_up_trades(
        self, log: Transport, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.csv"
        path.write_text("a\n" + "1\n" * 3)
        clock = ManualClock()
        how: dict[str, Any] = {"input": str(path), "records_per_batch": 1, "records_per_second": 0.001}
        whole = asyncio.create_task(made(log, clock=clock, **how))
        for _ in range(2):
            await until(lambda: clock.sleepers == 1)
            await clock.advance(1000.0)
        async with asyncio.timeout(20):
            assert (await whole).records == 3
        with capture_logs() as logs:
            cut = await made(log, clock=clock, duration_seconds=500.0, **how)
        assert (cut.records, cut.why) == (1, "duration")
        assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
            "input not replayed to its end"
        ]

    async def test_a_killed_replay_goes_on_where_it_stopped(self, log: Transport, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text("a\n" + "".join(f"{number}\n" for number in range(500)))
        await made(log, input=str(path), pace="max", records_max=230)
        await made(log, input=str(path), pace="max", resume=True)
        assert await values_of(log, "trades") == [b'{"a":%d}' % number for number in range(500)]

    async def test_a_record_that_the_log_does_not_take_is_cut_and_its_neighbours_are_whole(
        self, log: Transport, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.csv"
        # The row fits a line, but its JSON, with the names, is over what the log takes.
        path.write_text("name,b\n1,x\n" + "y" * (LINE_BYTES_MAX - 2) + ",2\n3,z\n")
        with capture_logs() as logs:
            await made(log, input=str(path), pace="max")
        first, cut, last = await values_of(log, "trades")
        assert (first, last) == (b'{"name":1,"b":"x"}', b'{"name":3,"b":"z"}')
        assert cut == (b'{"name":"' + b"y" * LINE_BYTES_MAX)[:LINE_BYTES_MAX]
        (entry,) = (entry for entry in logs if entry["log_level"] == "warning")
        assert (entry["line"], entry["bytes_max"]) == (3, LINE_BYTES_MAX)

    async def test_keys_come_from_the_ticker_where_there_is_one_or_from_the_column_named(
        self, log: Transport, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.csv"
        path.write_text("tickerSymbol,who\nDELTA,x\n")
        await made(log, input=str(path), pace="max", stream_name="a")
        await made(log, input=str(path), pace="max", stream_name="b", partition_by="who")
        await made(log, input=str(path), pace="max", stream_name="c", partition_by="round-robin")
        found = [(await partitions_of(log, stream))[0][0][0] for stream in "abc"]
        assert found == [b"DELTA", b"x", None]
        with pytest.raises(UsageError, match="no column 'nope' for PARTITION_BY=nope; its columns are tickerSymbol"):
            await made(log, input=str(path), partition_by="nope")

    async def test_a_stop_ends_a_replay_that_waits_for_a_pipe(self, log: Transport, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        metrics, stop = Counts(), asyncio.Event()
        with open(path, "r+b", buffering=0) as pipe:  # noqa: ASYNC230, PTH123  # opening both ways waits for nobody
            pipe.write(b'{"a":1}\n{"a":2}\n{"half')
            producer = asyncio.create_task(made(log, metrics=metrics, stop=stop, input=str(path)))
            await until(lambda: metrics.sums["cutbank_records_produced_total"] == 2)
            stop.set()
            async with asyncio.timeout(20):
                assert await producer == Produced(records=2, labels=0, why="stopped")
        assert await values_of(log, "trades") == [b'{"a":1}', b'{"a":2}']

    async def test_a_stop_before_a_pipe_gave_anything_is_a_quiet_end(self, log: Transport, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        stop = asyncio.Event()
        with open(path, "r+b", buffering=0):  # noqa: ASYNC230, PTH123
            producer = asyncio.create_task(made(log, stop=stop, input=str(path)))
            for _ in range(10):
                await asyncio.sleep(0)
            stop.set()
            async with asyncio.timeout(20):
                assert await producer == Produced(records=0, labels=0, why="stopped")

    async def test_an_input_that_the_caller_has_looked_at_is_replayed_whole_and_left_open(
        self, log: Transport, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.csv"
        path.write_text("a,b\n1,x\n2,y\n")
        with open_input(str(path)) as source:
            assert [column.name for column in source.columns(features=["a"])] == ["a", "b"]
            produced = await produce(
                ProducerSettings.load({}, pace="max"),
                transport=log,
                clock=SystemClock(),
                metrics=Counts(),
                rng=random.Random(1),
                stop=asyncio.Event(),
                source=source,
            )
            assert source.records(records_max=1, bytes_max=1) == []
        assert (produced.records, produced.why) == (2, "input")
        assert await values_of(log, "trades") == [b'{"a":1,"b":"x"}', b'{"a":2,"b":"y"}']

    async def test_damaged_data_ends_a_replay_loudly_after_what_it_holds(self, log: Transport, tmp_path: Path) -> None:
        path = tmp_path / "t.csv.gz"
        whole = gzip.compress(b"a\n" + b"".join(b"%d\n" % number for number in range(50_000)))
        path.write_bytes(whole[:-1000])
        with pytest.raises(UsageError, match="damaged or cut off"):
            await made(log, input=str(path), pace="max", records_per_batch=1000)
        values = await values_of(log, "trades")
        assert len(values) >= 30_000
        assert values == [b'{"a":%d}' % number for number in range(len(values))]

    async def test_cancelling_while_a_pipe_is_awaited_leaves_no_reader_behind(
        self, log: Transport, tmp_path: Path
    ) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with open(path, "r+b", buffering=0):  # noqa: ASYNC230, PTH123
            producer = asyncio.create_task(made(log, input=str(path)))
            for _ in range(10):
                await asyncio.sleep(0)
            producer.cancel()
            async with asyncio.timeout(20):
                with pytest.raises(asyncio.CancelledError):
                    await producer


class TestService:
    async def test_the_service_opens_its_log_and_reports_ready(self, url: str) -> None:
        runtime = Runtime(clock=SystemClock(), metrics=Counts())
        await SERVICE.run(ProducerSettings.load({}, transport_url=url, records_max=100, records_per_second=0), runtime)
        assert runtime.health.is_ready

    async def test_a_wrong_file_makes_no_log(self, url: str, tmp_path: Path) -> None:
        settings = ProducerSettings.load({}, transport_url=url, input=str(tmp_path / "none"))
        with pytest.raises(UsageError, match="No such file"):
            await SERVICE.run(settings, Runtime(clock=SystemClock(), metrics=Counts()))
        assert os.listdir(tmp_path) == []  # noqa: PTH208  # blocks for no time

    async def test_killed_and_started_again_it_repeats_no_id_and_labels_what_is_there(
        self, url: str, log: Transport, tmp_path: Path
    ) -> None:
        environ = {**os.environ, "CUTBANK_TRANSPORT_URL": url, "LABELS_STREAM": "labels", "RECORDS_PER_SECOND": "5000"}
        await log.ensure(StreamConfig("trades"))
        for _ in range(2):
            before = (await log.describe("trades")).partitions[0].end
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cutbank_producer", env=environ, stderr=asyncio.subprocess.DEVNULL
            )
            async with asyncio.timeout(60):
                while (await log.describe("trades")).partitions[0].end < before + 500:  # noqa: ASYNC110  # another process
                    await asyncio.sleep(0)
                process.send_signal(signal.SIGKILL)
                await process.wait()
        trades = await documents_of(log, "trades")
        assert [trade["id"] for trade in trades] == list(range(FIRST_ID, FIRST_ID + len(trades)))
        assert [label["id"] for label in await documents_of(log, "labels")] == anomalous_ids(trades)

    async def test_standard_input_is_replayed_by_the_process(self, url: str, log: Transport) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cutbank_producer", "--transport-url", url, "--input", "-", "--http-port", "off",
            stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            _, told = await process.communicate(b"a;b\n1;x\n2;y\n")
        assert process.returncode == 0, told
        assert await values_of(log, "trades") == [b'{"a":1,"b":"x"}', b'{"a":2,"b":"y"}']


class Remaining:
    """A Lambda context with so much less time left each time it is asked."""

    def __init__(self, *, start_ms: int, step_ms: int) -> None:
        self.left_ms = start_ms
        self._step_ms = step_ms

    def get_remaining_time_in_millis(self) -> int:
        self.left_ms -= self._step_ms
        return self.left_ms


class TestLambda:
    @pytest.fixture(autouse=True)
    def environment(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUTBANK_TRANSPORT_URL", url)
        monkeypatch.setenv("STREAM_NAME", "Demo-samples")
        monkeypatch.setenv("RECORDS_PER_SECOND", "0")

    def documents(self, url: str) -> list[dict[str, Any]]:
        async def read() -> list[dict[str, Any]]:
            async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
                return await documents_of(transport, "Demo-samples")

        return asyncio.run(read())

    def test_a_warm_container_calls_again_and_the_ids_go_on(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RECORDS_MAX", "100")
        test_event = {"key1": "value1", "key2": "value2", "key3": "value3"}
        for _ in range(2):
            answer = lambda_handler(test_event, Remaining(start_ms=900_000, step_ms=1))
            assert answer["statusCode"] == 200
            body = json.loads(answer["body"])
            assert (body["records"], body["why"]) == (100, "records")
        assert [trade["id"] for trade in self.documents(url)] == list(range(FIRST_ID, FIRST_ID + 200))

    def test_it_begins_no_batch_in_the_time_that_it_keeps_back(self, url: str) -> None:
        context = Remaining(start_ms=60_000, step_ms=1000)
        answer = lambda_handler({}, context)
        body = json.loads(answer["body"])
        assert body["why"] == "duration"
        assert body["records"] == len(self.documents(url)) > 0
        # It stopped at the first answer within the last 5 s.
        assert context.left_ms == 5000

    def test_a_short_invocation_keeps_back_a_quarter(self) -> None:
        context = Remaining(start_ms=3000, step_ms=50)
        assert json.loads(lambda_handler({}, context)["body"])["records"] > 0
        # A quarter of what was left when it was first asked.
        assert context.left_ms == pytest.approx(2950 / 4, abs=50)

    def test_called_by_hand_without_a_context_the_duration_ends_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DURATION_SECONDS", "0.05")
        assert json.loads(lambda_handler(None, None)["body"])["why"] == "duration"

    def test_a_batch_in_flight_at_the_end_is_cut_off_and_the_invocation_fails(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lambda_handler({}, Remaining(start_ms=1000, step_ms=300))
        writer = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        try:
            writer.execute("BEGIN IMMEDIATE")
            monkeypatch.setenv("CUTBANK_TRANSPORT_URL", f"{url}&busy_ms=1000")
            with pytest.raises(OutcomeUnknown, match="time ran out with a batch in flight"):
                lambda_handler({}, Remaining(start_ms=400, step_ms=1))
        finally:
            writer.close()

    def test_a_wrong_setting_fails_the_invocation_in_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANOMALY_SHARE", "2")
        with pytest.raises(UsageError, match=re.escape("ANOMALY_SHARE: Input should be less than or equal to 1")):
            lambda_handler({}, None)

    def test_it_imports_no_server_no_command_and_no_kernels(self, tmp_path: Path) -> None:
        code = (
            "import json, sys; from cutbank_producer.lambda_function import lambda_handler; "
            "assert json.loads(lambda_handler({}, None)['body'])['records'] == 100; "
            "print([m for m in ('numba', 'river', 'click', 'aiohttp', 'numpy') if m in sys.modules])"
        )
        environ = {**os.environ, "RECORDS_MAX": "100"}
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[]"]), done.stderr
