"""Tokens for Amazon MSK, by AWS's own signer with invented credentials; no network, no broker."""

import base64
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from aiokafka.errors import KafkaError
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

from cutbank.clock import SystemClock
from cutbank.errors import MissingExtra, UsageError
from cutbank.testing.clock import ManualClock
from cutbank.transports.kafka import msk
from cutbank.transports.kafka.msk import RENEWED_MS, MskTokens, TokenUnavailable, region_of
from cutbank.transports.kafka.security import client_options, refusal
from cutbank.transports.kafka.settings import KafkaSettings, parse_url

KEY_ID, SECRET = "AKIDEXAMPLE", "of-nobody"
HOSTS = ("b-1.demo.abc123.c2.kafka.eu-west-1.amazonaws.com:9098",)
TOKEN_MS = 900_000
"""A signature's life."""


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def settings(**given: object) -> KafkaSettings:
    return KafkaSettings.model_validate({"security": "SASL_SSL", "sasl_mechanism": "AWS_MSK_IAM", **given})


def signed(token: str) -> dict[str, list[str]]:
    url = urlparse(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    return {"host": [url.netloc], **parse_qs(url.query)}


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (HOSTS[0], "eu-west-1"),
        ("boot-abc.c1.kafka-serverless.us-east-2.amazonaws.com:9098", "us-east-2"),
        ("b-2-public.x.y.c3.kafka.ap-southeast-4.amazonaws.com:9198", "ap-southeast-4"),
        ("b-1.x.kafka.cn-north-1.amazonaws.com.cn:9098", "cn-north-1"),
    ],
)
def test_the_region_stands_in_the_brokers_names(host: str, region: str) -> None:
    assert region_of(settings(), ["10.0.0.1:9098", host]) == region
    assert region_of(settings(aws_region="sa-east-1"), [host]) == "sa-east-1"


def test_without_a_region_the_setting_is_named() -> None:
    with pytest.raises(UsageError, match=r"aws_region.*10\.0\.0\.1:9098"):
        region_of(settings(), ["10.0.0.1:9098"])


@pytest.mark.usefixtures("credentials")
async def test_a_token_is_a_signature_for_the_region() -> None:
    token = signed(await MskTokens("eu-west-1", SystemClock()).token())
    assert token["host"] == ["kafka.eu-west-1.amazonaws.com"]
    assert token["Action"] == ["kafka-cluster:Connect"]
    (credential,) = token["X-Amz-Credential"]
    assert credential.startswith(f"{KEY_ID}/")
    assert credential.endswith("/eu-west-1/kafka-cluster/aws4_request")
    assert token["X-Amz-Expires"] == [str(TOKEN_MS // 1000)]


async def test_a_token_is_kept_until_shortly_before_its_end(monkeypatch: pytest.MonkeyPatch, credentials: None) -> None:
    del credentials
    clock = ManualClock(start_ms=SystemClock().now_ms())
    tokens = MskTokens("eu-west-1", clock)
    first = await tokens.token()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
    clock.jump_wall(TOKEN_MS - RENEWED_MS - 5_000)
    assert await tokens.token() == first
    clock.jump_wall(6_000)
    assert signed(await tokens.token())["X-Amz-Credential"][0].startswith("AKIDROTATED/")


async def test_no_credentials_are_said_at_start() -> None:
    with pytest.raises(UsageError, match=r"AWS_ACCESS_KEY_ID.*AWS_PROFILE.*role"):
        await client_options(settings(), HOSTS, SystemClock())


async def test_credentials_that_end_while_running_are_a_connection_that_fails() -> None:
    with pytest.raises(TokenUnavailable) as failure:
        await MskTokens("eu-west-1", SystemClock()).token()
    assert isinstance(failure.value, KafkaError), "what aiokafka takes for that"
    assert "no AWS credentials" in str(refusal(failure.value, settings()))


async def test_a_search_for_credentials_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(MSKAuthTokenProvider, "generate_auth_token", lambda _: asked.wait())
    monkeypatch.setattr(msk, "SIGNING_S_MAX", 0.05)
    try:
        with pytest.raises(TokenUnavailable, match=r"within 0\.05 s.*metadata service"):
            await MskTokens("eu-west-1", SystemClock()).token()
    finally:
        asked.set()


@pytest.mark.usefixtures("credentials")
async def test_the_client_is_told_of_it() -> None:
    options = await client_options(settings(), HOSTS, SystemClock())
    assert options["sasl_mechanism"] == "OAUTHBEARER"
    assert signed(await options["sasl_oauth_token_provider"].token())["host"] == ["kafka.eu-west-1.amazonaws.com"]
    assert SECRET not in repr(options)


async def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer", None)
    with pytest.raises(MissingExtra, match=r"pip install 'cutbank\[msk-iam\]'"):
        await client_options(settings(), HOSTS, SystemClock())


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("security=SASL_PLAINTEXT", "security=SASL_SSL"),
        ("", "security=SASL_SSL"),
        ("security=SASL_SSL&username=me", "no username"),
        ("security=SASL_SSL&aws_region=Ireland", "aws_region"),
    ],
)
def test_what_does_not_fit_is_refused(rest: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_url(f"kafka://b:9098?sasl_mechanism=AWS_MSK_IAM&{rest}".rstrip("&"))
