"""A broker that asks who comes, for tests of credentials, certificates and permissions. Owns its keys and users.

Listeners besides the open ones: SASL (PLAIN, SCRAM-SHA-256 and -512 in the clear), SASLTLS (the same over TLS) and TLS
(a client certificate is asked for). `FULL` and the client certificate may do everything, `LIMITED` what `allow` gives.
SASLTLS also takes unsigned tokens by OAUTHBEARER, with which `TOKEN_USER` may do everything.
Certificates are made anew each time by the openssl program; nothing outlives the test session.
"""

import asyncio
import base64
import json
import subprocess
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DescribeAclsRequest

from brokers.jars import program
from brokers.kafka_server import READY_S, KafkaCluster

FULL, LIMITED, TOKEN_USER = "full", "limited", "token-user"
PASSWORD = "of-the-tests"  # noqa: S105  # for a broker on the loopback that lives as long as the tests
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LISTENERS = {"SASL": "SASL_PLAINTEXT", "SASLTLS": "SASL_SSL", "TLS": "SSL"}
_DAYS = "30"
_PAUSE_S = 0.01
_LITERAL, _PREFIXED = 3, 4
_ALLOW = 3


class Resource(IntEnum):
    """What a permission is about, by the protocol's numbers."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5


class Operation(IntEnum):
    """What is permitted, by the protocol's numbers."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, and a server and a client that it vouches for; a stranger that it does not."""

    authority: Path
    server: Path
    """Key and chain in one file, as the broker takes it."""
    client: Path
    """Key and certificate in one file."""
    stranger: Path
    """An authority that has signed nothing here."""


def certificates(folder: Path) -> Certificates:
    """Make them. Raises ServerUnavailable without openssl."""
    authority, authority_key = _authority(folder, "authority")
    stranger, _ = _authority(folder, "stranger")
    return Certificates(
        authority=authority,
        server=_signed(folder, "server", "subjectAltName=IP:127.0.0.1", authority, authority_key),
        client=_signed(folder, "client", "basicConstraints=CA:FALSE", authority, authority_key),
        stranger=stranger,
    )


def openssl(*arguments: str | Path) -> None:
    path = program("openssl", "install openssl")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr}")


def _authority(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", _DAYS, "-subj", f"/CN={name}",
             "-keyout", key, "-out", certificate)  # fmt: skip
    return certificate, key


def _signed(folder: Path, name: str, extension: str, authority: Path, authority_key: Path) -> Path:
    key, request, certificate = (folder / f"{name}.{ending}" for ending in ("key", "csr", "crt"))
    extensions = folder / f"{name}.ext"
    extensions.write_text(extension + "\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    openssl("x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial",
             "-days", _DAYS, "-extfile", extensions, "-out", certificate)  # fmt: skip
    both = folder / f"{name}.pem"
    both.write_text(key.read_text() + certificate.read_text())
    return both


class SecuredKafka:
    """One broker with these listeners; a context manager that runs it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.certificates = certificates(folder)
        self.password_file = folder / "password"
        self.password_file.write_text(PASSWORD + "\n")
        scram = [f"{m}=[name={user},password={PASSWORD}]" for user in (FULL, LIMITED) for m in MECHANISMS[1:]]
        self._cluster = KafkaCluster(
            folder / "kafka",
            listeners=LISTENERS,
            properties=_properties(self.certificates),
            format_options=[word for user in scram for word in ("--add-scram", user)],
        )

    def __enter__(self) -> Self:
        self._cluster.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.__exit__(*error)

    def servers(self, listener: str | None = None) -> str:
        """host:port of a listener; None: of the open one, where everybody may do everything."""
        return self._cluster.bootstrap_servers if listener is None else self._cluster.servers_of(listener)

    def url(self, listener: str | None = None, **options: object) -> str:
        """The transport's URL with these parameters."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"kafka://{self.servers(listener)}" + (f"?{query}" if query else "")

    def sasl_url(self, user: str, **options: object) -> str:
        """As `user`, by PLAIN on the listener without TLS."""
        return self.url(
            "SASL", security="SASL_PLAINTEXT", username=user, password_file=self.password_file, **options
        )  # fmt: skip

    def unsigned_token(self) -> tuple[str, int]:
        """A token that the broker takes for TOKEN_USER's, and when it ends, ms since the epoch."""
        now_s = time.time()
        claims = {"sub": TOKEN_USER, "iat": now_s, "exp": now_s + 900}
        parts = [
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in ({"alg": "none"}, claims)
        ]
        return f"{parts[0]}.{parts[1]}.", int((now_s + 900) * 1000)

    async def allow(self, resource: Resource, name: str, *operations: Operation, prefixed: bool = False) -> None:
        """Permit LIMITED this; returns when the broker goes by it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers())
        await admin.start()
        try:
            for operation in operations:
                pattern = _PREFIXED if prefixed else _LITERAL
                entry = (resource, name, pattern, f"User:{LIMITED}", "*", operation, _ALLOW)
                # The admin client has no public way to send these.
                answer = await admin._send_request(CreateAclsRequest(*entry))
                assert [code for code, _ in answer.creation_responses] == [0], answer
                async with asyncio.timeout(READY_S):
                    while True:
                        if (await admin._send_request(DescribeAclsRequest(*entry))).resources:
                            break
                        await asyncio.sleep(_PAUSE_S)
        finally:
            await admin.close()


def _properties(keys: Certificates) -> dict[str, str]:
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    users = " ".join(f'user_{user}="{PASSWORD}"' for user in (FULL, LIMITED))
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{FULL};User:{TOKEN_USER};User:CN=client",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keys.server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(keys.authority),
        "listener.name.tls.ssl.client.auth": "required",
    }
    for listener in ("sasl", "sasltls"):
        properties[f"listener.name.{listener}.sasl.enabled.mechanisms"] = ",".join(MECHANISMS)
        properties[f"listener.name.{listener}.plain.sasl.jaas.config"] = f"{plain} {users};"
        for mechanism in MECHANISMS[1:]:
            properties[f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config"] = scram
    bearer = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
    properties["listener.name.sasltls.sasl.enabled.mechanisms"] += ",OAUTHBEARER"
    properties["listener.name.sasltls.oauthbearer.sasl.jaas.config"] = f'{bearer} unsecuredLoginStringClaim_sub="x";'
    return properties
