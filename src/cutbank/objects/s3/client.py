"""The SDK's client as the store wants it: nothing tried again, no redirect followed, no answer waited for twice.

Owns what differs from the SDK's own choices, and why. Event-loop only; to make a client takes part of a second, in
which the loop is held: at the start, before anything else runs.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import NoCredentialsError

from cutbank.objects.s3.settings import S3Settings


@asynccontextmanager
async def opened(settings: S3Settings) -> AsyncIterator[Any]:
    """A client; closed with its connections. Raises botocore's errors, NoCredentialsError at once."""
    for name in ("botocore", "aiobotocore"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)  # below it they log what they sign, the session's token too
    session = aioboto3.Session()
    if await session.get_credentials() is None:
        raise NoCredentialsError
    addressing = {None: "auto", True: "path", False: "virtual"}[settings.path_style]
    config = AioConfig(
        connect_timeout=settings.connect_timeout_ms / 1000,
        read_timeout=settings.read_timeout_ms / 1000,
        max_pool_connections=settings.connections_max,
        # Who calls decides what to ask again, and tells of it.
        retries={"total_max_attempts": 1, "mode": "standard"},
        # The body is held against our own checksum in a signed header, so that signing need not read it: the SDK would
        # do both on the event loop.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": addressing, "payload_signing_enabled": False},
    )
    making = session.client("s3", region_name=settings.region, endpoint_url=settings.endpoint, config=config)
    async with making as client:
        client.meta.events.register("before-send.s3", _send_at_once)
        client.meta.events.register("before-call.s3", _stay_in_region)
        yield client


def _send_at_once(request: Any, **_: object) -> None:
    """Without `Expect: 100-continue`: the client would wait for ever for a store or proxy that does not say it."""
    if "Expect" in request.headers:
        del request.headers["Expect"]


def _stay_in_region(params: dict[str, Any], **_: object) -> None:
    """A bucket elsewhere is a wrong setting, said once, instead of a hidden second request for each first one."""
    params.get("context", {}).setdefault("s3_redirect", {})["redirected"] = True
