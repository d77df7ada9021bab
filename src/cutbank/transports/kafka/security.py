"""Credentials and certificates: how the client is told of them, and what it means when a broker refuses them.

Owns both translations; reads the files that the settings name. Blocking file reads at start; no state.
"""

import ssl
from typing import Any

from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from cutbank.errors import UsageError
from cutbank.transports.kafka.settings import KafkaSettings

WRONG_CREDENTIALS = (AuthenticationFailedError, SaslAuthenticationFailed)
WRONG_MECHANISM = (UnsupportedSaslMechanismError, AuthenticationMethodNotSupported)


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """How aiokafka calls what the settings say. Raises UsageError: a file can't be used."""
    password = None
    if settings.password_file is not None:
        try:
            password = settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"kafka: password_file {settings.password_file} can't be read: {error}") from None
        if not password:
            raise UsageError(f"kafka: password_file {settings.password_file} is empty")
    return {
        "security_protocol": settings.security,
        "ssl_context": _tls(settings),
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.username,
        "sasl_plain_password": password,
    }


def refusal(error: BaseException, settings: KafkaSettings) -> str | None:
    """What is wrong with our settings, by the error of a connection; None for an error that may pass by itself."""
    if isinstance(error, WRONG_CREDENTIALS):
        return f"it refuses user {settings.username!r} by {settings.sasl_mechanism}; check username and password_file"
    if isinstance(error, WRONG_MECHANISM):
        return f"it does not take sasl_mechanism={settings.sasl_mechanism} here; set another one"
    if isinstance(error, IllegalSaslStateError):
        return f"this listener asks for no user; security={settings.security} is not its own"
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = settings.ca_file or "the system's certificates"
        return f"its certificate is not trusted ({error.verify_message}); ca_file is {trusted}"
    if isinstance(error, ssl.SSLError):
        why = (error.reason or str(error)).lower().replace("_", " ")
        return f"no TLS with it ({why}); check security, certificate_file and ca_file"
    return None


def _tls(settings: KafkaSettings) -> ssl.SSLContext | None:
    if settings.security not in {"SSL", "SASL_SSL"}:
        return None
    name, path = "ca_file", settings.ca_file
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.certificate_file is not None:
            name, path = "certificate_file (with key_file)", settings.certificate_file
            context.load_cert_chain(settings.certificate_file, settings.key_file)
    except OSError as error:
        raise UsageError(f"kafka: {name} {path} can't be used: {error}") from None
    return context
