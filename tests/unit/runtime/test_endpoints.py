"""The health endpoints over real loopback sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest

from cutbank.errors import UsageError
from cutbank.runtime.endpoints import CONNECTIONS_MAX, HEADER_BYTES_MAX, serving
from cutbank.runtime.health import LATE_S, Health
from cutbank.runtime.metrics import PrometheusMetrics

PATIENCE_S = 10.0


class Served:
    """A running server and a client to it."""

    def __init__(self, url: str, health: Health, metrics: PrometheusMetrics, client: aiohttp.ClientSession) -> None:
        self.url, self.health, self.metrics, self._client = url, health, metrics, client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def get(self, path: str, *, method: str = "GET", data: bytes | None = None) -> tuple[int, bytes]:
        async with self._client.request(method, self.url + path, data=data) as response:
            return response.status, await response.read()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    health, metrics = Health(), PrometheusMetrics()
    async with (
        serving(health=health, metrics=metrics, host="127.0.0.1", port=0, request_s=0.5) as url,
        aiohttp.ClientSession() as client,
    ):
        yield Served(url, health, metrics, client)


async def test_live_while_the_loop_turns(served: Served) -> None:
    assert (await served.get("/healthz"))[0] == 200
    served.health.beat(LATE_S + 1)
    status, body = await served.get("/healthz")
    assert (status, orjson.loads(body)) == (503, {"live": False})


async def test_ready_says_which_check_is_not_and_why(served: Served) -> None:
    status, body = await served.get("/readyz")
    assert status == 503
    assert orjson.loads(body)["why"] == "nothing was reported yet"
    served.health.ready("transport", ok=True)
    served.health.ready("partition 3", ok=False, why="position lost")
    status, body = await served.get("/readyz")
    assert status == 503
    assert orjson.loads(body) == {
        "ready": False,
        "why": "partition 3: position lost",
        "checks": {"transport": {"ok": True, "why": ""}, "partition 3": {"ok": False, "why": "position lost"}},
    }
    served.health.ready("partition 3", ok=True)
    assert (await served.get("/readyz"))[0] == 200


async def test_metrics_are_in_prometheus_text_format(served: Served) -> None:
    served.metrics.add("cutbank_record_errors_total", 3.0, reason="empty")
    status, body = await served.get("/metrics")
    assert status == 200
    assert b'cutbank_record_errors_total{reason="empty"} 3.0' in body


async def test_other_paths_and_methods_are_refused(served: Served) -> None:
    assert (await served.get("/"))[0] == 404
    assert (await served.get("/readyz", method="POST", data=b"x"))[0] == 405
    assert (await served.get("/readyz", method="DELETE"))[0] == 405


async def _answer(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(request)
            await writer.drain()
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_a_connection_carries_one_request(served: Served) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await _answer(served.port, request)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in answer


async def test_an_oversize_header_is_refused(served: Served) -> None:
    oversize = b"x" * (HEADER_BYTES_MAX + 1)
    answer = await _answer(served.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + oversize + b"\r\n\r\n")
    assert answer.split(b" ")[1] == b"400"


@pytest.mark.parametrize("sent", [b"", b"GET /hea"])
async def test_a_connection_that_never_asks_is_cut(served: Served, sent: bytes) -> None:
    assert await _answer(served.port, sent) == b""


async def test_too_many_connections_lose_the_oldest_and_the_server_still_answers() -> None:
    health, metrics = Health(), PrometheusMetrics()
    async with serving(health=health, metrics=metrics, host="127.0.0.1", port=0) as url:
        port = int(url.rpartition(":")[2])
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX + 6)]
        try:
            async with asyncio.timeout(PATIENCE_S):
                cut = {index for index in range(6) if await _ends(opened[index][0])}
                assert cut == set(range(6))
                _, writer = opened[-1]
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await opened[-1][0].readline()).startswith(b"HTTP/1.1 200")
        finally:
            for _, writer in opened:
                writer.close()


async def _ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def test_a_port_in_use_is_one_clear_usage_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=f"http_port {port} on 127.0.0.1 is in use.*--http-port.*CUTBANK_HTTP_PORT"
        ):
            async with serving(health=Health(), metrics=PrometheusMetrics(), host="127.0.0.1", port=port):
                pass


async def test_an_address_that_is_not_ours_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"can't listen on http_host 192\.0\.2\.1"):
        async with serving(health=Health(), metrics=PrometheusMetrics(), host="192.0.2.1", port=0):
            pass


async def test_the_port_is_free_again_afterwards() -> None:
    async with serving(health=Health(), metrics=PrometheusMetrics(), host="127.0.0.1", port=0) as url:
        port = int(url.rpartition(":")[2])
    async with serving(health=Health(), metrics=PrometheusMetrics(), host="127.0.0.1", port=port) as again:
        assert again == url
