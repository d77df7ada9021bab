"""Tokens for Amazon MSK: AWS credentials as a signature that a broker takes by SASL OAUTHBEARER. Owns the newest token.

The signing is AWS's own package, an extra; it looks for credentials as every AWS program does. A token is good for 15
minutes and is shown once for each connection that is opened, so an old one is replaced in time, one at a time.
Event-loop only; the signing, which may ask the machine's metadata service, runs in a thread.

Source: https://docs.aws.amazon.com/msk/latest/developerguide/iam-access-control.html.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from cutbank.clock import Clock
from cutbank.errors import MissingExtra, UsageError
from cutbank.transports.kafka.settings import KafkaSettings

MSK_IAM = "AWS_MSK_IAM"

RENEWED_MS = 120_000
"""A token that ends within this time is replaced before it is shown again, ms."""

SIGNING_S_MAX = 20.0
"""How long the search for credentials and the signature may take, s."""

_HOST = re.compile(r"\.(?:kafka|kafka-serverless)\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?:[0-9]+$")


class TokenUnavailable(KafkaError):  # type: ignore[misc]  # aiokafka is not typed
    """There is no token now; aiokafka takes it for a connection that failed."""


def region_of(settings: KafkaSettings, servers: Sequence[str]) -> str:
    """The region that is set, else the one in the brokers' names. Raises UsageError."""
    if settings.aws_region is not None:
        return settings.aws_region
    for server in servers:
        if (found := _HOST.search(server)) is not None:
            return found[1]
    raise UsageError(
        f"kafka: sasl_mechanism={MSK_IAM} needs aws_region: {', '.join(servers)} tells none; "
        "write for example aws_region=eu-west-1"
    )


class MskTokens(AbstractTokenProvider):  # type: ignore[misc]
    """The tokens of one process for one cluster."""

    def __init__(self, region: str, clock: Clock) -> None:
        """Raises MissingExtra."""
        try:
            from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
        except ModuleNotFoundError:
            raise MissingExtra(
                f"kafka: sasl_mechanism={MSK_IAM} needs AWS's signer; pip install 'cutbank[msk-iam]'"
            ) from None
        self._sign: Any = MSKAuthTokenProvider.generate_auth_token
        self._region = region
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = ""
        self._until_ms = 0

    async def token(self) -> str:
        """A token that is good for a while yet. Raises TokenUnavailable."""
        async with self._lock:
            if self._until_ms - self._clock.now_ms() <= RENEWED_MS:
                await self._renew()
            return self._token

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(SIGNING_S_MAX):
                self._token, self._until_ms = await asyncio.to_thread(self._sign, self._region)
        except TimeoutError:
            raise TokenUnavailable(
                f"no AWS credentials came within {SIGNING_S_MAX:g} s; is the metadata service reachable?"
            ) from None
        except Exception as error:  # noqa: BLE001  # whatever the AWS libraries raise, they raise it for each connection
            # Without any credentials the signer fails on None.
            what = "none were found" if isinstance(error, AttributeError | ValueError) else str(error)
            raise TokenUnavailable(
                f"no AWS credentials for {MSK_IAM} ({what}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "AWS_PROFILE, or give the machine or pod a role"
            ) from None
