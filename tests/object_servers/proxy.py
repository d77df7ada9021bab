"""A proxy before an S3 endpoint that understands requests and does to chosen ones what networks and S3 do.

Owns its connections and the counts. Plain HTTP and path-style addresses. The Host header is passed on as the client
signed it, so signatures stay valid where the server checks them against that header.

Invariant: a request either reaches the server whole or not at all, and what the server did stays done, whatever the
client is told, also when the client has died meanwhile. One event loop; not thread-safe. Bounded: a request's body and
a reply's are held whole (S3's single puts).
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

from brokers.ports import free_ports
from object_servers.requests import BEFORE, Action, Kind, Rule, S3Error, What, request_of

_LOOK_S = 0.05
"""Between two looks whether a client that gets no answer is still there, seconds."""

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect", "content-length"}
_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_PART_BYTES = 64


class _Reset(Exception):
    """The client's connection is to be reset."""


@dataclass
class _Reply:
    """A whole reply."""

    status: int
    reason: str | None
    headers: CIMultiDict[str]
    body: bytes
    length: int | None = None
    """Of HEAD: what the body would have."""


class FaultProxy:
    """Listens on a port of its own, which it keeps over `down` and `up`. An async context manager."""

    def __init__(self, upstream: str, *, seed: int = 0, port: int | None = None) -> None:
        """`upstream`: `http://host:port` of the server."""
        self.port = free_ports(1)[0] if port is None else port
        self.seen: Counter[tuple[Action, What]] = Counter()
        """Requests that came."""
        self.answered: Counter[int] = Counter()
        """What the server answered, by status."""
        self.struck: Counter[str] = Counter()
        """Faults done, by what they were done to."""
        self._upstream = upstream.rstrip("/")
        self._rules: list[Rule] = []
        self._rng = random.Random(f"proxy/{seed}")
        self._closing = asyncio.Event()
        self._server = web.Server(self._handled, auto_decompress=False)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.1)
        self._site: web.TCPSite | None = None
        self._session: ClientSession | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._session = ClientSession(
            auto_decompress=False,
            connector=TCPConnector(limit=0),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None),
        )
        await self._runner.setup()
        await self.up()
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._closing.set()
        self.clear()
        await self._runner.cleanup()
        assert self._session is not None
        await self._session.close()

    async def up(self) -> None:
        """Listen."""
        assert self._site is None, "listening already"
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await self._site.start()

    async def down(self) -> None:
        """Refuse connections and reset those that are there, until `up`."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self.cut()

    def cut(self) -> None:
        """Reset every connection of a client."""
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def rule(self, rule: Rule) -> Rule:
        """From now on; of several that match, the one laid first strikes. Returns it."""
        self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """No more; what it holds goes on."""
        rule.release()
        if rule in self._rules:
            self._rules.remove(rule)

    def clear(self) -> None:
        """No faults any more; what is held goes on."""
        for rule in list(self._rules):
            self.remove(rule)

    async def _handled(self, http: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._done(http)
        except (_Reset, ConnectionError):  # ours, or the client has gone
            if http.transport is not None:
                http.transport.abort()
            return web.Response()  # which nobody gets

    async def _done(self, http: web.BaseRequest) -> web.StreamResponse:
        if http.headers.get("Expect", "").lower() == "100-continue":
            await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            http.writer.output_size = 0  # as aiohttp's own handler does: no byte of the reply has been sent
        body = await http.content.read()
        request = request_of(http.method, http.raw_path, http.headers, len(body))
        self.seen[request.action, request.what] += 1
        rule = next((rule for rule in self._rules if rule.strikes(request, self._rng)), None)
        if rule is None:
            return await _told(http, await self._forwarded(http, body))
        self.struck[f"{request.action} {request.what}: {rule.fault}"] += 1
        if rule.fault.kind in BEFORE:
            rule.strike(request)
            if (reply := await self._before(http, rule)) is not None:
                return await _told(http, reply)
            return await _told(http, await self._forwarded(http, body))
        reply = await self._forwarded(http, body)
        rule.strike(request)
        return await self._after(http, rule, reply)

    async def _before(self, http: web.BaseRequest, rule: Rule) -> _Reply | None:
        """What is done before the server gets it; the reply in its place, or None: it goes on."""
        fault = rule.fault
        if fault.kind is Kind.ANSWER:
            assert fault.error is not None
            return _error(http, fault.error)
        if fault.kind is Kind.DELAY:
            await asyncio.sleep(fault.seconds)
            return None
        if fault.kind is Kind.HOLD:
            if await rule.released():
                return None
        elif fault.kind is Kind.HANG:
            await self._ignored(http)
        raise _Reset

    async def _after(self, http: web.BaseRequest, rule: Rule, reply: _Reply) -> web.StreamResponse:
        """What is done with the server's reply."""
        fault = rule.fault
        match fault.kind:
            case Kind.ANSWER_AFTER:
                assert fault.error is not None
                return await _told(http, _error(http, fault.error))
            case Kind.DELAY_REPLY:
                await asyncio.sleep(fault.seconds)
            case Kind.HOLD_REPLY:
                await rule.released()
            case Kind.TRICKLE:
                return await _told(http, reply, pause_s=fault.seconds)
            case Kind.CUT_BODY:
                return await _told(http, reply, share=0.5)
            case Kind.HANG_AFTER:
                await self._ignored(http)
                raise _Reset
            case _:
                raise _Reset
        return await _told(http, reply)

    async def _ignored(self, http: web.BaseRequest) -> None:
        """Until the client has gone, or this proxy closes."""
        while not self._closing.is_set() and http.transport is not None and not http.transport.is_closing():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._closing.wait()

    async def _forwarded(self, http: web.BaseRequest, body: bytes) -> _Reply:
        """The server's reply; a server that is gone resets the connection."""
        assert self._session is not None
        headers = CIMultiDict((name, value) for name, value in http.headers.items() if name.lower() not in _HOP_BY_HOP)
        try:
            async with self._session.request(
                http.method,
                URL(f"{self._upstream}{http.raw_path}", encoded=True),
                headers=headers,
                data=body or None,
                skip_auto_headers=_AUTO_HEADERS,
                allow_redirects=False,
            ) as reply:
                content = await reply.read()
                self.answered[reply.status] += 1
                kept = CIMultiDict(
                    (name, value) for name, value in reply.headers.items() if name.lower() not in _HOP_BY_HOP
                )
                length = int(reply.headers.get("Content-Length", 0)) if http.method == "HEAD" else None
                return _Reply(reply.status, reply.reason, kept, content, length)
        except (ClientError, OSError):
            raise _Reset from None


def _error(http: web.BaseRequest, error: S3Error) -> _Reply:
    body = b"" if http.method == "HEAD" else error.document(http.path)
    return _Reply(error.status, None, CIMultiDict({"Content-Type": "application/xml"}), body)


async def _told(
    http: web.BaseRequest, reply: _Reply, *, pause_s: float = 0.0, share: float = 1.0
) -> web.StreamResponse:
    """Send a reply to the client, if it is still there; `share` below 1: cut off there."""
    response = web.StreamResponse(status=reply.status, reason=reply.reason, headers=reply.headers)
    response.content_length = len(reply.body) if reply.length is None else reply.length
    await response.prepare(http)
    kept = reply.body[: int(len(reply.body) * share)]
    step = _PART_BYTES if pause_s else max(1, len(kept))
    for at in range(0, len(kept), step):
        await response.write(kept[at : at + step])
        if pause_s:
            await asyncio.sleep(pause_s)
    if share < 1.0:
        raise _Reset
    await response.write_eof()
    return response
