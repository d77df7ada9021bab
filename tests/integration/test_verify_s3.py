"""`cutbank verify s3://…` on a real server: what is said of a bucket is what is said of the same files."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from claimed_root import chain_of, copied, on_disk
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectStore, open_store
from cutbank.pipeline.sinking.claims import Claim, Layout
from cutbank.pipeline.verifying import Scope, Verdict, verify
from cutbank.records import Message
from cutbank.testing.memory_store import MemoryStore
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig
from object_servers.fixtures import S3Server
from sunk_root import at_ms, audited, names

T = TypeVar("T")

CLAIMS = 40
LAYOUTS = {
    "none": Layout(),
    "gzip": Layout(compression="gzip"),
    "partitioned": Layout(
        prefix="id=!{partitionKeyFromQuery:id}/!{timestamp:yyyy/MM/dd}/", partition_keys=("id",), partition_values_max=3
    ),
}


class Twins(NamedTuple):
    """One root twice: in a bucket, and as files."""

    url: str
    folder: Path
    claims: list[Claim]

    def audited(self, scope: Scope | None = None) -> Verdict:
        """What is said of the bucket."""
        return asyncio.run(self.do(lambda store: verify(store, scope=scope)))

    async def do(self, work: Callable[[ObjectStore], Awaitable[T]]) -> T:
        """Something with the bucket."""
        async with open_store(self.url, clock=SystemClock(), metrics=NoMetrics()) as store:
            return await work(store)

    def put(self, key: str, body: bytes | None) -> None:
        """Put, change or remove an object of both."""

        async def change(store: ObjectStore) -> None:
            await store.delete(key)
            if body is not None:
                await store.create(key, body)

        asyncio.run(self.do(change))
        path = self.folder / key
        path.unlink(missing_ok=True)
        if body is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)


def made(server: S3Server, folder: Path, layout: Layout) -> Twins:
    memory = MemoryStore()
    claims = chain_of(memory, CLAIMS, a_claim=8, layout=layout)
    twins = Twins(server.store_url(), folder / "objects", claims)
    on_disk(memory, twins.folder)
    asyncio.run(twins.do(lambda store: copied(memory, store)))
    return twins


@pytest.fixture
def twins(s3_server: S3Server, tmp_path: Path) -> Twins:
    return made(s3_server, tmp_path, LAYOUTS["gzip"])


def command(server: S3Server, *words: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cutbank.cli", "verify", *words],
        env={**os.environ, **server.environ, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_clean_bucket_is_clean_as_its_files_are(s3_server: S3Server, tmp_path: Path, name: str) -> None:
    twins = made(s3_server, tmp_path, LAYOUTS[name])
    verdict = twins.audited()
    assert verdict.findings == ()
    assert verdict == audited(twins.folder)
    (account,) = verdict.chains
    assert (account.claims, account.lines) == (CLAIMS, CLAIMS * 8)


def test_every_fault_has_the_name_that_it_has_in_files(twins: Twins) -> None:
    spoilt = twins.claims
    body = (twins.folder / spoilt[3].objects[0].key).read_bytes()
    plants: Sequence[tuple[str, bytes | None, str]] = [
        (spoilt[3].objects[0].key, None, "missing object"),
        (spoilt[5].objects[0].key, body[: len(body) // 2], "cut object"),
        (spoilt[7].objects[0].key, body[:-6] + b"abcdef", "changed byte"),
        (spoilt[9].key, b"{}", "unreadable claim"),
        ("2026/notes.txt", b"mine", "foreign file"),
        ("_cutbank/p/notes.txt", b"mine", "foreign file"),
        (spoilt[20].key, None, "missing claim"),
    ]
    for key, changed, name in plants:
        twins.put(key, changed)
        assert name in names(twins.audited()), key
    verdict = twins.audited()
    assert names(verdict) == {name for _, _, name in plants}
    assert verdict == audited(twins.folder)


@pytest.mark.parametrize("scope", [Scope(at_ms(10, 0), at_ms(20, 0)), Scope(at_ms(35, 0)), Scope(None, at_ms(3, 0))])
def test_a_span_of_time(twins: Twins, scope: Scope) -> None:
    verdict = twins.audited(scope)
    assert verdict.findings == ()
    assert verdict == audited(twins.folder, scope=scope)
    assert 0 < verdict.chains[0].claims < CLAIMS


class TestCommand:
    def test_says_what_it_looked_at_with_the_right_to_read_and_list_alone(
        self, twins: Twins, s3_server: S3Server
    ) -> None:
        for user in ("without-PutObject", "without-DeleteObject"):
            done = command(s3_server, twins.url, environ=s3_server.environ_of(user))
            assert (done.returncode, done.stderr) == (0, "")
            assert f" {CLAIMS * 8} " in done.stdout
            assert "\nclean: every object is as its claim says" in done.stdout

    def test_a_fault_is_exit_code_1(self, twins: Twins, s3_server: S3Server) -> None:
        twins.put("2026/notes.txt", b"mine")
        done = command(s3_server, twins.url)
        assert (done.returncode, done.stderr) == (1, "1 fault(s) found\n")
        assert "2026/notes.txt" in done.stdout

    @pytest.mark.parametrize("action", ["GetObject", "ListBucket"])
    def test_a_missing_permission_is_one_line(self, twins: Twins, s3_server: S3Server, action: str) -> None:
        done = command(s3_server, twins.url, environ=s3_server.environ_of(f"without-{action}"))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"s3:{action}" in done.stderr
        assert s3_server.bucket in done.stderr
        assert done.stderr.count("\n") == 1

    def test_no_such_bucket_and_nothing_of_ours(self, s3_server: S3Server) -> None:
        url = s3_server.store_url()
        done = command(s3_server, url)
        assert (done.returncode, done.stdout) == (2, "")
        assert "no _cutbank/ in it: give the root that a sink writes to" in done.stderr
        done = command(s3_server, url.replace(f"s3://{s3_server.bucket}/", "s3://no-such-bucket-here/", 1))
        assert (done.returncode, done.stdout) == (2, "")
        assert "no-such-bucket-here" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_an_unknown_parameter_is_named(self, s3_server: S3Server) -> None:
        done = command(s3_server, f"{s3_server.store_url()}&flavour=blue")
        assert (done.returncode, done.stdout) == (2, "")
        assert "flavour" in done.stderr

    def test_a_state_store_in_a_bucket_that_does_not_know_the_pipeline(
        self, twins: Twins, s3_server: S3Server, tmp_path: Path
    ) -> None:
        log = f"local://{tmp_path}/log.db"

        async def logged() -> None:
            async with open_transport(log, clock=SystemClock(), metrics=NoMetrics()) as transport:
                await transport.ensure(StreamConfig("trades"))
                await transport.publish([Message("trades", b'{"price": 1, "quantity": 2}')])

        asyncio.run(logged())
        done = command(s3_server, twins.url, "--stream", log, "--state", s3_server.store_url("state"))
        assert done.returncode == 2
        assert "no births of pipeline 'anomaly-extractor' on stream 'trades'" in done.stderr
        assert done.stderr.count("\n") == 1
        shutil.rmtree(twins.folder)
