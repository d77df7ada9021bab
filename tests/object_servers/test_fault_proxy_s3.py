"""A real S3 server behind the fault proxy: signatures stay valid, and the SDK takes the faults for S3's own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError, ReadTimeoutError

from object_servers.fixtures import S3Server
from object_servers.proxy import FaultProxy
from object_servers.requests import CONFLICT, EXPIRED, SLOW_DOWN, Action, Fault, Rule, S3Error, What

pytestmark = pytest.mark.servers

DEADLINE_S: Final = 120.0


@pytest.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[FaultProxy]:
    if s3_server.endpoint is None:
        pytest.skip("the proxy needs to know where the server is")
    async with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
async def client(s3_server: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A client of the SDK that asks once, behind the proxy, and waits as long as a busy machine takes."""
    monkeypatch.setenv("AWS_SDK_UA_APP_ID", "sink-7")
    async with client_of(proxy, read_timeout_s=DEADLINE_S) as client:
        yield client


@asynccontextmanager
async def client_of(proxy: FaultProxy, *, read_timeout_s: float) -> AsyncIterator[Any]:
    config = AioConfig(
        retries={"total_max_attempts": 1},
        read_timeout=read_timeout_s,
        connect_timeout=DEADLINE_S,
        s3={"addressing_style": "path"},
    )
    async with get_session().create_client("s3", endpoint_url=proxy.url, config=config) as client:
        yield client


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    reply = error.value.response
    return reply["ResponseMetadata"]["HTTPStatusCode"], reply["Error"]["Code"]


async def test_signed_requests_pass_and_are_known(s3_server: S3Server, proxy: FaultProxy, client: Any) -> None:
    seen = proxy.rule(Rule(fault=Fault.delay_reply(0.001), times=None))
    place = {"Bucket": s3_server.bucket, "Key": "proxy/a b+c=ä/p-anomalies-0-7-0.json"}
    await client.put_object(**place, Body=b"body" * 1000, IfNoneMatch="*")
    with pytest.raises(ClientError) as taken:
        await client.put_object(**place, Body=b"other", IfNoneMatch="*")
    assert code_of(taken) == (412, "PreconditionFailed")
    found = await client.get_object(**place)
    assert await found["Body"].read() == b"body" * 1000
    assert (await client.head_object(**place))["ContentLength"] == 4000
    listed = await client.list_objects_v2(Bucket=s3_server.bucket, Prefix="proxy/a b")
    assert [entry["Key"] for entry in listed["Contents"]] == [place["Key"]]
    await client.delete_object(**place)
    assert [(request.action, request.client) for request in seen.requests] == [
        (action, "sink-7")
        for action in (Action.CREATE, Action.CREATE, Action.READ, Action.LOOK, Action.LIST, Action.DELETE)
    ]
    assert seen.requests[0].create_only
    assert seen.requests[0].key == place["Key"]


async def test_a_wrong_signature_is_refused_by_the_server_itself(
    s3_server: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    if s3_server.process is None:
        pytest.skip("only SeaweedFS of ours is sure to check signatures")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    async with get_session().create_client("s3", endpoint_url=proxy.url) as client:
        with pytest.raises(ClientError) as refused:
            await client.put_object(Bucket=s3_server.bucket, Key="proxy/refused", Body=b"")
    assert code_of(refused) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("error", [SLOW_DOWN, CONFLICT, EXPIRED])
async def test_the_sdk_reads_the_errors_as_s3_s(
    s3_server: S3Server, proxy: FaultProxy, client: Any, error: S3Error
) -> None:
    proxy.rule(Rule(fault=Fault.answer(error), action=Action.CREATE, what=What.OBJECT))
    with pytest.raises(ClientError) as raised:
        await client.put_object(Bucket=s3_server.bucket, Key="proxy/refused", Body=b"x", IfNoneMatch="*")
    assert code_of(raised) == (error.status, error.code)


@pytest.mark.parametrize(("fault", "there"), [(Fault.HANG, False), (Fault.HANG_AFTER, True), (Fault.RESET_AFTER, True)])
async def test_a_lost_request_and_a_lost_reply(
    s3_server: S3Server, proxy: FaultProxy, client: Any, fault: Fault, *, there: bool
) -> None:
    place = {"Bucket": s3_server.bucket, "Key": f"proxy/lost/{fault.kind.name}"}
    proxy.rule(Rule(fault=fault, action=Action.CREATE, times=None))
    async with client_of(proxy, read_timeout_s=2.0) as hasty:
        with pytest.raises((ReadTimeoutError, ConnectionClosedError, HTTPClientError, ClientError)) as raised:
            await hasty.put_object(**place, Body=b"x", IfNoneMatch="*")
    if isinstance(raised.value, ClientError):
        # aiohttp sends a put again by itself when a connection breaks: that one finds what the first has done.
        assert code_of(raised) == (412, "PreconditionFailed")
    proxy.clear()

    async def is_there() -> bool:
        listed = await client.list_objects_v2(Bucket=s3_server.bucket, Prefix=place["Key"])
        return bool(listed.get("Contents"))

    async with asyncio.timeout(DEADLINE_S):
        while there and not await is_there():  # a busy server may be behind a hasty client
            pass
    assert await is_there() is there
