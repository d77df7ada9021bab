"""Keeps secrets out of what people read: logs and error lines. Pure functions over text."""

import re

MASK = "***"

_IN_URL = re.compile(r"(?<=://)([^\s/:@]*):([^\s/]*)@")
_NAMED = re.compile(
    r"(?i)\b([\w.-]*(?:password|passwd|secret|token|access_key|api_key))(['\"]?\s*[=:]\s*['\"]?)([^\s&,;'\"}]+)"
)
_NAME = re.compile(r"(?i)(password|passwd|secret|token|access_key|api_key)")


def mask_secrets(text: str) -> str:
    """The text with the passwords of URLs and the values of `password=…`, `token: …` and the like masked."""
    return _NAMED.sub(rf"\1\2{MASK}", _IN_URL.sub(rf"\1:{MASK}@", text))


def names_secret(key: str) -> bool:
    """Whether a field of this name holds a secret."""
    return _NAME.search(key) is not None
