"""Every object store of ours against the contract suite."""

from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import STORES, open_store
from cutbank.testing.store_contract import Opener, StoreContract


class TestFileSystemStore(StoreContract):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        url = f"file://{tmp_path}/a root"
        return lambda: open_store(url, clock=SystemClock(), metrics=NoMetrics())


def test_every_store_is_here() -> None:
    assert set(STORES) == {"file"}
