"""Every transport against the one contract."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cutbank.metrics import NoMetrics
from cutbank.testing import ManualClock
from cutbank.testing.log_under_test import LogUnderTest
from cutbank.testing.transport_contract import TransportContract
from cutbank.transports.base import Transport
from cutbank.transports.local import LocalSettings, LocalTransport
from cutbank.transports.local.records import VALUE_BYTES_MAX

DAY_S = 24 * 3600.0


class LocalLog:
    """Handles on one file, each with a clock of its own, so that one can stand still while the others go on."""

    value_bytes_max = VALUE_BYTES_MAX

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self._path = path
        self._stack = stack
        self._settings = LocalSettings(durability="process-crash")
        self._clocks: dict[int, ManualClock] = {}
        self._handles: dict[int, LocalTransport] = {}
        self._silent: set[int] = set()

    async def open(self) -> Transport:
        clock = ManualClock()
        if self._clocks:
            await clock.advance(max(other.monotonic_s() for other in self._clocks.values()))
        transport = LocalTransport(self._path, self._settings, clock=clock, metrics=NoMetrics())
        self._handles[id(transport)], self._clocks[id(transport)] = transport, clock
        return await self._stack.enter_async_context(transport)

    async def tick(self) -> None:
        await self._advance(self._settings.heartbeat_ms / 1000)

    async def _advance(self, seconds: float) -> None:
        for handle, clock in self._clocks.items():
            if handle not in self._silent:
                await clock.advance(seconds)
        for handle, transport in self._handles.items():
            if handle not in self._silent:
                # Writes pass in order: when this one is done, the heartbeats before it are too.
                await transport._engine.write(lambda _: None)
        await asyncio.sleep(0)

    async def silence(self, transport: Transport) -> None:
        self._silent.add(id(transport))
        # Its clock stands still; news must not reach it either.
        engine = self._handles[id(transport)]._engine
        assert engine._watcher is not None
        engine._watcher._waiters.clear()
        engine.changed = lambda topic, *, seen: asyncio.get_running_loop().create_future()  # type: ignore[method-assign]

    async def wake(self, transport: Transport) -> None:
        self._silent.discard(id(transport))
        del self._handles[id(transport)]._engine.changed

    async def expire(self, stream: str) -> None:
        for clock in self._clocks.values():
            clock.jump_wall(int(2 * DAY_S * 1000))
        for transport in self._handles.values():
            await transport.expire()

    async def delete(self, stream: str) -> None:
        await next(iter(self._handles.values())).delete(stream)


class TestLocal(TransportContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[LogUnderTest]:
        async with AsyncExitStack() as stack:
            yield LocalLog(tmp_path / "log.db", stack)
