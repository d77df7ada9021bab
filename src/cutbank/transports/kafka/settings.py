"""What can be set on the Kafka transport, and the URL that names a cluster. Values only; no I/O.

`kafka://host:9092,host2:9092`; query parameters set the fields of `KafkaSettings`, as in
`kafka://broker:9093?security=SASL_SSL&sasl_mechanism=SCRAM-SHA-512&username=me&password_file=/run/secrets/kafka`.
"""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote

from pydantic import Field, model_validator

from cutbank.errors import UsageError
from cutbank.settings import Settings, settings_of

SCHEME = "kafka"

PORT_DEFAULT = 9092

SESSION_BEATS_MIN = 3
"""A session time-out spans at least as many heartbeats, so that one late beat loses nothing."""


class KafkaSettings(Settings):
    """How this process uses a cluster. Every field is a parameter of the URL."""

    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Encryption and authentication, by the names of Kafka's security.protocol."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "AWS_MSK_IAM"] = "PLAIN"
    """How to authenticate, with a SASL_ security. AWS_MSK_IAM signs with the AWS credentials that are found the usual
    way (environment, profile, role of the machine or pod), and needs the extra msk-iam."""
    username: str | None = Field(default=None, min_length=1)
    """Who authenticates."""
    password_file: Path | None = None
    """A file with the password, so that it stands in no URL, log or process list; a line end after it is left out."""
    aws_region: str | None = Field(default=None, pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]+$")
    """With AWS_MSK_IAM: the cluster's region; by default as the brokers' names tell it, such as
    b-1.x.kafka.eu-west-1.amazonaws.com."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust instead of the system's."""
    certificate_file: Path | None = None
    """This client's certificate (PEM), for mutual TLS."""
    key_file: Path | None = None
    """This client's key (PEM), unless it is in `certificate_file`."""
    key_password_file: Path | None = None
    """A file with the password of an encrypted key; a line end after it is left out."""
    tls_ciphers: str | None = Field(default=None, min_length=1)
    """Ciphers to offer up to TLS 1.2, as OpenSSL writes them; its own choice by default. Those of TLS 1.3 are fixed."""
    tls_check_host: bool = True
    """Whether a broker's certificate must be for the host name that it is reached by."""
    client_id: str | None = Field(default=None, min_length=1, max_length=249)
    """What brokers call this client in logs, metrics and quotas; `cutbank` by default."""
    old_brokers: Literal["refuse", "accept"] = "refuse"
    """Apache Kafka before 3.9.1 has KAFKA-17507: what a fence relies on may be stale. `accept` only where the brokers'
    maker has put the fix in."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    """How batches of records are packed."""
    prefix: str = Field(default="", max_length=200, pattern=r"^[a-zA-Z0-9._-]*$")
    """Put before the name of every topic, group and transactional id, so that deployments can share a cluster."""
    group_instance_id: str | None = Field(default=None, min_length=1, max_length=249)
    """Static membership: a name that is this process's alone and the same after a restart, so that a restart within
    the session time-out moves no partition. Two processes with one name: the older one stops with an error."""
    heartbeat_ms: int = Field(default=1_000, ge=50, le=60_000)
    """Pause between two heartbeats of a group member, ms, 50 to 60000."""
    session_timeout_ms: int = Field(default=10_000, ge=1_000, le=1_800_000)
    """A member that the coordinator has not heard for so long has left, ms; at least 3 heartbeats. The broker's
    group.min.session.timeout.ms and group.max.session.timeout.ms bound it (6 s and 30 min by default)."""
    hand_over_ms: int = Field(default=10_000, ge=0, le=600_000)
    """Time to give a revoked partition back, ms; then it is taken away."""
    commit_timeout_ms: int = Field(default=8_000, ge=100, le=600_000)
    """Deadline of one publish with its commit, ms; shorter than request_timeout_ms and transaction_timeout_ms."""
    transaction_timeout_ms: int = Field(default=10_000, ge=200, le=900_000)
    """The broker aborts a transaction that is open for so long, ms; until then it holds up readers behind it."""
    request_timeout_ms: int = Field(default=30_000, ge=200, le=600_000)
    """How long one request may take, ms, before its connection is given up."""
    call_timeout_ms: int = Field(default=10_000, ge=100, le=600_000)
    """How long any other call tries again, ms, before it raises StreamUnavailable."""
    try_timeout_ms: int = Field(default=3_000, ge=50, le=600_000)
    """How long one try of a call waits for one broker, ms, so that a broker that hangs leaves time to ask who has taken
    its place; after a lost answer the next try waits twice as long, up to the end of the call."""
    start_wait_ms: int = Field(default=60_000, ge=1, le=3_600_000)
    """How long to wait at start for a broker that can be reached, ms, since clusters start in any order; then it is a
    wrong setting."""
    retry_ms: int = Field(default=1, ge=1, le=10_000)
    """First pause before a request is sent again, ms; doubles up to `retry_ms_max`."""
    retry_ms_max: int = Field(default=250, ge=1, le=10_000)
    """Longest pause before a request is sent again, ms."""
    fetch_bytes_max: int = Field(default=1 << 20, ge=1 << 10, le=64 << 20)
    """Most bytes, as they lie in the log, that one fetch of a partition brings; a larger batch comes alone."""
    fetches_bytes_max: int = Field(default=32 << 20, ge=1 << 20, le=16 << 30)
    """Most bytes that the fetches of all partitions of a group member bring together, 1 MiB and up: each asks for an
    equal part, of 64 KiB at least."""
    fetch_wait_ms: int = Field(default=500, ge=1, le=30_000)
    """How long the broker holds a fetch back while there is nothing to give, ms."""
    fetch_bytes_min: int = Field(default=1, ge=1, le=64 << 20)
    """The broker holds a fetch back until it has so many bytes, or `fetch_wait_ms` have passed; more than 1 makes
    fewer, larger fetches, each later."""
    batch_bytes_max: int = Field(default=512 << 10, ge=1 << 10, le=16 << 20)
    """Values and keys in one batch of records, bytes, before compression; a larger record is a batch of its own."""
    metadata_ms: int = Field(default=10_000, ge=50, le=3_600_000)
    """Pause between two looks for added partitions of the streams that a group reads, ms."""
    metadata_max_age_ms: int = Field(default=300_000, ge=1_000, le=3_600_000)
    """How old the brokers' addresses may be before they are asked for again, ms."""
    connections_max_idle_ms: int = Field(default=540_000, ge=1_000, le=86_400_000)
    """A connection that nobody has used for so long is closed, ms; below the broker's own connections.max.idle.ms."""
    leases_max: int = Field(default=256, ge=1, le=10_000)
    """Most partitions, each with a transactional producer and up to three connections to each broker it needs, that
    this process holds of one group; what it is given beyond waits, loudly."""
    stuck_ms: int = Field(default=20_000, ge=1_000, le=3_600_000)
    """A group member that has got no answer for so long, be it from the group's coordinator or for a partition that it
    reads or writes, is stuck, ms: readiness off, and the client is restarted."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.session_timeout_ms < SESSION_BEATS_MIN * self.heartbeat_ms:
            raise ValueError(
                f"session_timeout_ms ({self.session_timeout_ms}) must be at least {SESSION_BEATS_MIN} times "
                f"heartbeat_ms ({self.heartbeat_ms})"
            )
        if self.commit_timeout_ms >= min(self.request_timeout_ms, self.transaction_timeout_ms):
            raise ValueError(
                f"commit_timeout_ms ({self.commit_timeout_ms}) must be below request_timeout_ms "
                f"({self.request_timeout_ms}) and transaction_timeout_ms ({self.transaction_timeout_ms})"
            )
        if self.session_timeout_ms >= self.request_timeout_ms:
            raise ValueError(
                f"session_timeout_ms ({self.session_timeout_ms}) must be below request_timeout_ms "
                f"({self.request_timeout_ms}): to join a group may take that long"
            )
        if self.session_timeout_ms >= self.stuck_ms:
            raise ValueError(
                f"session_timeout_ms ({self.session_timeout_ms}) must be below stuck_ms ({self.stuck_ms}): "
                "to join a group may take that long"
            )
        if self.fetch_wait_ms >= self.request_timeout_ms:
            raise ValueError(
                f"fetch_wait_ms ({self.fetch_wait_ms}) must be below request_timeout_ms ({self.request_timeout_ms})"
            )
        if self.fetch_bytes_min > self.fetch_bytes_max:
            raise ValueError(
                f"fetch_bytes_min ({self.fetch_bytes_min}) must not be above fetch_bytes_max ({self.fetch_bytes_max})"
            )
        self._check_credentials()
        return self

    def _check_credentials(self) -> None:
        if self.sasl_mechanism == "AWS_MSK_IAM":
            if self.security != "SASL_SSL":
                raise ValueError("sasl_mechanism=AWS_MSK_IAM needs security=SASL_SSL")
            if self.username is not None or self.password_file is not None:
                raise ValueError("sasl_mechanism=AWS_MSK_IAM takes no username and password_file")
        elif self.security.startswith("SASL_") and (self.username is None or self.password_file is None):
            raise ValueError(f"security={self.security} needs username and password_file")
        if self.key_password_file is not None and self.certificate_file is None:
            raise ValueError("key_password_file needs certificate_file")


def _servers(url: str, text: str) -> tuple[str, ...]:
    servers = []
    for part in text.rstrip("/").split(","):
        host, colon, port = part.rpartition(":")
        if not colon or part.endswith("]"):
            host, port = part, str(PORT_DEFAULT)
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16) or "/" in host:
            raise UsageError(f"transport URL {url!r}: {part!r} is no broker; write for example kafka://localhost:9092")
        servers.append(f"{unquote(host)}:{port}")
    return tuple(servers)


def parse_url(url: str) -> tuple[tuple[str, ...], KafkaSettings]:
    """Brokers to begin with and settings. Raises UsageError: one line that names the part that is wrong."""
    scheme, separator, rest = url.partition("://")
    if scheme != SCHEME or not separator:
        raise UsageError(f"transport URL {url!r}: expected kafka://host:9092,host2:9092")
    hosts, _, _ = rest.partition("?")
    if "@" in hosts:
        # Not repeated: what stands before the @ may be a secret.
        raise UsageError("transport URL kafka://…@…: no credentials in it; name username and password_file behind a ?")
    servers = _servers(url, hosts)
    return servers, settings_of("transport URL", url, KafkaSettings)
