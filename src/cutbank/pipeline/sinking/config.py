"""What a sink is told, and what all partitions of one sink share. Values and handles; no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from cutbank.errors import UsageError
from cutbank.pipeline.sinking.claims import Layout
from cutbank.pipeline.sinking.parquet import parquet_check
from cutbank.pipeline.sinking.prefix import layout_check
from cutbank.transports.base import Start

STRETCH_BYTES_MAX = 128 << 20
"""No size setting exceeds this, so that every process can finish any claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkConfig:
    """A sink's settings. All but `pipeline` may change at any restart; each stream that is sunk has its own chains."""

    pipeline: str
    """Part of every claim's key and of the group's name."""
    stream: str
    """The stream that is sunk."""
    start: Start = field(default_factory=Start)
    """Where a chain begins, resolved once, at its birth: the oldest record retained by default."""
    layout: Layout = field(default_factory=Layout)
    """How new claims lay out their objects."""
    beside: Mapping[str, Layout] = field(default_factory=dict)
    """Streams that are sunk beside it by the same process and group, such as the errors, each in its own layout."""
    stretch_bytes_max: int = 16 << 20
    """Most bytes of a claim's lines as newline-delimited JSON, 1 to 128 MiB; only a single larger record makes more."""
    stretch_records_max: int = 500_000
    """Most records of a claim, at least 1."""
    held_bytes_max: int = 256 << 20
    """Most memory for records held and the bodies made of them, all partitions together, bytes, at least 1 MiB."""
    grace_ms: int = 2000
    """How long after a minute's end, by broker time, its last records are waited for, ms."""
    flush_on_stop: bool = False
    """True: a stop or hand-over makes an object of what is held. False: the next owner reads it again."""
    accept_lost: bool = False
    """True: where records are past retention and objects are missing, write `.lost` and go on."""
    stream_wait_s: float = 60.0
    """How long the stream is waited for at the start, seconds, at least 0: services start in any order."""
    spec_hash: str | None = None
    """Recorded in the claims, where it is known."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        bounds = (
            ("stretch_bytes_max", self.stretch_bytes_max, 1, STRETCH_BYTES_MAX),
            ("stretch_records_max", self.stretch_records_max, 1, 10_000_000),
            ("held_bytes_max", self.held_bytes_max, 1 << 20, 1 << 40),
            ("grace_ms", self.grace_ms, 0, 3_600_000),
            ("stream_wait_s", self.stream_wait_s, 0, 86_400),
        )
        for name, value, least, most in bounds:
            if not least <= value <= most:
                raise UsageError(f"{name}: {value} is not in {least} to {most}")
        if self.stream in self.beside:
            raise UsageError(f"stream {self.stream!r} is sunk twice: two streams need two names")
        for layout in (self.layout, *self.beside.values()):
            layout_check(layout)
            if layout.format == "parquet":
                parquet_check()

    @property
    def streams(self) -> tuple[str, ...]:
        """Every stream that is sunk."""
        return (self.stream, *self.beside)

    def of(self, stream: str) -> Self:
        """What holds for one of the streams: the same settings with its layout, and no other stream beside it."""
        layout = self.layout if stream == self.stream else self.beside[stream]
        return replace(self, stream=stream, layout=layout, beside={})

    @property
    def group(self) -> str:
        """The consumer group."""
        return f"{self.pipeline}.sink"
