"""How many records a second the embedded log takes and gives, in two processes at once and in each alone.

Records of 110 bytes, publish calls of 1,000, one partition; once with commits that survive a power loss, once with
commits that survive a crash of the process. `measure()` returns the figures; run directly, JSON is on the last line.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.records import Message, Position
from cutbank.transports import open_transport
from cutbank.transports.base import Assigned, StreamConfig

RECORDS = 300_000
PER_CALL = 1_000
RECORD_BYTES = 110
STREAM = "trades"


async def _publish(url: str, records: int) -> None:
    async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        values = [(b"%09d" % number).ljust(RECORD_BYTES, b"x") for number in range(PER_CALL)]
        _wait_for_go()
        for _ in range(0, records, PER_CALL):
            await transport.publish([Message(STREAM, value) for value in values])


async def _read(url: str, records: int) -> None:
    """As a member of a group, committing each batch."""
    async with (
        open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport,
        transport.consumer("bench", [STREAM]) as consumer,
    ):
        event = await anext(consumer.events())
        assert isinstance(event, Assigned)
        lease = event.lease
        lease.seek(await lease.fence() or Position(0))
        _wait_for_go()
        count, committed_s = 0, time.monotonic()
        while count < records:
            batch = await lease.receive(records_max=4096, bytes_max=1 << 20, wait_s=10.0)
            assert len(batch), "the publisher has stopped"
            count += len(batch)
            if time.monotonic() - committed_s > 0.1 or count >= records:
                await lease.commit(batch.end)
                committed_s = time.monotonic()


def _wait_for_go() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _run(url: str, *roles: str) -> float:
    """Records/s of the roles at once, each in a process of its own."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, role, url, str(RECORDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for role in roles
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "a process failed to start"
    began_s = time.monotonic()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        # Read to the end, so that the figure has no part of the process's own exit in it but its last commit.
        assert process.wait(timeout=600) == 0, "a process failed"
    taken_s = time.monotonic() - began_s
    for process in processes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
    return RECORDS / taken_s


async def _prepare(url: str) -> None:
    async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig(STREAM))


def measure() -> dict[str, Any]:
    """Records/s by durability: published alone, read alone, published and read at once by two processes."""
    figures: dict[str, Any] = {}
    for durability in ("power-loss", "process-crash"):
        with tempfile.TemporaryDirectory(prefix="cutbank-bench-", dir=Path.cwd()) as folder:
            alone = f"local://{folder}/alone.db?durability={durability}"
            both = f"local://{folder}/both.db?durability={durability}"
            asyncio.run(_prepare(alone))
            asyncio.run(_prepare(both))
            for name, url, roles in (
                ("published", alone, ("publish",)),
                ("read", alone, ("read",)),
                ("published_and_read_at_once", both, ("publish", "read")),
            ):
                figures[f"{durability}_{name}_records_per_s".replace("-", "_")] = round(_run(url, *roles))
    return figures


def main(arguments: list[str]) -> None:
    """A role with its arguments, or the whole measurement."""
    if arguments:
        role, url, records = arguments
        asyncio.run({"publish": _publish, "read": _read}[role](url, int(records)))
    else:
        print(json.dumps(measure()))


if __name__ == "__main__":
    main(sys.argv[1:])
