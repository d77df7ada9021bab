"""What a kafka:// URL says, and how it is refused."""

import pytest

from cutbank.errors import UsageError
from cutbank.transports.kafka.settings import KafkaSettings, parse_url


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://localhost", ("localhost:9092",)),
        ("kafka://a:9093,b,c:1/", ("a:9093", "b:9092", "c:1")),
        ("kafka://[::1]:9092", ("[::1]:9092",)),
        ("kafka://[::1]", ("[::1]:9092",)),
    ],
)
def test_brokers(url: str, servers: tuple[str, ...]) -> None:
    assert parse_url(url) == (servers, KafkaSettings())


def test_parameters_set_fields() -> None:
    _, settings = parse_url("kafka://a?prefix=staging.&commit_timeout_ms=2000&compression=zstd")
    assert (settings.prefix, settings.commit_timeout_ms, settings.compression) == ("staging.", 2000, "zstd")


def test_credentials_in_the_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="password_file") as refused:
        parse_url("kafka://me:hunter2@b:9092")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("local://x", "kafka://host:9092"),
        ("kafka://", "no broker"),
        ("kafka://a:b", "'a:b'"),
        ("kafka://a:0", "'a:0'"),
        ("kafka://a:70000", "'a:70000'"),
        ("kafka://a/topic", "'a/topic'"),
        ("kafka://a?acks=1", "unknown parameter 'acks'"),
        ("kafka://a?prefix=x&prefix=y", "prefix is there twice"),
        ("kafka://a?prefix", "'prefix'"),
        ("kafka://a?prefix=%20", "prefix"),
        ("kafka://a?commit_timeout_ms=20000", "transaction_timeout_ms"),
        ("kafka://a?session_timeout_ms=1000&heartbeat_ms=500", "3 times heartbeat_ms"),
        ("kafka://a?session_timeout_ms=30000&request_timeout_ms=20000", "below request_timeout_ms"),
        ("kafka://a?session_timeout_ms=6000&stuck_ms=6000", "below stuck_ms"),
        ("kafka://a?fetch_wait_ms=30000", "below request_timeout_ms"),
        ("kafka://a?security=SASL_SSL", "username and password_file"),
        ("kafka://a?security=TLS", "security"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(url: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_url(url)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
