"""The whole embedded pipeline: producer, scorer and sink as three processes, as fast as they go.

`records_per_s` counts from the first record's arrival in the log to the moment when the last object is there; starting
the processes is left out, since a stream runs for months. The scorer publishes anomalies only, as in production. Peak
memory is what the kernel says of each process when it has ended. The machine does all of it at once: three processes
and the log share its cores.

Run it: `python benchmarks/pipeline.py [RECORDS]`; its last line is JSON.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.inspect import data_objects
from cutbank.pipeline.spec import PipelineSpec
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig, Transport

RECORDS = 20_000
READY_S_MAX = 120.0
"""Until scorer and sink have taken up their partitions; kernels may have to be compiled."""
DONE_S_MAX = 600.0
"""Until everything is scored."""
POLL_S = 0.02

SPEC = PipelineSpec()


class Process:
    """One service; killed when the stack closes, if it still runs."""

    def __init__(
        self, name: str, environ: Mapping[str, str], folder: Path, stack: ExitStack, *, command: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        service = command or (sys.executable, "-m", f"cutbank_{name}")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(service, env={**os.environ, **environ}, stdout=log, stderr=log)
        self.rss_bytes_max = 0
        stack.callback(self.kill)

    @property
    def process_id(self) -> int:
        """Of the operating system."""
        return self._process.pid

    def check(self) -> None:
        """Raise if it has failed already."""
        self._reap(os.WNOHANG)
        if self._process.returncode not in (None, 0):
            raise SystemExit(f"{self.name} ended with {self._process.returncode}:\n{self.log.read_text()[-2000:]}")

    def finish(self, *, stop: bool) -> None:
        """Wait for its end, after SIGTERM where asked for, and learn its peak memory; raise if it has failed."""
        if stop and self._process.returncode is None:
            self._process.terminate()
        self._reap(0)
        self.check()

    def _reap(self, options: int) -> None:
        """As `Popen.wait`, noting the memory before the end."""
        if self._process.returncode is None:
            self.note_memory()
            pid, status = os.waitpid(self._process.pid, options)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)

    def note_memory(self) -> None:
        """Its peak so far. Not getrusage, whose figure holds what the parent had when it forked."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return  # not on Linux, or just ended: the last look counts
        if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            self.rss_bytes_max = max(self.rss_bytes_max, int(found[1]) * 1024)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. No effect once it has ended."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()


def measure(records: int = RECORDS) -> dict[str, Any]:
    """Run it once in a folder of its own, which is removed."""
    with tempfile.TemporaryDirectory(prefix="cutbank-bench-") as name, ExitStack() as stack:
        return asyncio.run(_measure(Path(name), records, stack))


async def _measure(folder: Path, records: int, stack: ExitStack) -> dict[str, Any]:
    shared = {
        "CUTBANK_TRANSPORT_URL": f"local://{folder}/log.db",
        "CUTBANK_STATE_URL": f"file://{folder}/state",
        "CUTBANK_STORE_URL": f"file://{folder}/anomalies",
        "CUTBANK_FLUSH_ON_STOP": "true",
        "CUTBANK_HTTP_PORT": "off",
        "CUTBANK_LOG_FORMAT": "console",
    }
    production = {"RECORDS_PER_SECOND": "0", "RECORDS_MAX": str(records), "DURATION_SECONDS": "0"}
    clock, metrics = SystemClock(), NoMetrics()
    async with (
        open_transport(shared["CUTBANK_TRANSPORT_URL"], clock=clock, metrics=metrics) as log,
        open_store(shared["CUTBANK_STORE_URL"], clock=clock, metrics=metrics) as store,
    ):
        for stream in (SPEC.source, SPEC.destination, SPEC.errors, SPEC.scores):
            await log.ensure(StreamConfig(stream))
        scorer, sink = Process("scorer", shared, folder, stack), Process("sink", shared, folder, stack)
        await _ready(log, store, scorer, sink)
        producer = Process("producer", {**shared, **production}, folder, stack)
        await _scored(log, records, producer, scorer, sink)
        scored_ms = clock.now_ms()
        await asyncio.to_thread(producer.finish, stop=False)
        await asyncio.to_thread(scorer.finish, stop=True)
        await asyncio.to_thread(sink.finish, stop=True)
        done_ms = clock.now_ms()
        return await _figures(log, store, records, (producer, scorer, sink), scored_ms=scored_ms, done_ms=done_ms)


async def _ready(log: Transport, store: ObjectStore, scorer: Process, sink: Process) -> None:
    """Until the scorer has committed its run's start and the sink has written its chain's birth."""
    deadline_s = time.monotonic() + READY_S_MAX
    (source,) = (await log.describe(SPEC.source)).partitions
    born = False
    while not born:
        scorer.check()
        sink.check()
        if time.monotonic() > deadline_s:
            raise SystemExit(f"not ready after {READY_S_MAX:.0f} s")
        await asyncio.sleep(POLL_S)
        if await log.committed(f"{SPEC.name}.scorer", source.partition) is not None:
            async for entry in store.list("_cutbank/"):
                born = born or entry.key.endswith("/birth")


async def _scored(log: Transport, records: int, *processes: Process) -> None:
    deadline_s = time.monotonic() + DONE_S_MAX
    (source,) = (await log.describe(SPEC.source)).partitions
    start = source.end
    while (await log.committed(f"{SPEC.name}.scorer", source.partition) or start) - start < records:
        for process in processes:
            process.check()
        if time.monotonic() > deadline_s:
            raise SystemExit(f"not scored after {DONE_S_MAX:.0f} s")
        await asyncio.sleep(POLL_S)


async def _figures(
    log: Transport, store: ObjectStore, records: int, processes: tuple[Process, ...], *, scored_ms: int, done_ms: int
) -> dict[str, Any]:
    (source,) = (await log.describe(SPEC.source)).partitions
    first = await log.read(source.partition, source.oldest, records_max=1, bytes_max=1)
    (destination,) = (await log.describe(SPEC.destination)).partitions
    lines = 0
    async for entry in data_objects(store):
        lines += (await store.read(entry.key)).count(b"\n")
    anomalies = destination.end - destination.oldest
    assert lines == anomalies, f"{lines} lines in objects, {anomalies} anomalies in the log"
    began_ms = first.arrivals_ms[0]
    return {
        "records": records,
        "anomalies": anomalies,
        "detector": SPEC.detector.name,
        "records_per_s": round(records / (done_ms - began_ms) * 1000.0),
        "records_per_s_scored": round(records / (scored_ms - began_ms) * 1000.0),
        "rss_mib_max": {process.name: round(process.rss_bytes_max / 2**20, 1) for process in processes},
    }


if __name__ == "__main__":
    print(json.dumps({"pipeline": measure(int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)}))
