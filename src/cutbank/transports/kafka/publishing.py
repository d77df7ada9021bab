"""Publishes outside of groups: one transaction a call. Owns this handle's own transactional id.

The id is new with every handle, so nobody but the broker (after its transaction time-out) can cut it off; then another
one is made. Invariant: one transaction at a time, in the order of the calls; a call that is cancelled runs to its end.
Event-loop only.
"""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from cutbank.errors import CutbankError, Fenced, StreamUnavailable
from cutbank.records import Message
from cutbank.transports.kafka.cluster import Cluster
from cutbank.transports.kafka.routing import Router
from cutbank.transports.kafka.transaction import Records, Transactions


class Publisher:
    """One handle's publishes."""

    def __init__(self, cluster: Cluster, router: Router) -> None:
        self._cluster = cluster
        self._router = router
        self._lock = asyncio.Lock()
        self._transactions: Transactions | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for what is under way, which its deadlines bound."""
        if self._running:
            await asyncio.wait(self._running)
        if self._transactions is not None:
            self._transactions.close()

    async def publish(self, messages: Sequence[Message]) -> None:
        """All messages in one transaction. Raises as `transports.base.Transport.publish` says."""
        task = asyncio.get_running_loop().create_task(self._publish(messages))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def _publish(self, messages: Sequence[Message]) -> None:
        async with self._lock:
            routed = await self._router.messages(messages)
            try:
                await self._commit(routed)
            except Fenced as error:
                # Nobody else has this id: the broker has aborted what was open for too long.
                self._forget()
                raise StreamUnavailable(f"publish: {error}") from None
            except CutbankError as error:
                if not error.retryable:
                    self._forget()
                raise

    async def _commit(self, routed: Records) -> None:
        if self._transactions is None:
            name = f"{self._cluster.settings.prefix}cutbank.publisher/{uuid4().hex}"
            self._transactions = Transactions(self._cluster, name)
        if not self._transactions.begun:
            await self._transactions.fence()
        await self._transactions.commit(routed, None)

    def _forget(self) -> None:
        """The next publish begins under another id; the broker aborts what is open under this one in its time."""
        if self._transactions is not None:
            self._transactions.close()
            self._transactions = None
