"""One partition's lag as metrics: what is unread, and what is on its way into objects.

Told by the worker after each batch, and by a task of its own where the worker hangs, in a put or waiting for room.
Event-loop only; one a partition.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cutbank.clock import Clock
from cutbank.errors import CutbankError, StreamUnavailable
from cutbank.metrics import Metrics
from cutbank.records import Batch
from cutbank.transports.base import Lease

LAG_S = 1.0
"""How often lag is asked for, seconds."""


class Gauges:
    """One partition's."""

    def __init__(self, lease: Lease, *, clock: Clock, metrics: Metrics) -> None:
        self._lease = lease
        self._clock = clock
        self._metrics = metrics
        self._told_s: float | None = None
        self._newest_ms: int | None = None
        self._cutting = 0

    async def tell(self, batch: Batch) -> None:
        """After each batch; asks the log at most every `LAG_S`."""
        if not len(batch):
            self._set(self._cutting)
            return
        self._newest_ms = batch.arrivals_ms[-1]
        if self._told_s is None or self._clock.monotonic_s() - self._told_s >= LAG_S:
            with suppress(StreamUnavailable):  # A figure is not worth what is held.
                self._set(await self._lease.lag() + self._cutting)

    async def keep_telling(self) -> None:
        """Once a batch was taken: whenever the worker has told nothing for `LAG_S`."""
        while True:
            await self._clock.sleep(LAG_S)
            if self._told_s is None or self._clock.monotonic_s() - self._told_s < LAG_S:
                continue
            with suppress(CutbankError):  # the worker meets it too
                self._set(await self._lease.lag() + self._cutting)

    @contextmanager
    def cutting(self, records: int) -> Iterator[None]:
        """As long as these records are on their way into objects."""
        self._cutting += records
        try:
            yield
        finally:
            self._cutting -= records

    def clear(self) -> None:
        """The partition is somebody else's to report now."""
        self._newest_ms = None
        self._set(0)

    def _set(self, records: int) -> None:
        self._told_s = self._clock.monotonic_s()
        age_s = 0.0
        if records and self._newest_ms is not None:
            age_s = max(0.0, (self._clock.now_ms() - self._newest_ms) / 1000.0)
        partition = str(self._lease.partition)
        self._metrics.set("cutbank_lag_records", records, role="sink", partition=partition)
        self._metrics.set("cutbank_lag_seconds", age_s, role="sink", partition=partition)
