"""A log as the transport contract sees it: the seam that a transport's author implements to run the suite.

Owns no state. Also the few waits and reads that the suite's two halves share.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from cutbank.records import Batch, Partition
from cutbank.transports.base import Start, Transport

WAIT_S_MAX = 60.0
"""How long a test waits in real time for what should happen soon; ends a hung test, never decides a passing one."""


class LogUnderTest(Protocol):
    """One empty log, on which a test opens handles as separate processes would. Closes them at the end."""

    value_bytes_max: int
    """Largest value it takes."""

    async def open(self) -> Transport:
        """A further handle, entered."""
        ...

    async def tick(self) -> None:
        """Let a moment pass for every handle that is not silenced: a heartbeat's time, and what it leads to."""
        ...

    async def silence(self, transport: Transport) -> None:
        """As if its process had been stopped: no heartbeat any more; its leases can still be used, as a zombie's."""
        ...

    async def wake(self, transport: Transport) -> None:
        """Let a silenced handle go on."""
        ...

    async def expire(self, stream: str) -> None:
        """Let so much time pass that all records of the stream are past retention and removed."""
        ...

    async def delete(self, stream: str) -> None:
        """Delete the stream, so that another can be made under its name."""
        ...


async def soon(log: LogUnderTest, condition: Callable[[], bool]) -> None:
    """Let time pass until the condition holds."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not condition():
            await log.tick()


async def everything(transport: Transport, partition: Partition) -> Batch:
    """All that is retained of a partition, as one batch."""
    start = await transport.position_at(partition, Start("earliest"))
    return await transport.read(partition, start, records_max=100_000, bytes_max=1 << 30)
