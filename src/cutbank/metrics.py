"""The metrics sink that adapters are given, so that they need not know what collects them.

`runtime.metrics` implements it with Prometheus. Names are the metric's full Prometheus name; every name used in the
code is declared in `runtime.metrics`, which refuses others.
"""

from typing import Protocol


class Metrics(Protocol):
    """Where figures go. Every call is cheap, thread-safe and never raises for a declared name."""

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        """Count up by `value` >= 0."""
        ...

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add one observation to a histogram; seconds or bytes, as the name says."""
        ...


class NoMetrics:
    """Drops everything: for tools and tests that look at none."""

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        """Nothing."""

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Nothing."""

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Nothing."""
