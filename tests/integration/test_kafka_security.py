"""Who comes in on a real broker with users, certificates and permissions, and what is said to who does not."""

import time
from pathlib import Path

import pytest
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

from brokers.secured import FULL, MECHANISMS, PASSWORD, SecuredKafka, openssl
from cutbank.clock import SystemClock
from cutbank.errors import StreamUnavailable, UsageError
from cutbank.metrics import NoMetrics
from cutbank.records import Message
from cutbank.transports.base import StreamConfig, Transport
from cutbank.transports.kafka import open_kafka
from cutbank.transports.kafka.connections import REFUSAL_S


def opened(url: str) -> Transport:
    return open_kafka(url, clock=SystemClock(), metrics=NoMetrics())


async def round_trip(url: str, stream: str) -> None:
    async with opened(url) as transport:
        info = await transport.ensure(StreamConfig(stream))
        await transport.publish([Message(stream, b"x")])
        (partition,) = info.partitions
        batch = await transport.read(partition.partition, partition.end, records_max=1, bytes_max=1)
        assert list(batch.values) == [b"x"]


async def refused(url: str) -> str:
    with pytest.raises(UsageError) as failure:
        await opened(url).__aenter__()
    text = str(failure.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("listener", ["SASL", "SASLTLS"])
async def test_a_user_comes_in(secured: SecuredKafka, listener: str, mechanism: str) -> None:
    tls = {"ca_file": secured.certificates.authority} if listener == "SASLTLS" else {}
    security = "SASL_SSL" if tls else "SASL_PLAINTEXT"
    url = secured.url(
        listener,
        security=security,
        sasl_mechanism=mechanism,
        username=FULL,
        password_file=secured.password_file,
        **tls,
    )
    await round_trip(url, f"in-{listener}-{mechanism}")


async def test_a_client_certificate_comes_in(secured: SecuredKafka) -> None:
    keys = secured.certificates
    await round_trip(
        secured.url("TLS", security="SSL", ca_file=keys.authority, certificate_file=keys.client), "in-by-certificate"
    )


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_a_wrong_password_is_said(secured: SecuredKafka, tmp_path: Path, mechanism: str) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("hunter2")
    said = await refused(
        secured.url("SASL", security="SASL_PLAINTEXT", sasl_mechanism=mechanism, username=FULL, password_file=wrong)
    )
    assert "username" in said
    assert "password_file" in said
    assert "hunter2" not in said


async def test_an_unknown_authority_is_said(secured: SecuredKafka) -> None:
    keys = secured.certificates
    said = await refused(secured.url("TLS", security="SSL", ca_file=keys.stranger, certificate_file=keys.client))
    assert "ca_file" in said
    assert "stranger.pem" in said


async def test_a_certificate_for_another_host_is_said(secured: SecuredKafka) -> None:
    keys = secured.certificates
    url = secured.url("TLS", security="SSL", ca_file=keys.authority, certificate_file=keys.client)
    assert "ca_file" in await refused(url.replace("127.0.0.1", "localhost"))


@pytest.mark.parametrize("file", ["ca_file", "certificate_file", "password_file"])
async def test_a_file_that_is_missing_is_said(secured: SecuredKafka, file: str) -> None:
    files = {"ca_file": secured.certificates.authority, "password_file": secured.password_file, file: "/nowhere"}
    said = await refused(secured.url("SASLTLS", security="SASL_SSL", username=FULL, **files))
    assert file in said
    assert "/nowhere" in said


@pytest.mark.parametrize(
    ("listener", "security"),
    [
        (None, "SSL"),
        (None, "SASL_PLAINTEXT"),
        ("SASL", "PLAINTEXT"),
        ("SASL", "SASL_SSL"),
        ("SASLTLS", "PLAINTEXT"),
        ("SASLTLS", "SASL_PLAINTEXT"),
        ("SASLTLS", "SSL"),
        ("TLS", "PLAINTEXT"),
        ("TLS", "SASL_SSL"),
        ("TLS", "SSL"),  # without a client certificate
    ],
)
async def test_another_security_than_the_listeners_is_said(
    secured: SecuredKafka, listener: str | None, security: str
) -> None:
    options: dict[str, object] = {"security": security, "start_wait_ms": 1_000}
    if "SASL" in security:
        options |= {"username": FULL, "password_file": secured.password_file}
    if "SSL" in security:
        options |= {"ca_file": secured.certificates.authority}
    assert "security" in await refused(secured.url(listener, **options))


def msk_url(kafka: SecuredKafka) -> str:
    return kafka.url(
        "SASLTLS",
        security="SASL_SSL",
        sasl_mechanism="AWS_MSK_IAM",
        aws_region="eu-west-1",
        ca_file=kafka.certificates.authority,
    )


async def test_a_token_comes_in_on_every_connection(secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what signs is exchanged: no test has a broker of Amazon's."""
    signed: list[str] = []

    def sign(region: str) -> tuple[str, int]:
        signed.append(region)
        return secured.unsigned_token()

    monkeypatch.setattr(MSKAuthTokenProvider, "generate_auth_token", sign)
    await round_trip(msk_url(secured), "in-by-token")
    assert signed == ["eu-west-1"], "one token for all connections"


async def test_aws_credentials_that_the_broker_refuses_are_said(
    secured: SecuredKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-nobody")
    said = await refused(msk_url(secured))
    assert "refuses these AWS credentials" in said
    assert "kafka-cluster:Connect" in said
    assert "of-nobody" not in said


async def test_a_password_that_is_taken_back_is_named(secured: SecuredKafka, tmp_path: Path) -> None:
    """What was open goes on; the next connection is refused, and the error says by whom and why."""
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    url = secured.url(
        "SASL",
        security="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        username=FULL,
        password_file=password,
        call_timeout_ms=5_000,
    )
    async with open_kafka(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
        await transport.ensure(StreamConfig("taken-back"))
        # As after a change of the password at the broker: what this client knows is wrong from now on.
        transport._cluster._options["sasl_plain_password"] = "hunter2"  # noqa: S105  # nobody's
        transport._cluster._client._sasl_plain_password = "hunter2"  # noqa: S105
        for line in [line for _, line in transport._cluster._client._conns]:
            transport._cluster.drop(line)
        with pytest.raises(StreamUnavailable, match=rf"takes this client no more.*{FULL}.*password_file") as failure:
            await transport.streams()
        assert "hunter2" not in str(failure.value)
        # Why is found out at most every REFUSAL_S, and said also between.
        connections = transport._cluster
        asked_s = connections._asked_why_s
        said = await connections._why_not(1)
        assert said is not None
        assert (connections._asked_why_s == asked_s) == (time.monotonic() - asked_s < REFUSAL_S)
        assert said in connections.refused
        # A watch restarts the client of a group that is stuck: the file is read again, and it comes in.
        await connections.restart()
        assert await transport.streams()
        assert not connections.refused


@pytest.fixture
def locked_key(secured: SecuredKafka, tmp_path: Path) -> Path:
    """The client's key, encrypted; its password is PASSWORD."""
    path = tmp_path / "locked.pem"
    openssl("pkcs8", "-topk8", "-in", secured.certificates.client, "-passout", f"pass:{PASSWORD}", "-out", path)
    return path


async def test_an_encrypted_key_comes_in_with_its_password(secured: SecuredKafka, locked_key: Path) -> None:
    keys = secured.certificates
    url = secured.url(
        "TLS",
        security="SSL",
        ca_file=keys.authority,
        certificate_file=keys.client,
        key_file=locked_key,
        key_password_file=secured.password_file,
    )
    await round_trip(url, "in-by-locked-key")


async def test_an_encrypted_key_without_its_password_is_said(
    secured: SecuredKafka, locked_key: Path, tmp_path: Path
) -> None:
    keys = secured.certificates
    wrong = tmp_path / "wrong"
    wrong.write_text("hunter2")
    files = {"ca_file": keys.authority, "certificate_file": keys.client, "key_file": locked_key}
    for more in ({}, {"key_password_file": wrong}):
        said = await refused(secured.url("TLS", security="SSL", **files, **more))
        assert "key_password_file" in said
        assert "hunter2" not in said


async def test_a_host_name_is_not_looked_at_where_that_is_set(secured: SecuredKafka) -> None:
    keys = secured.certificates
    url = secured.url(
        "TLS",
        security="SSL",
        ca_file=keys.authority,
        certificate_file=keys.client,
        tls_check_host="false",
        tls_ciphers="ECDHE%2BAESGCM",
    )
    await round_trip(url.replace("127.0.0.1", "localhost"), "in-by-another-name")


async def test_ciphers_that_are_none_are_said(secured: SecuredKafka) -> None:
    assert "tls_ciphers=NONE-SUCH" in await refused(secured.url("TLS", security="SSL", tls_ciphers="NONE-SUCH"))
