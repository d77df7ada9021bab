"""The log in memory against the contract of transports, without and with positions left out."""

import asyncio

import pytest

from cutbank.testing import ManualClock
from cutbank.testing.log_under_test import LogUnderTest
from cutbank.testing.memory_log import VALUE_BYTES_MAX, MemoryLog
from cutbank.testing.transport_contract import TransportContract
from cutbank.transports.base import Transport

HEARTBEAT_S = 0.5


class SharedLog:
    """Handles with a clock each, so that one can stand still while the others and the broker go on."""

    value_bytes_max = VALUE_BYTES_MAX

    def __init__(self, *, gap_max: int) -> None:
        self._broker_clock = ManualClock()
        self._log = MemoryLog(clock=self._broker_clock, heartbeat_s=HEARTBEAT_S, gap_max=gap_max)
        self._clocks: dict[int, ManualClock] = {}
        self._silent: set[int] = set()

    async def open(self) -> Transport:
        clock = ManualClock()
        transport = self._log.open(clock=clock)
        self._clocks[id(transport)] = clock
        return await transport.__aenter__()

    async def tick(self) -> None:
        await self._broker_clock.advance(HEARTBEAT_S)
        for handle, clock in self._clocks.items():
            if handle not in self._silent:
                await clock.advance(HEARTBEAT_S)
        await asyncio.sleep(0)

    async def silence(self, transport: Transport) -> None:
        self._silent.add(id(transport))

    async def wake(self, transport: Transport) -> None:
        self._silent.discard(id(transport))

    async def expire(self, stream: str) -> None:
        self._log.expire(stream)

    async def delete(self, stream: str) -> None:
        self._log.delete(stream)


class TestMemory(TransportContract):
    @pytest.fixture(params=[0, 3], ids=["dense", "gaps"])
    def log(self, request: pytest.FixtureRequest) -> LogUnderTest:
        return SharedLog(gap_max=request.param)
