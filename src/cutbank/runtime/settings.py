"""The settings that every service has. A service's own class adds its fields to these.

Values only; the environment is passed in by whoever starts the service.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from cutbank.settings import Settings


class ServiceSettings(Settings):
    """What every service is told."""

    transport_url: str = Field(default="local://data/log.db", min_length=1)
    """The log that holds the streams: local://PATH, the embedded log, or kafka://HOST:9092, a Kafka cluster."""
    spec: Path | None = None
    """The pipeline spec, a TOML file (`cutbank init` writes one); none: the defaults, the stock trades of the demo."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """Logs on stderr: json is an object a line, console is for people; auto: console on a terminal, else json."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged: debug, info, warning or error."""
    http_host: str = Field(default="127.0.0.1", min_length=1)
    """Address that /healthz, /readyz and /metrics listen on; 0.0.0.0 in a container, for its probes."""
    http_port: int | None = Field(default=0, ge=0, le=65535)
    """Port of /healthz, /readyz and /metrics, 1 to 65535; 0 picks a free one and logs it; off: no server."""
    grace_s: float = Field(default=25.0, gt=0.0, le=3600.0, allow_inf_nan=False)
    """Seconds to drain in after SIGTERM or SIGINT, above 0 to 3600; what still runs then is cut off."""

    @field_validator("http_port", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value == "off" else value

    @field_validator("spec", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "" else value
