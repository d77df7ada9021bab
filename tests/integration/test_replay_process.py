"""`cutbank replay` as a process of its own: killed with lines out, interrupted, and run again beside a live scorer."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import StreamMissing
from cutbank.metrics import NoMetrics
from cutbank.records import Message
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig, Transport
from scoring_stage import trades

RECORDS = 30_000
DEADLINE_S = 120.0
LOOK_S = 0.005
SPEC = 'name = "p"\nthreshold = 0.0\n[detector]\nname = "rcf"\n'
URL = "local://{}/log.db?session_timeout_ms=1000&heartbeat_ms=100"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.toml").write_text(SPEC, encoding="utf-8")

    async def fill() -> None:
        async with opened(tmp_path) as transport:
            await transport.ensure(StreamConfig("trades"))
            await transport.publish([Message("trades", value) for value in trades(RECORDS)])

    asyncio.run(fill())
    return tmp_path


def opened(folder: Path) -> Transport:
    return open_transport(URL.format(folder), clock=SystemClock(), metrics=NoMetrics())


def command(folder: Path, output: str) -> Sequence[str]:
    argv = ["replay", "--from", "earliest", "--output", output, "--spec", str(folder / "p.toml")]
    return [sys.executable, "-m", "cutbank.cli", *argv, "--emit", "all", "--transport-url", URL.format(folder)]


@contextmanager
def replaying(folder: Path, output: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command(folder, output), cwd=folder, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            yield child
        finally:
            child.kill()


async def count(transport: Transport, stream: str) -> int:
    try:
        (info,) = (await transport.describe(stream)).partitions
    except StreamMissing:
        return 0
    return info.end - info.oldest


async def lines(transport: Transport, stream: str) -> list[bytes]:
    found: list[bytes] = []
    try:
        (info,) = (await transport.describe(stream)).partitions
    except StreamMissing:
        return found
    position = info.oldest
    while position < info.end:
        batch = await transport.read(info.partition, position, records_max=10_000, bytes_max=1 << 26)
        found += batch.values
        position = batch.end
    return found


async def held_at_more(folder: Path, stream: str, than: int, child: subprocess.Popen[bytes]) -> None:
    """Stop the child as soon as the stream has more lines, so that it has not ended when its fate comes."""
    async with asyncio.timeout(DEADLINE_S), opened(folder) as transport:
        while await count(transport, stream) <= than:
            assert child.poll() is None
            await asyncio.sleep(LOOK_S)
        child.send_signal(signal.SIGSTOP)


def all_lines(folder: Path, stream: str) -> list[bytes]:
    async def read() -> list[bytes]:
        async with opened(folder) as transport:
            return await lines(transport, stream)

    return asyncio.run(read())


def test_killed_or_interrupted_in_the_middle_and_run_again(folder: Path) -> None:
    some = 0
    for fate, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        with replaying(folder, "again") as child:
            asyncio.run(held_at_more(folder, "again", some, child))
            child.send_signal(fate)
            child.send_signal(signal.SIGCONT)
            _, err = child.communicate(timeout=DEADLINE_S)
        assert (child.returncode, err) == (code, b"")
        some = len(all_lines(folder, "again"))
        assert some < RECORDS
    for output, there in (("again", f", {some:,} were there already"), ("undisturbed", "")):
        done = subprocess.run(
            command(folder, output), cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert f"score(s) published to {output}{there}\n" in done.stdout
    assert all_lines(folder, "again") == all_lines(folder, "undisturbed")
    assert len(all_lines(folder, "again")) == RECORDS
