"""Runs the producer in this process, for standard input: only this process has it, and its first lines are read here.

Looks to the session like a child process. It shares no counter with the screen or the accounts, which read the log.
Event-loop only.
"""

import asyncio
import random

from cutbank.cli.demo.plan import Plan
from cutbank.clock import Clock
from cutbank.errors import CutbankError
from cutbank.metrics import NoMetrics
from cutbank.transports.base import Transport
from cutbank_producer.producing import produce


class PipedProducer:
    """A producer that can't be killed alone, nor started again."""

    def __init__(self, plan: Plan, *, transport: Transport, clock: Clock) -> None:
        assert plan.source is not None, "standard input is open"
        self.name = "producer"
        self.failure: str | None = None
        """Why it ended, where neither asked for nor the input's end."""
        self.ended = asyncio.Event()
        """Set when nothing more will be produced."""
        self._plan = plan
        self._transport = transport
        self._clock = clock
        self._stopping = asyncio.Event()

    async def supervise(self) -> None:
        """Until stopped, or the input ends."""
        source = self._plan.source
        assert source is not None
        try:
            await produce(
                self._plan.producer,
                transport=self._transport,
                clock=self._clock,
                metrics=NoMetrics(),
                rng=random.Random(),
                stop=self._stopping,
                source=source,
            )
        except CutbankError as error:
            self.failure = f"producer: {error}"
        finally:
            source.close()
            self.ended.set()

    async def stop(self) -> None:
        """Returns when it has ended. Idempotent."""
        self._stopping.set()
        await self.ended.wait()
