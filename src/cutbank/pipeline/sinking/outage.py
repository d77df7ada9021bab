"""Says that the store is away: in the log (not a line a call), as a metric, and to whoever asks if the sink is ready.

Owns what is known of the store's answers in this process, all partitions together. Decides nothing: calls are made
again whatever it says. Event-loop only.
"""

from collections.abc import Callable

import structlog

from cutbank.clock import Clock
from cutbank.metrics import Metrics

log = structlog.get_logger(__name__)

SAY_EVERY_S = 30.0
"""At most one line in so many seconds says that the store is away."""

UNREADY_AFTER_S = 10.0
"""Once calls have failed for so long and none was answered, the sink is not ready, seconds."""

Ready = Callable[[str, bool, str], None]


def tell_nobody(name: str, ok: bool, why: str = "") -> None:  # noqa: FBT001  # the shape of Health.ready
    """Where nobody asked."""


class StoreWatch:
    """One process's store."""

    def __init__(self, *, clock: Clock, metrics: Metrics, ready: Ready = tell_nobody) -> None:
        self._clock = clock
        self._metrics = metrics
        self._ready = ready
        self._since_s: float | None = None
        self._said_s: float | None = None
        self._failed = 0
        self._told = False
        self._unready = False

    def failed(self, operation: str, error: BaseException) -> None:
        """A call was not answered, or with "not now"."""
        now_s = self._clock.monotonic_s()
        if self._since_s is None:
            self._since_s = now_s
        self._failed += 1
        away_s = now_s - self._since_s
        self._metrics.set("cutbank_store_away_seconds", away_s)
        if self._said_s is None or now_s - self._said_s >= SAY_EVERY_S:
            self._said_s, self._told = now_s, True
            log.warning(
                "store unavailable: positions are held, calls are made again",
                away_s=round(away_s, 1),
                calls_failed=self._failed,
                operation=operation,
                why=str(error),
            )
        if away_s >= UNREADY_AFTER_S:
            self._unready = True
            self._ready("store", False, f"unavailable for {away_s:.0f} s: {error}")

    def answered(self) -> None:
        """A call was answered, whatever it said."""
        if self._since_s is None:
            return
        if self._told:
            away_s = self._clock.monotonic_s() - self._since_s
            log.info("store available again", away_s=round(away_s, 1), calls_failed=self._failed)
        if self._unready:
            self._ready("store", True, "")
        self._metrics.set("cutbank_store_away_seconds", 0.0)
        self._since_s, self._failed, self._told, self._unready = None, 0, False, False
