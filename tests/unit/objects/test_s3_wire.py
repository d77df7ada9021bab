"""What the settings of an S3 store put on the wire, as a server gets it."""

import asyncio
import base64
import hashlib
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import StoreUnavailable
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from object_servers.scripted import Asked, Reply, ScriptedS3
from object_servers.seaweed import environ_of


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ_of().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def s3() -> AsyncIterator[ScriptedS3]:
    async with ScriptedS3() as server:
        yield server


async def put(s3: ScriptedS3, body: bytes = b"body", **parameters: object) -> Asked:
    """The request that a put makes."""
    async with open_store(s3.url(**parameters), clock=SystemClock(), metrics=NoMetrics()) as store:
        await store.create("a/b c", body)
    (asked,) = s3.asked
    return asked


async def test_every_put_is_create_only_and_is_sent_at_once(s3: ScriptedS3) -> None:
    asked = await put(s3)
    assert (asked.method, asked.key, asked.body) == ("PUT", "root/a/b c", b"body")
    assert asked.headers["if-none-match"] == "*"
    assert "expect" not in asked.headers
    for name in ("x-amz-server-side-encryption", "x-amz-storage-class", "x-amz-tagging", "x-amz-expected-bucket-owner"):
        assert name not in asked.headers, "the bucket's own setting holds"


@pytest.mark.parametrize(
    ("parameters", "headers"),
    [
        ({"sse": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        (
            {"sse": "aws:kms", "kms_key": "arn:aws:kms:eu-west-1:1:key/k", "bucket_key": "true"},
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu-west-1:1:key/k",
                "x-amz-server-side-encryption-bucket-key-enabled": "true",
            },
        ),
        ({"storage_class": "STANDARD_IA"}, {"x-amz-storage-class": "STANDARD_IA"}),
        ({"tags": "team=a b,env=prod"}, {"x-amz-tagging": "team=a+b&env=prod"}),
        ({"expected_owner": "123456789012"}, {"x-amz-expected-bucket-owner": "123456789012"}),
    ],
)
async def test_settings_reach_the_wire(s3: ScriptedS3, parameters: dict[str, Any], headers: dict[str, str]) -> None:
    asked = await put(s3, **parameters)
    assert {name: asked.headers.get(name) for name in headers} == headers


async def test_the_owner_is_expected_by_every_call(s3: ScriptedS3) -> None:
    url = s3.url(expected_owner="123456789012")
    async with open_store(url, clock=SystemClock(), metrics=NoMetrics()) as store:
        await store.probe()
    assert {asked.headers.get("x-amz-expected-bucket-owner") for asked in s3.asked} == {"123456789012"}
    assert {asked.method for asked in s3.asked} == {"PUT", "GET", "DELETE"}


@pytest.mark.parametrize("size", [0, 5, 100_000])
async def test_a_body_is_checked_on_its_way_by_a_signed_header(s3: ScriptedS3, size: int) -> None:
    body = bytes(range(5)) * (size // 5)
    wanted = {
        "sha256": ("x-amz-checksum-sha256", hashlib.sha256(body).digest()),
        "md5": ("content-md5", hashlib.md5(body, usedforsecurity=False).digest()),
        "crc32": ("x-amz-checksum-crc32", zlib.crc32(body).to_bytes(4, "big")),
    }
    for kind, (header, digest) in wanted.items():
        s3.asked.clear()
        s3.objects.clear()
        asked = await put(s3, body, checksum=kind)
        assert asked.body == body
        assert asked.headers[header] == base64.b64encode(digest).decode()
        assert header in asked.headers["authorization"]
        assert {name for name, _ in wanted.values()} & set(asked.headers) == {header}


async def test_the_bucket_stands_in_the_host_or_in_the_path(s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = await put(s3)
    assert asked.key == "root/a/b c", "in the path where an endpoint is given"
    port = s3.endpoint.rpartition(":")[2]
    s3.asked.clear()
    url = f"s3://bucket/root?endpoint=http://localhost:{port}&region=us-east-1&path_style=false&call_timeout_ms=5000"
    by_name = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **named: Any) -> Any:
        """As the machines do whose resolver follows RFC 6761: `.localhost` names are the loopback. Not all do."""
        return by_name("127.0.0.1" if host == "bucket.localhost" else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with open_store(url, clock=SystemClock(), metrics=NoMetrics()) as store:
        await store.create("a", b"")
    assert s3.asked[0].headers["host"] == f"bucket.localhost:{port}"
    assert s3.asked[0].key == "a", "what stands where a bucket would is the root: no bucket is in the path"


async def test_the_endpoint_is_found_the_sdk_s_own_way(s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    async with open_store("s3://bucket/root", clock=SystemClock(), metrics=NoMetrics()) as store:
        await store.create("a", b"body")
    assert s3.objects == {"root/a": b"body"}


async def test_a_large_body_is_sent_without_a_copy_and_read_into_one(s3: ScriptedS3) -> None:
    """What Python allocates meanwhile; the server's own bytes are counted too, and so are taken in slices."""
    size = 64 << 20
    body = bytes(size)
    seen = 0

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        await reader.readuntil(b"\r\n\r\n")
        while seen < size:
            seen += len(await reader.read(1 << 16))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    url = f"s3://bucket/root?endpoint=http://127.0.0.1:{server.sockets[0].getsockname()[1]}&region=us-east-1"
    async with server, open_store(url, clock=SystemClock(), metrics=NoMetrics()) as store:
        tracemalloc.start()
        try:
            await store.create("a", body)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert seen == size
    assert most < size / 8


async def test_connections_are_bounded(s3: ScriptedS3) -> None:
    held = asyncio.Event()
    at_once = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await reader.readuntil(b"\r\n\r\n")
        if at_once == 2:
            held.set()
        await held.wait()
        at_once -= 1
        writer.write(b"HTTP/1.1 204 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"s3://bucket/root?endpoint=http://127.0.0.1:{port}&region=us-east-1&connections_max=2"
    async with server, open_store(url, clock=SystemClock(), metrics=NoMetrics()) as store:
        await asyncio.gather(*(store.delete(f"{number}") for number in range(6)))
    assert most == 2


async def test_a_slow_body_has_the_time_that_its_size_needs(s3: ScriptedS3) -> None:
    """A second for each MiB besides the call's own time."""
    async with open_store(s3.url(call_timeout_ms=100), clock=SystemClock(), metrics=NoMetrics()) as store:
        s3.next.append(Reply(hang=True))
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable, match=r"within 0\.6 s"):
            await store.create("a", bytes(1 << 19))
        assert asyncio.get_running_loop().time() - began >= 0.6
