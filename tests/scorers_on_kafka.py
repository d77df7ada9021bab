"""Scorers on a real broker, as processes of their own or as services in the test: started, asked, killed.

`Site` is one pipeline under a prefix of its own, so any number of them share a broker. `Process` is the very
`python -m cutbank_scorer`; none outlives the test, nor a killed test. What is waited for happens at the broker or in
another process, so real time passes, up to a deadline that a busy machine keeps too. Event-loop only.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import aiohttp
import orjson
from prometheus_client.parser import text_string_to_metric_families

from brokers.fixtures import Broker
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.scoring import group_name
from cutbank.pipeline.scoring.state import Inventory, StateRoom
from cutbank.pipeline.spec import PipelineSpec, load_spec
from cutbank.records import Message, Partition, Position
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.runtime.service import Runtime
from cutbank.transports import open_transport
from cutbank.transports.base import PartitionInfo, StreamConfig, Transport
from cutbank_scorer.app import SERVICE
from cutbank_scorer.settings import ScorerSettings

WAIT_S_MAX = 120.0
LOOK_S = 0.02
PARTITIONS = 2
SESSION_MS = 6_000
"""A dead owner's partitions pass on after six seconds: the least that a broker allows by default."""
STATIC = "&group_instance_id=scorer-0"
"""An option by which a scorer that is started again gets its partitions at once."""

SPEC = """name = "recovery"
threshold = 0.6
[detector]
name = "rcf"
number_of_trees = 20
sub_sample_size = 64
"""
"""A small forest: it starts quickly, and its score depends on every record before."""

_RUN = (
    "import runpy, sys\n"
    "from chaos.service import die_with\n"
    "die_with(int(sys.argv.pop(1)))\n"
    "runpy.run_module('cutbank_scorer', run_name='__main__')\n"
)


