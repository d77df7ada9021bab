"""Credentials and certificates: how the client is told of them, and what it means when a broker refuses them.

Owns both translations; reads the files that the settings name. Blocking file reads at start; no state.
"""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from cutbank.clock import Clock
from cutbank.errors import UsageError
from cutbank.transports.kafka.msk import MSK_IAM, MskTokens, TokenUnavailable, region_of
from cutbank.transports.kafka.settings import KafkaSettings

WRONG_CREDENTIALS = (AuthenticationFailedError, SaslAuthenticationFailed)
WRONG_MECHANISM = (UnsupportedSaslMechanismError, AuthenticationMethodNotSupported)


async def client_options(settings: KafkaSettings, servers: Sequence[str], clock: Clock) -> dict[str, Any]:
    """How aiokafka calls what the settings say.

    Raises UsageError: a file can't be used, or no AWS credentials are found; MissingExtra.
    """
    options = {"security_protocol": settings.security, "ssl_context": _tls(settings)}
    if settings.sasl_mechanism != MSK_IAM:
        password = None if settings.password_file is None else _secret("password_file", settings.password_file)
        return {
            **options,
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.username,
            "sasl_plain_password": password,
        }
    tokens = MskTokens(region_of(settings, servers), clock)
    try:
        await tokens.token()  # what is missing is said now, not by each connection
    except TokenUnavailable as error:
        raise UsageError(f"kafka: {error}") from None
    return {**options, "sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": tokens}


def refusal(error: BaseException, settings: KafkaSettings) -> str | None:
    """What is wrong with our settings, by the error of a connection; None for an error that may pass by itself."""
    if isinstance(error, TokenUnavailable):
        return str(error)
    if isinstance(error, WRONG_CREDENTIALS):
        if settings.sasl_mechanism == MSK_IAM:
            return "it refuses these AWS credentials; check the identity's kafka-cluster:Connect and aws_region"
        return f"it refuses user {settings.username!r} by {settings.sasl_mechanism}; check username and password_file"
    if isinstance(error, WRONG_MECHANISM):
        return f"it does not take sasl_mechanism={settings.sasl_mechanism} here; set another one"
    if isinstance(error, IllegalSaslStateError):
        return f"this listener asks for no user; security={settings.security} is not its own"
    return _tls_refusal(error, settings) if isinstance(error, ssl.SSLError) else None


def _tls_refusal(error: ssl.SSLError, settings: KafkaSettings) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = settings.ca_file or "the system's certificates"
        return f"its certificate is not trusted ({error.verify_message}); ca_file is {trusted}"
    why = (error.reason or str(error)).lower().replace("_", " ")
    return f"no TLS with it ({why}); check security, certificate_file and ca_file"


def _secret(name: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"kafka: {name} {path} can't be read: {error}") from None
    if not text:
        raise UsageError(f"kafka: {name} {path} is empty")
    return text


def _tls(settings: KafkaSettings) -> ssl.SSLContext | None:
    if settings.security not in {"SSL", "SASL_SSL"}:
        return None
    # Without a password of ours OpenSSL would ask for one at the terminal.
    password = "" if settings.key_password_file is None else _secret("key_password_file", settings.key_password_file)
    name, path = "ca_file", settings.ca_file
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        context.check_hostname = settings.tls_check_host
        if settings.certificate_file is not None:
            name, path = "certificate_file (with key_file, key_password_file)", settings.certificate_file
            context.load_cert_chain(settings.certificate_file, settings.key_file, password)
    except OSError as error:
        raise UsageError(f"kafka: {name} {path} can't be used: {error}") from None
    if settings.tls_ciphers is not None:
        try:
            context.set_ciphers(settings.tls_ciphers)
        except ssl.SSLError:
            raise UsageError(f"kafka: tls_ciphers={settings.tls_ciphers} names no cipher that OpenSSL has") from None
    return context
