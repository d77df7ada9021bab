"""A bucket that answers what a test has written for it: for what no real server can be made to say.

Owns its connections and its objects, in memory. Without a script it is a plain S3, path-style, one region, that lists
in the order of keys. Says nothing about what S3 does: the answers are those that AWS documents.
One event loop; not thread-safe.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    key: str
    """Without the bucket; empty: the bucket itself."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in small letters."""
    body: bytes

    @property
    def is_list(self) -> bool:
        """Whether it lists."""
        return self.method == "GET" and not self.key


@dataclass(frozen=True)
class Reply:
    """What it is answered with."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_bytes: int | None = None
    """The connection is reset after so many bytes of the body."""
    pause_s: float = 0.0
    """Between two bytes of the body, seconds."""
    hang: bool = False
    """Nothing is answered, and the connection stays."""
    reset: bool = False
    """The connection is reset in place of an answer."""
    after: bool = False
    """Done all the same before it is answered so."""


def error(status: int, code: str, message: str = "", *, more: str = "", **headers: str) -> Reply:
    """As AWS documents it; `headers` with _ for -."""
    body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>{more}</Error>".encode()
    return Reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


Script = Callable[[Asked], Reply | None]


class ScriptedS3:
    """An async context manager."""

    def __init__(self, *, ignores_create_only: bool = False, server: str = "AmazonS3") -> None:
        self.asked: list[Asked] = []
        self.objects: dict[str, bytes] = {}
        self.script: Script = lambda _: None
        """Asked before anything is done; None: as usual."""
        self.next: deque[Reply] = deque()
        """Answers to the next requests, before the script is asked."""
        self._ignores = ignores_create_only
        self._name = server
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def url(self, root: object = "root", **parameters: object) -> str:
        """Of a store."""
        words = {"endpoint": self.endpoint, "region": "us-east-1", **parameters}
        return f"s3://{BUCKET}/{root}?" + "&".join(f"{name}={quote(str(word))}" for name, word in words.items())

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (asked := await _request(reader)) is not None:
                self.asked.append(asked)
                reply = self.next.popleft() if self.next else self.script(asked)
                if reply is None:
                    reply = self._done(asked)
                elif reply.after:
                    self._done(asked)
                if not await _told(writer, reply, self._name):
                    return
        finally:
            writer.transport.abort()

    def _done(self, asked: Asked) -> Reply:
        if asked.is_list:
            return self._listed(asked.query)
        if asked.method == "PUT":
            there = asked.key in self.objects
            if there and asked.headers.get("if-none-match") == "*" and not self._ignores:
                return error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
            self.objects[asked.key] = asked.body
            return Reply(headers={"ETag": '"0"'})
        if asked.method == "DELETE":
            self.objects.pop(asked.key, None)
            return Reply(204)
        return self._got(asked)

    def _got(self, asked: Asked) -> Reply:
        if asked.key not in self.objects:
            return error(404, "NoSuchKey", "The specified key does not exist.")
        body = self.objects[asked.key]
        if "range" in asked.headers:
            if not body:
                return error(416, "InvalidRange", "The requested range is not satisfiable")
            return Reply(206, body[:1], {"Content-Range": f"bytes 0-0/{len(body)}"})
        return Reply(200, body)

    def _listed(self, query: Mapping[str, str]) -> Reply:
        after = max(query.get("start-after", ""), query.get("continuation-token", ""))
        keys = sorted(key for key in self.objects if key.startswith(query.get("prefix", "")) and key > after)
        page = keys[: int(query.get("max-keys", "1000"))]
        more = len(keys) > len(page)
        items = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>{len(self.objects[key])}</Size></Contents>" for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return Reply(
            body=f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{items}</ListBucketResult>".encode()
        )


async def _request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    method, target, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    try:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    parts = urlsplit(target)
    _, _, key = unquote(parts.path).lstrip("/").partition("/")
    return Asked(method, key, dict(parse_qsl(parts.query, keep_blank_values=True)), headers, body)


async def _told(writer: asyncio.StreamWriter, reply: Reply, server: str) -> bool:
    """Whether the connection goes on."""
    if reply.hang:
        await asyncio.Event().wait()
    if reply.reset:
        return False
    headers = {"Server": server, "Content-Length": str(len(reply.body)), **reply.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    body = reply.body[: reply.cut_bytes]
    writer.write(f"HTTP/1.1 {reply.status} Said\r\n{lines}\r\n".encode() + (b"" if reply.pause_s else body))
    try:
        for at in range(len(body) if reply.pause_s else 0):
            writer.write(body[at : at + 1])
            await writer.drain()
            await asyncio.sleep(reply.pause_s)
        await writer.drain()
    except ConnectionError:
        return False
    return reply.cut_bytes is None
