"""What stands around a transport or a store changes nothing: through the gate of a living process, with faults that
never strike, the contracts are kept."""

import pytest

from contract.test_memory_log import SharedLog
from cutbank.testing import ManualClock
from cutbank.testing.log_under_test import LogUnderTest
from cutbank.testing.memory_store import MemoryStore
from cutbank.testing.process import SimulatedProcess
from cutbank.testing.store_contract import Opener, StoreContract
from cutbank.testing.transport_contract import TransportContract
from cutbank.transports.base import Transport


class GatedLog(SharedLog):
    """Each handle in a process of its own."""

    async def open(self) -> Transport:
        transport = await super().open()
        clock = self._clocks.pop(id(transport))
        gated = SimulatedProcess("process", clock).transport(transport)
        self._clocks[id(gated)] = clock
        return gated


class TestGatedTransport(TransportContract):
    @pytest.fixture
    def log(self) -> LogUnderTest:
        return GatedLog(gap_max=2)


class TestGatedStore(StoreContract):
    @pytest.fixture
    def opener(self) -> Opener:
        store, process = MemoryStore(), SimulatedProcess("process", ManualClock())
        return lambda: process.store(store.open())
