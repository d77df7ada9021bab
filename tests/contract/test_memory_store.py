"""The store in memory against the contract of stores."""

import pytest

from cutbank.testing.memory_store import MemoryStore
from cutbank.testing.store_contract import Opener, StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def opener(self) -> Opener:
        return MemoryStore(name="a root").open
