"""Who comes in on a real broker with users, certificates and permissions, and what is said to who does not."""

from pathlib import Path

import pytest

from brokers.secured import FULL, MECHANISMS, SecuredKafka
from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.records import Message
from cutbank.transports.base import StreamConfig, Transport
from cutbank.transports.kafka import open_kafka


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
