"""Scorer and sink as processes with their state and objects in S3: killed, started again, and proved by `verify`."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectStore, open_store
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig, Transport
from object_servers.fixtures import S3Server

WAIT_S_MAX = 300.0
LOOK_S = 0.05
SPEC = """
name = "s3-pipeline"
threshold = 0.0

[detector]
number_of_trees = 20
"""


class Site:
    """A log on this machine, objects and state in a bucket."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        (folder / "spec.toml").write_text(SPEC, encoding="utf-8")
        self.folder = folder
        self.store_url, self.state_url = server.store_url("anomalies"), server.store_url("state")
        self.environ = {
            **os.environ,
            **server.environ,
            "CUTBANK_TRANSPORT_URL": f"local://{folder}/log.db",
            "CUTBANK_SPEC": str(folder / "spec.toml"),
            "CUTBANK_STORE_URL": self.store_url,
            "CUTBANK_STATE_URL": self.state_url,
            "CUTBANK_SNAPSHOT_S": "0.5",
            "CUTBANK_FLUSH_ON_STOP": "true",
            "CUTBANK_HTTP_PORT": "0",
        }

    @contextmanager
    def service(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Running; killed at the end unless it has ended."""
        with (
            (self.folder / f"{name}.txt").open("ab") as output,
            subprocess.Popen(
                [sys.executable, "-m", f"cutbank_{name}"], env=self.environ, stdout=output, stderr=output
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text(encoding="utf-8")

    async def until(self, condition: object, running: "subprocess.Popen[bytes]", name: str) -> None:
        assert callable(condition)
        async with asyncio.timeout(WAIT_S_MAX):
            while not await condition():
                assert running.poll() is None, self.said(name)
                await asyncio.sleep(LOOK_S)


@pytest.fixture
def site(s3_server: S3Server, tmp_path: Path) -> Site:
    return Site(s3_server, tmp_path)


def trade(number: int) -> Message:
    return Message("trades", b'{"price": %d, "quantity": %d, "id": %d}' % (100 + number % 7, 1 + number % 5, number))


async def snapshots(store: ObjectStore) -> set[str]:
    return {info.key async for info in store.list("") if "birth" not in info.key and "_probe" not in info.key}


async def committed(transport: Transport, group: str, stream: str) -> bool:
    (part,) = (await transport.describe(stream)).partitions
    return await transport.committed(group, part.partition) == part.end


async def test_a_killed_scorer_finds_its_model_in_s3_and_nothing_is_lost_or_there_twice(site: Site) -> None:
    spec = PipelineSpec()
    clock, metrics = SystemClock(), NoMetrics()
    async with (
        open_transport(site.environ["CUTBANK_TRANSPORT_URL"], clock=clock, metrics=metrics) as transport,
        open_store(site.state_url, clock=clock, metrics=metrics) as state,
    ):
        await transport.ensure(StreamConfig(spec.source))
        await transport.publish([trade(number) for number in range(500)])
        with site.service("sink") as sink:
            with site.service("scorer") as scorer:
                await site.until(lambda: _has(state), scorer, "scorer")
                await site.until(lambda: committed(transport, "s3-pipeline.scorer", spec.source), scorer, "scorer")
            before = await snapshots(state)
            assert before
            await transport.publish([trade(number) for number in range(500, 1000)])
            with site.service("scorer") as scorer:
                await site.until(lambda: committed(transport, "s3-pipeline.scorer", spec.source), scorer, "scorer")
                assert "run born" not in site.said("scorer").rpartition("ready")[2], "it went on with the model"
                scorer.terminate()
                assert await asyncio.to_thread(scorer.wait, WAIT_S_MAX) == 0, site.said("scorer")
            sink.terminate()
            assert await asyncio.to_thread(sink.wait, WAIT_S_MAX) == 0, site.said("sink")
    done = await asyncio.to_thread(
        subprocess.run,
        [
            *(sys.executable, "-m", "cutbank.cli", "verify", site.store_url),
            *("--stream", site.environ["CUTBANK_TRANSPORT_URL"], "--state", site.state_url),
        ],
        env=site.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clean: every object is as its claim says" in done.stdout
    assert "byte for byte" in done.stdout


async def _has(state: ObjectStore) -> bool:
    return bool(await snapshots(state))


@pytest.mark.parametrize("name", ["scorer", "sink"])
def test_a_service_that_lacks_a_permission_ends_with_one_clear_line(site: Site, s3_server: S3Server, name: str) -> None:
    lacks = "DeleteObject" if name == "scorer" else "ListBucket"
    site.environ.update(s3_server.environ_of(f"without-{lacks}"))
    with site.service(name) as process:
        assert process.wait(WAIT_S_MAX) == 2
    said = site.said(name)
    assert f"grant s3:{lacks} on arn:aws:s3:::{s3_server.bucket}" in said
    assert "Traceback" not in said
    assert s3_server.environ["AWS_SECRET_ACCESS_KEY"] not in said
