"""Times as people type them. Pure."""

from datetime import UTC, datetime
from typing import Final

_DATE_DIGITS: Final = 8
"""Of `20261122`."""


def time_ms(text: str) -> int:
    """ISO 8601 (UTC unless it names an offset) or milliseconds since the epoch, as the latter. Raises ValueError.

    Eight digits are a date, as in ISO 8601, and not a time in the first day of 1970.
    """
    if text.isascii() and text.isdigit() and len(text) != _DATE_DIGITS:
        return int(text)
    moment = datetime.fromisoformat(text)
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def time_text(time_ms: int) -> str:
    """A minute in UTC: `2026-11-22 23:00Z`."""
    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%d %H:%MZ}"
