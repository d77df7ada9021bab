"""The HTTP side of a service's health: /healthz, /readyz and /metrics. Reads `Health` and the metrics, owns neither.

Loopback unless told otherwise; GET only; no body is read; one request a connection; a connection is cut after
REQUEST_S, and the oldest ones beyond CONNECTIONS_MAX with it. Event-loop only.
"""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

from cutbank.errors import UsageError
from cutbank.runtime.health import Health
from cutbank.runtime.metrics import PrometheusMetrics

REQUEST_S = 10.0
"""Longest life of a connection, seconds: headers, answer and all."""
CONNECTIONS_MAX = 64
"""Most connections at a time; the oldest beyond it are cut."""
HEADER_BYTES_MAX = 4096
"""Longest request line and header, bytes."""

_SWEEP_S = 1.0
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def serving(
    *, health: Health, metrics: PrometheusMetrics, host: str, port: int, request_s: float = REQUEST_S
) -> AsyncIterator[str]:
    """Serve until the block ends; gives the base URL. `port` 0 picks a free one. Raises UsageError: can't listen."""
    runner = web.AppRunner(
        _application(health, metrics),
        access_log=None,
        handle_signals=False,
        keepalive_timeout=0.0,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=CONNECTIONS_MAX)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(_cannot_listen(error, host, port)) from None
        sweeper = asyncio.create_task(_sweep(runner, request_s=request_s), name="http sweeper")
        try:
            yield _base_url(runner, host)
        finally:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
    finally:
        await runner.cleanup()


def _application(health: Health, metrics: PrometheusMetrics) -> web.Application:
    async def healthz(_request: web.Request) -> web.Response:
        live = health.live()
        return _json({"live": live}, ok=live)

    async def readyz(_request: web.Request) -> web.Response:
        checks = {name: {"ok": check.ok, "why": check.why} for name, check in health.checks.items()}
        return _json({"ready": health.is_ready, "why": health.why_not(), "checks": checks}, ok=health.is_ready)

    async def exposition(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": _METRICS_TYPE})

    application = web.Application(client_max_size=1)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", exposition)
    application.on_response_prepare.append(_one_request)
    return application


async def _one_request(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers["Connection"] = "close"  # said too: aiohttp has written its headers by now
    response.headers["Cache-Control"] = "no-store"


def _json(body: object, *, ok: bool) -> web.Response:
    return web.Response(body=orjson.dumps(body) + b"\n", status=200 if ok else 503, content_type="application/json")


async def _sweep(runner: web.AppRunner, *, request_s: float) -> None:
    loop = asyncio.get_running_loop()
    since: dict[object, float] = {}
    while True:
        await asyncio.sleep(min(_SWEEP_S, request_s))
        connections = runner.server.connections if runner.server is not None else []
        now = loop.time()
        since = {connection: since.get(connection, now) for connection in connections}
        for index, connection in enumerate(reversed(connections)):
            if (index >= CONNECTIONS_MAX or now - since[connection] >= request_s) and connection.transport is not None:
                connection.transport.abort()


def _base_url(runner: web.AppRunner, host: str) -> str:
    port = runner.addresses[0][1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _cannot_listen(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"http_port {port} on {host} is in use: give another with --http-port or CUTBANK_HTTP_PORT, "
            "0 for any free one, off for none"
        )
    return f"can't listen on http_host {host}, http_port {port}: {error.strerror or error}"
