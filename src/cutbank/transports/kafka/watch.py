"""Notices that a group member has got no answer for too long, says so, and restarts the client. Owns no lease.

What is tried again by itself, heartbeats, reads and writes, is no matter for anybody until `stuck_ms` have passed
without one answer of the group's coordinator, or of whoever a partition is read from or written through: then the
metric stands at 1, whoever asked to be told is (readiness goes off), and the client begins again from the servers of
the URL, since all that it knows of the cluster may be out of date. While that lasts it does so again, ever more seldom:
a restart cuts off what the other partitions have under way, and they would have to fence.

Invariant: told once each time it turns, and never left at "stuck" by a watch that has ended. Event-loop only; one task.
"""

from collections.abc import Callable

import structlog

from cutbank.errors import CutbankError
from cutbank.metrics import Metrics
from cutbank.transports.base import Tell
from cutbank.transports.kafka.cluster import Cluster

log = structlog.get_logger(__name__)


class Watch:
    """Over one member and its leases."""

    def __init__(
        self,
        cluster: Cluster,
        oldest: Callable[[], tuple[float, str]],
        *,
        group: str,
        metrics: Metrics,
        tell: Tell,
    ) -> None:
        """`oldest`: since when, on the monotonic clock, what has got no answer; of all, the one for the longest."""
        self._cluster = cluster
        self._oldest = oldest
        self._group = group
        self._metrics = metrics
        self._tell = tell
        self._stuck = False

    async def run(self) -> None:
        """Until cancelled."""
        settings, clock = self._cluster.settings, self._cluster.clock
        limit_s = settings.stuck_ms / 1000
        restart_s = limit_s
        failed = False
        self._metrics.set("cutbank_group_stuck", 0, group=self._group)
        try:
            while True:
                await clock.sleep(settings.heartbeat_ms / 1000)
                since_s, what = self._oldest()
                silent_s = clock.monotonic_s() - since_s
                refused = f": {self._cluster.refused}" if self._cluster.refused else ""
                self._turn(silent_s > limit_s, f"group {self._group}: {what} for {silent_s:.0f} s{refused}")
                if not self._stuck:
                    restart_s, failed = limit_s, False
                elif silent_s > restart_s:
                    # One that fails cuts nothing off: the next look tries again.
                    failed = not await self._restart(said=failed)
                    restart_s = restart_s if failed else 2 * silent_s
        finally:
            self._turn(False, "")

    def _turn(self, stuck: bool, why: str) -> None:  # noqa: FBT001  # what it turns to
        if stuck == self._stuck:
            return
        self._stuck = stuck
        self._metrics.set("cutbank_group_stuck", int(stuck), group=self._group)
        if stuck:
            log.error("the group is stuck", group=self._group, why=why)
            self._tell(False, why)
        else:
            log.info("the group answers again", group=self._group)
            self._tell(True, "")

    async def _restart(self, *, said: bool) -> bool:
        """Whether there is a new client; `said`: the log has it already that there is none."""
        self._metrics.add("cutbank_retries_total", operation="client_restart")
        try:
            await self._cluster.restart()
        except CutbankError as error:
            if not said:
                log.warning("the Kafka client can't be restarted", group=self._group, why=str(error))
            return False
        log.warning("the Kafka client was restarted", group=self._group)
        return True