async def until(holds: Callable[[], Awaitable[bool]], *, what: str, within_s: float = WAIT_S_MAX) -> None:
    """Until it holds, asked again and again. Raises TimeoutError."""
    try:
        async with asyncio.timeout(within_s):
            while not await holds():  # noqa: ASYNC110  # what is waited for happens elsewhere
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise TimeoutError(f"waited {within_s:g} s for {what}") from None


Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass
class Process:
    """One life of `python -m cutbank_scorer`."""

    process: asyncio.subprocess.Process
    log: Path

    def logged(self, event: str) -> list[dict[str, Any]]:
        """All that it has said of this event; a line that is being written is left for the next look."""
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
        said = [json.loads(line) for line in lines if line.endswith("\n") and line.startswith("{")]
        return [line for line in said if line["event"] == event]

    async def says(self, event: str, times: int = 1) -> list[dict[str, Any]]:
        """Once it has said so. Raises AssertionError if it ends before."""

        async def said() -> bool:
            found = len(self.logged(event)) >= times
            assert found or self.process.returncode is None, self.log.read_text(encoding="utf-8")
            return found

        await until(said, what=f"{event!r} of the scorer")
        return self.logged(event)

    async def metrics(self) -> Figures:
        """What /metrics says now, by name and labels."""
        (*_, ready) = await self.says("ready")
        async with aiohttp.ClientSession() as session, session.get(f"{ready['http']}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    async def metric(self, name: str, **labels: str) -> float:
        """One figure of /metrics."""
        return (await self.metrics())[name, tuple(sorted(labels.items()))]

    async def kill(self) -> None:
        """SIGKILL, and its end."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ends()

    async def ends(self) -> int:
        """The exit code, once it has ended."""
        async with asyncio.timeout(WAIT_S_MAX):
            return await self.process.wait()


@dataclass
class Site:
    """One pipeline and a handle to look with. Entered with `async with`."""

    broker: Broker
    folder: Path
    partitions: int = PARTITIONS
    session_ms: int = SESSION_MS
    transport: Transport = field(init=False)
    state: StateRoom = field(init=False)
    spec: PipelineSpec = field(init=False)
    _stack: AsyncExitStack = field(init=False, default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        self._prefix = f"t{uuid4().hex[:12]}-"
        self._spec_path = self.folder / "cutbank.toml"
        self._spec_path.write_text(SPEC)
        self.spec = load_spec(self._spec_path)
        clock, metrics = SystemClock(), NoMetrics()
        enter = self._stack.enter_async_context
        self.transport = await enter(open_transport(self.url(), clock=clock, metrics=metrics))
        store = await enter(open_store(self.state_url, clock=clock, metrics=metrics))
        self.state = StateRoom(store, pipeline=self.spec.name, stream=self.spec.source)
        await self.transport.ensure(StreamConfig(self.spec.source, partitions=self.partitions))
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._stack.aclose()

    @property
    def state_folder(self) -> Path:
        return self.folder / "state"

    @property
    def state_url(self) -> str:
        return f"file://{self.state_folder}"

    def url(self, options: str = "") -> str:
        session = f"heartbeat_ms=200&session_timeout_ms={self.session_ms}&request_timeout_ms=60000&stuck_ms=60000"
        return f"{self.broker.url}?prefix={self._prefix}&{session}{options}"

    def environment(self, *, options: str = "", **settings: str) -> dict[str, str]:
        """What a scorer is told; no snapshot but at its end, unless `SNAPSHOT_S` is among the settings."""
        told = {
            "TRANSPORT_URL": self.url(options),
            "STATE_URL": self.state_url,
            "SPEC": str(self._spec_path),
            "SNAPSHOT_S": "3600",
            "EMIT": "all",
            "OUTPUT_PARTITIONS": str(self.partitions),
            "BATCH_RECORDS_MAX": "50",
            **settings,
        }
        return {f"CUTBANK_{name}": text for name, text in told.items()}

    @asynccontextmanager
    async def process(self, *, options: str = "", **settings: str) -> AsyncIterator[Process]:
        """A scorer as a process of its own, killed at the end if it runs still."""
        log = self.folder / f"scorer-{uuid4().hex}.log"
        others = {name: text for name, text in os.environ.items() if not name.startswith("CUTBANK_")}
        path = os.pathsep.join([str(Path(__file__).parent), others.get("PYTHONPATH", "")])
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _RUN, str(os.getpid())),
                env={**others, "PYTHONPATH": path, **self.environment(options=options, LOG_FORMAT="json", **settings)},
                stdout=output,
                stderr=output,
            )
        try:
            yield Process(process, log)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    @asynccontextmanager
    async def service(self, *, options: str = "", **settings: str) -> AsyncIterator[Runtime]:
        """A scorer in the test's own process; stopped at the end as by SIGTERM. Raises what ended it before."""
        runtime = Runtime(clock=SystemClock(), metrics=PrometheusMetrics())
        told = ScorerSettings.load(self.environment(options=options, **settings))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(_run(told, runtime))
            yield runtime
            runtime.stop.set()
            async with asyncio.timeout(WAIT_S_MAX):
                await running

    async def publish(self, values: Sequence[bytes]) -> None:
        """Each to every partition, in one call: so there is one marker after them in each."""
        ids = [str(number) for number in range(self.partitions)]
        await self.transport.publish(
            [Message(self.spec.source, value, partition_id=one) for value in values for one in ids]
        )

    async def ends(self) -> dict[Partition, Position]:
        """Where the source ends now."""
        return {info.partition: info.end for info in await self._infos(self.spec.source)}

    async def committed(self) -> dict[Partition, Position]:
        """Up to where the scorers have come, as far as anything is committed."""
        group = group_name(self.spec)
        found = {
            info.partition: await self.transport.committed(group, info.partition)
            for info in await self._infos(self.spec.source)
        }
        return {partition: position for partition, position in found.items() if position is not None}

    async def all_scored(self) -> None:
        """Until everything that is published now is scored."""
        ends = await self.ends()

        async def done() -> bool:
            committed = await self.committed()
            return all(committed.get(partition, 0) >= end for partition, end in ends.items())

        await until(done, what="all to be scored")

    async def inventory(self) -> dict[Partition, Inventory]:
        """What the state store holds of each partition."""
        return {
            info.partition: await self.state.inventory(info.partition) for info in await self._infos(self.spec.source)
        }

    async def lines(self, stream: str) -> dict[str, list[bytes]]:
        """All records of a stream, by partition."""
        return await everything(self.transport, stream)

    async def _infos(self, stream: str) -> tuple[PartitionInfo, ...]:
        return (await self.transport.describe(stream)).partitions


async def _run(settings: ScorerSettings, runtime: Runtime) -> None:
    await SERVICE.run(settings, runtime)


async def everything(transport: Transport, stream: str) -> dict[str, list[bytes]]:
    """All records of a stream that were committed, by partition."""
    found: dict[str, list[bytes]] = {}
    for info in (await transport.describe(stream)).partitions:
        values, position = found.setdefault(info.partition.id, []), info.oldest
        while position < info.end:
            batch = await transport.read(info.partition, position, records_max=1000, bytes_max=1 << 24)
            if batch.end <= position:
                break
            values += batch.values
            position = batch.end
    return found


def scores(lines: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Of each line the record's id and its score, as it is written."""
    return [(orjson.loads(line)["id"], line.partition(b'"ANOMALY_SCORE":')[2].partition(b",")[0]) for line in lines]


async def scored_locally(
    folder: Path, spec: PipelineSpec, values: dict[str, list[bytes]]
) -> dict[str, list[tuple[int, bytes]]]:
    """The scores that an undisturbed scorer gives on the embedded log, for the same records in the same partitions."""
    url = f"local://{folder}/log.db"
    metrics = PrometheusMetrics()
    runtime = Runtime(clock=SystemClock(), metrics=metrics)
    path = folder / "local.toml"
    path.write_text(SPEC)
    async with open_transport(url, clock=SystemClock(), metrics=metrics) as transport:
        await transport.ensure(StreamConfig(spec.source, partitions=len(values)))
        for one, part in values.items():
            await transport.publish([Message(spec.source, value, partition_id=one) for value in part])
        told = {
            "CUTBANK_TRANSPORT_URL": url,
            "CUTBANK_STATE_URL": f"file://{folder}/local-state",
            "CUTBANK_SPEC": str(path),
            "CUTBANK_EMIT": "all",
            "CUTBANK_OUTPUT_PARTITIONS": str(len(values)),
        }
        running = asyncio.create_task(_run(ScorerSettings.load(told), runtime))

        async def done() -> bool:
            assert not running.done(), "the scorer has ended"
            return metrics.value("cutbank_records_scored_total") == sum(map(len, values.values()))

        await until(done, what="all to be scored on the embedded log")
        runtime.stop.set()
        await running
        return {one: scores(lines) for one, lines in (await everything(transport, spec.scores)).items()}
