"""Whether a service lives and is ready, as its parts report it. Owns the reports; `endpoints` answers HTTP with them.

Live: the event loop turns. Ready: at least one check was reported, and the last report of each is ok.
Event-loop only; no I/O, no task of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

LATE_S = 10.0
"""A loop whose beat is later than this does not live, seconds."""

CHECKS_MAX = 1000
"""Most checks at a time: one a partition, and a few; more is a bug."""


@dataclass(frozen=True, slots=True)
class Check:
    """The last report on one part of the service."""

    ok: bool
    why: str = ""


class Health:
    """A service's state of health. `on_change(ready, why)` is told whenever readiness as a whole turns."""

    def __init__(self, *, on_change: Callable[[bool, str], None] | None = None) -> None:
        self._checks: dict[str, Check] = {}
        self._on_change = on_change
        self._was_ready = False
        self._late_s = 0.0

    def ready(self, name: str, ok: bool, why: str = "") -> None:  # noqa: FBT001  # the interface that services use
        """Report on one part (`transport`, `partition 0`): whether it is ready, and why not."""
        assert name in self._checks or len(self._checks) < CHECKS_MAX, "checks are bounded"
        self._checks[name] = Check(ok, why)
        self._tell()

    def forget(self, name: str) -> None:
        """Drop a check whose part is gone, such as a partition given back. A missing one is no error."""
        self._checks.pop(name, None)
        self._tell()

    def beat(self, late_s: float) -> None:
        """The supervisor's beat came, this much later than it should have, seconds."""
        self._late_s = late_s

    def live(self) -> bool:
        """Whether the event loop turned when it last should have."""
        return self._late_s < LATE_S

    @property
    def checks(self) -> dict[str, Check]:
        """The last report of every part, in the order of their first."""
        return dict(self._checks)

    @property
    def is_ready(self) -> bool:
        """Whether all parts are ready; False before the first report."""
        return bool(self._checks) and all(check.ok for check in self._checks.values())

    def why_not(self) -> str:
        """One line that names every part that is not ready, and why; empty if ready."""
        if not self._checks:
            return "nothing was reported yet"
        return "; ".join(f"{name}: {check.why or 'not ready'}" for name, check in self._checks.items() if not check.ok)

    def _tell(self) -> None:
        if self.is_ready != self._was_ready:
            self._was_ready = self.is_ready
            if self._on_change is not None:
                self._on_change(self._was_ready, self.why_not())
