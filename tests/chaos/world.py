"""Where a chaos run happens: its folders, its spec, what each service is told, and a handle of its own to look with.

Owns the folder's layout. The handle only reads, but for `lock_is_free`. Event-loop only.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cutbank.clock import SystemClock
from cutbank.errors import StreamMissing, StreamUnavailable
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.spec import PipelineSpec, load_spec
from cutbank.records import Partition
from cutbank.transports import open_transport
from cutbank.transports.base import PartitionInfo, StreamConfig, Transport

TESTS = Path(__file__).resolve().parents[1]

SPEC = """name = "chaos"

[detector]
name = "rcf"
number_of_trees = 20
sub_sample_size = 64
"""
"""A small forest: it starts quickly and keeps up, and its score depends on every record before."""

PARTITIONS = 2

SESSION = "heartbeat_ms=100&session_timeout_ms=1000&hand_over_ms=5000"
"""Of the log: a dead owner's partitions pass on after a second."""

GRACE_S = 25.0
"""What a service has after SIGTERM, seconds."""

LOCK_BUSY_MS = 300
"""How long the look for a held lock waits, ms."""


@dataclass(kw_only=True)
class World:
    """One pipeline on one log. Entered with `async with`, which opens the handles."""

    folder: Path
    """For rings and logs; no limit on it."""
    log_folder: Path
    objects_folder: Path
    """Holds the sink's objects and the scorer's state."""
    records_per_second: float
    seed: int
    width: int = PARTITIONS
    """Partitions of each stream."""
    transport: Transport = field(init=False)
    store: ObjectStore = field(init=False)
    state: StateRoom = field(init=False)
    spec: PipelineSpec = field(init=False)
    _stack: AsyncExitStack = field(init=False, default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        for folder in (self.folder, self.log_folder, self.objects_folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.spec_path.write_text(SPEC)
        self.spec = load_spec(self.spec_path)
        clock, metrics = SystemClock(), NoMetrics()
        self.transport = await self._stack.enter_async_context(
            open_transport(self.own_url, clock=clock, metrics=metrics)
        )
        self.store = await self._stack.enter_async_context(open_store(self.own_store_url, clock=clock, metrics=metrics))
        kept = await self._stack.enter_async_context(open_store(self.own_state_url, clock=clock, metrics=metrics))
        self.state = StateRoom(kept, pipeline=self.spec.name, stream=self.spec.source)
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._stack.aclose()

    @property
    def spec_path(self) -> Path:
        """What is written to the services' spec."""
        return self.folder / "cutbank.toml"

    @property
    def store_url(self) -> str:
        """Of the sink's objects."""
        return f"file://{self.objects_folder}/anomalies"

    @property
    def state_url(self) -> str:
        """Of the scorer's state."""
        return f"file://{self.objects_folder}/state"

    @property
    def own_store_url(self) -> str:
        """What the handle opens."""
        return self.store_url

    @property
    def own_state_url(self) -> str:
        """What the handle opens."""
        return self.state_url

    @property
    def sunk(self) -> tuple[str, ...]:
        """The streams that the sink sinks."""
        return (self.spec.destination, self.spec.errors)

    @property
    def transport_url(self) -> str:
        """What every service opens."""
        return self._log_url(SESSION)

    @property
    def own_url(self) -> str:
        """What the handle opens."""
        return self.transport_url

    def _log_url(self, query: str) -> str:
        return f"local://{self.log_folder}/log.db?{query}"

    def environment(self, *, client: str, flush_on_stop: bool) -> Mapping[str, str]:
        """What every service is told; each takes what is its own. `client`: the process's own name."""
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": os.environ.get("HOME", ""),
            "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONUNBUFFERED": "1",
            "AWS_SDK_UA_APP_ID": client,
            "CUTBANK_TRANSPORT_URL": self.transport_url,
            "CUTBANK_SPEC": str(self.spec_path),
            "CUTBANK_LOG_FORMAT": "console",
            "CUTBANK_HTTP_PORT": "off",
            "CUTBANK_GRACE_S": str(GRACE_S),
            "CUTBANK_STATE_URL": self.state_url,
            "CUTBANK_SNAPSHOT_S": "0.4",
            "CUTBANK_BATCH_RECORDS_MAX": "500",
            "CUTBANK_OUTPUT_PARTITIONS": str(self.width),
            "CUTBANK_STORE_URL": self.store_url,
            "CUTBANK_STRETCH_RECORDS_MAX": "40",
            "CUTBANK_GRACE_MS": "200",
            "CUTBANK_FLUSH_ON_STOP": str(flush_on_stop).lower(),
            "RECORDS_PER_SECOND": str(self.records_per_second),
            "RECORDS_PER_BATCH": "100",
            "STREAM_PARTITIONS": str(self.width),
            "DURATION_SECONDS": "0",
            "SEED": str(self.seed),
        }

    def command(self, role: str, ring: Path, plants: tuple[str, ...]) -> list[str]:
        """What starts a service of that role."""
        return [sys.executable, "-m", "chaos.service", role, str(ring), str(os.getpid()), *plants]

    async def partitions(self, stream: str) -> tuple[PartitionInfo, ...]:
        """A stream's partitions; none before it is made."""
        try:
            return (await self.transport.describe(stream)).partitions
        except StreamMissing:
            return ()

    async def committed(self, role: str, partition: Partition) -> int | None:
        """Up to where the pipeline's scorer or sink has come."""
        return await self.transport.committed(f"{self.spec.name}.{role}", partition)

    async def lag(self, role: str, stream: str) -> int:
        """Records of the stream before whose end the role's committed positions are."""
        lag = 0
        for info in await self.partitions(stream):
            committed = await self.committed(role, info.partition)
            lag += info.end - (info.oldest if committed is None else committed)
        return lag

    async def lock_is_free(self) -> bool:
        """Whether the log can be written to: a process stopped inside a transaction holds it."""
        url = self._log_url(f"busy_ms={LOCK_BUSY_MS}")
        try:
            async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as probe:
                await probe.ensure(StreamConfig(self.spec.source, partitions=self.width))
        except StreamUnavailable:
            return False
        return True
