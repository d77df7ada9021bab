"""The fault proxy does to chosen requests what it says, to no others, and what the server did stays done."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from xml.etree import ElementTree as ET

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError, ClientResponse, ClientSession, ClientTimeout, web

from brokers.ports import free_ports
from cutbank.pipeline.sinking.claims import ChainId
from cutbank.records import Position
from object_servers.proxy import FaultProxy
from object_servers.requests import (
    CONFLICT,
    EXPIRED,
    INTERNAL,
    SLOW_DOWN,
    Action,
    Fault,
    Rule,
    S3Error,
    S3Request,
    What,
    request_of,
    what_of,
)

CLAIM = ChainId("p", "anomalies", "0").claim_key(Position(7))
DEADLINE_S = 60.0


@dataclass
class Server:
    """What the proxy stands before: keeps bodies, and what it was asked."""

    url: str
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    put: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        body = await http.content.read()
        self.asked.append((http.method, http.raw_path, dict(http.headers)))
        if http.method == "PUT":
            if http.headers.get("If-None-Match") == "*" and http.raw_path in self.objects:
                return web.Response(status=412)
            self.objects[http.raw_path] = body
            self.put.set()
            return web.Response(headers={"ETag": '"1"'})
        if http.raw_path not in self.objects:
            return web.Response(status=404)
        return web.Response(body=self.objects[http.raw_path], headers={"Content-Encoding": "gzip"})


@asynccontextmanager
async def proxied(*, seed: int = 0) -> AsyncIterator[tuple[FaultProxy, Server, ClientSession]]:
    """A proxy before a server, and a client of it."""
    port = free_ports(1)[0]
    server = Server(f"http://127.0.0.1:{port}")
    runner = web.ServerRunner(web.Server(server.handle, auto_decompress=False), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with (
            FaultProxy(server.url, seed=seed) as proxy,
            ClientSession(timeout=ClientTimeout(total=DEADLINE_S), auto_decompress=False) as client,
        ):
            client._retry_connection = False  # of aiohttp's own accord, a put that was reset would be sent again
            yield proxy, server, client
    finally:
        await runner.cleanup()


async def put(
    client: ClientSession,
    proxy: FaultProxy,
    key: str,
    body: bytes = b"body",
    headers: Mapping[str, str] = MappingProxyType({}),
) -> int:
    async with client.put(f"{proxy.url}/bucket/{key}", data=body, headers=headers) as reply:
        return reply.status


async def got(client: ClientSession, proxy: FaultProxy, key: str) -> bytes:
    async with client.get(f"{proxy.url}/bucket/{key}") as reply:
        return await reply.read()


async def error_of(reply: ClientResponse) -> tuple[int, str]:
    """Status and code of a reply."""
    return reply.status, ET.fromstring(await reply.read()).findtext("Code", "")  # noqa: S314  # our own


async def until_gone(client: ClientSession, proxy: FaultProxy, key: str, *, when: asyncio.Event) -> None:
    """A put that gets no answer is given up, as soon as it has come so far."""
    putting = asyncio.create_task(put(client, proxy, key, b"x"))
    async with asyncio.timeout(DEADLINE_S):
        await when.wait()
    assert not putting.done()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting


async def test_without_rules_everything_passes_as_it_was_sent() -> None:
    async with proxied() as (proxy, server, client):
        assert await put(client, proxy, "a%20b/c", b"\x1f\x8bpacked", headers={"Content-Encoding": "gzip"}) == 200
        method, path, headers = server.asked[-1]
        assert (method, path) == ("PUT", "/bucket/a%20b/c")
        assert headers["Host"] == f"127.0.0.1:{proxy.port}", "what the client has signed"
        assert server.objects[path] == b"\x1f\x8bpacked", "nothing is unpacked on the way"
        assert await got(client, proxy, "a%20b/c") == b"\x1f\x8bpacked"
        async with client.head(f"{proxy.url}/bucket/a%20b/c") as reply:
            assert (reply.status, reply.headers["Content-Length"], await reply.read()) == (200, "8", b"")
        assert await put(client, proxy, "a%20b/c", headers={"If-None-Match": "*"}) == 412
        assert proxy.answered == {200: 3, 412: 1}
        assert proxy.seen[Action.CREATE, What.OBJECT] == 2
        assert not proxy.struck


async def test_who_asks_before_it_sends_is_told_to_go_on() -> None:
    async with proxied() as (proxy, server, client):
        async with client.put(f"{proxy.url}/bucket/k", data=b"large", expect100=True) as reply:
            assert reply.status == 200
        assert server.objects == {"/bucket/k": b"large"}


@pytest.mark.parametrize("error", [SLOW_DOWN, INTERNAL, CONFLICT, EXPIRED])
async def test_an_error_in_place_of_the_server_is_aws_s_own_and_nothing_is_done(error: S3Error) -> None:
    async with proxied() as (proxy, server, client):
        rule = proxy.rule(Rule(fault=Fault.answer(error), action=Action.CREATE))
        async with client.put(f"{proxy.url}/bucket/k", data=b"x") as reply:
            assert await error_of(reply) == (error.status, error.code)
        assert (rule.struck, server.objects) == (1, {})
        assert await put(client, proxy, "k") == 200, "once"
        assert proxy.struck == {f"create object: answer {error.code}": 1}


async def test_an_error_though_it_was_done() -> None:
    async with proxied() as (proxy, server, client):
        proxy.rule(Rule(fault=Fault.answer_after(INTERNAL)))
        assert await put(client, proxy, "k") == 500
        assert server.objects == {"/bucket/k": b"body"}


@pytest.mark.parametrize(("fault", "done"), [(Fault.RESET, False), (Fault.RESET_AFTER, True)])
async def test_a_reset_before_or_after_the_server_has_done_it(fault: Fault, *, done: bool) -> None:
    async with proxied() as (proxy, server, client):
        proxy.rule(Rule(fault=fault))
        with pytest.raises(ClientConnectionError):
            await put(client, proxy, "k")
        assert ("/bucket/k" in server.objects) is done
        assert await put(client, proxy, "k") == 200


@pytest.mark.parametrize(("fault", "done"), [(Fault.HANG, False), (Fault.HANG_AFTER, True)])
async def test_no_answer_for_ever(fault: Fault, *, done: bool) -> None:
    async with proxied() as (proxy, server, client):
        rule = proxy.rule(Rule(fault=fault))
        await until_gone(client, proxy, "k", when=server.put if done else rule.met)
        assert ("/bucket/k" in server.objects) is done
        assert await put(client, proxy, "other") == 200, "others are answered"
        assert len(server.asked) == (2 if done else 1)


async def test_half_of_a_body_then_a_reset() -> None:
    async with proxied() as (proxy, _, client):
        await put(client, proxy, "k", b"0123456789")
        proxy.rule(Rule(fault=Fault.CUT_BODY, action=Action.READ))
        with pytest.raises((ClientPayloadError, ClientConnectionError)):
            await got(client, proxy, "k")
        assert await got(client, proxy, "k") == b"0123456789"


async def test_slow_answers_come_whole() -> None:
    async with proxied() as (proxy, _, client):
        await put(client, proxy, "k", b"x" * 300)
        for fault in (Fault.delay(0.01), Fault.delay_reply(0.01), Fault.trickle(0.01)):
            proxy.rule(Rule(fault=fault))
            assert await got(client, proxy, "k") == b"x" * 300
        assert sum(proxy.struck.values()) == 3


async def test_what_is_held_arrives_although_its_client_is_gone() -> None:
    async with proxied() as (proxy, server, client):
        rule = proxy.rule(Rule(fault=Fault.HOLD, what=What.CLAIM))
        await until_gone(client, proxy, CLAIM, when=rule.met)
        assert server.objects == {}
        rule.release()
        await asyncio.wait_for(server.put.wait(), DEADLINE_S)
        assert list(server.objects) == [f"/bucket/{CLAIM}"]


async def test_what_is_held_may_be_lost() -> None:
    async with proxied() as (proxy, server, client):
        rule = proxy.rule(Rule(fault=Fault.HOLD))
        putting = asyncio.create_task(put(client, proxy, "k"))
        await asyncio.wait_for(rule.met.wait(), DEADLINE_S)
        rule.release(forward=False)
        with pytest.raises(ClientConnectionError):
            await putting
        assert server.objects == {}


async def test_a_reply_is_held_after_the_effect_and_who_laid_the_rule_is_called() -> None:
    async with proxied() as (proxy, server, client):
        there: list[bool] = []
        rule = proxy.rule(
            Rule(fault=Fault.HOLD_REPLY, then=lambda _request: there.append("/bucket/k" in server.objects))
        )
        putting = asyncio.create_task(put(client, proxy, "k"))
        await asyncio.wait_for(rule.met.wait(), DEADLINE_S)
        assert (there, putting.done()) == ([True], False)
        rule.release()
        assert await putting == 200


async def test_rules_choose_by_kind_client_number_and_chance() -> None:
    async with proxied(seed=1) as (proxy, _, client):
        mine = {"User-Agent": "aiobotocore/2 app/sink-1 ua/2.1"}
        rule = proxy.rule(Rule(fault=Fault.answer(SLOW_DOWN), action=Action.CREATE, client="sink-1", nth=2))
        found = [await put(client, proxy, "k"), *[await put(client, proxy, "k", headers=mine) for _ in range(3)]]
        assert found == [200, 200, 503, 200]
        assert rule.requests[0].client == "sink-1"
        rare = proxy.rule(Rule(fault=Fault.answer(SLOW_DOWN), times=None, share=0.3))
        found = [await put(client, proxy, "k") for _ in range(100)]
        assert 10 < found.count(503) == rare.struck < 60
        proxy.clear()
        assert await put(client, proxy, "k") == 200


async def test_down_and_up_again_at_the_same_place() -> None:
    async with proxied() as (proxy, _, client):
        await put(client, proxy, "k")
        await proxy.down()
        with pytest.raises(ClientConnectionError):
            await put(client, proxy, "k")
        await proxy.up()
        assert await put(client, proxy, "k") == 200


@pytest.mark.parametrize(
    ("key", "what"),
    [
        (CLAIM, What.CLAIM),
        (f"deep/root/{CLAIM}", What.CLAIM),
        (f"{CLAIM}.lost", What.LOST),
        (f"root/{ChainId('p', 'anomalies', '0').birth_key}", What.BIRTH),
        ("root/_cutbank/_probe/00ff", What.PROBE),
        ("root/2026/11/22/23/p-anomalies-0-7-0.json.gz", What.OBJECT),
        ("state/p/trades/birth", What.STATE_BIRTH),
        ("state/p/trades/0/00000001/birth", What.STATE_BIRTH),
        (f"state/p/trades/0/00000001/{'0' * 63}A", What.SNAPSHOT),
    ],
)
def test_what_a_key_is(key: str, what: What) -> None:
    assert what_of(key) is what


@pytest.mark.parametrize(
    ("method", "path", "action", "key"),
    [
        ("PUT", "/bucket/root/a%20b", Action.CREATE, "root/a b"),
        ("GET", "/bucket/k", Action.READ, "k"),
        ("HEAD", "/bucket/k", Action.LOOK, "k"),
        ("DELETE", "/bucket/k", Action.DELETE, "k"),
        ("GET", "/bucket?list-type=2&prefix=root%2F_cutbank%2F", Action.LIST, "root/_cutbank/"),
        ("GET", "/bucket/?list-type=2&prefix=r&continuation-token=x", Action.LIST, "r"),
        ("HEAD", "/bucket", Action.BUCKET, ""),
        ("POST", "/bucket?delete", Action.DELETE, ""),
    ],
)
def test_what_a_request_is(method: str, path: str, action: Action, key: str) -> None:
    request = request_of(method, path, {"If-None-Match": "*"}, 3)
    assert (request.action, request.key, request.create_only) == (action, key, True)
    assert request.bucket == "bucket"


def test_a_rule_remembers_whom_it_struck() -> None:
    rule, rng = Rule(fault=Fault.RESET, times=None), random.Random(0)
    requests = [request_of("PUT", f"/bucket/{number}", {}, 1) for number in range(3)]
    assert all(rule.strikes(request, rng) for request in requests)
    assert [request.key for request in rule.requests] == ["0", "1", "2"]
    assert str(requests[0]) == "-: create object bucket/0"
    assert isinstance(requests[0], S3Request)
