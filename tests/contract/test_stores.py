"""Every object store of ours against the contract suite."""

from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import STORES, open_store
from cutbank.testing.store_contract import Opener, StoreContract
from object_servers.fixtures import S3Server


class TestFileSystemStore(StoreContract):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        url = f"file://{tmp_path}/a root"
        return lambda: open_store(url, clock=SystemClock(), metrics=NoMetrics())


class TestS3Store(StoreContract):
    @pytest.fixture
    def opener(self, s3_server: S3Server) -> Opener:
        url = s3_server.store_url("a root")
        return lambda: open_store(url, clock=SystemClock(), metrics=NoMetrics())


class TestS3StoreInSmallPages(StoreContract):
    """Each listing takes several answers."""

    @pytest.fixture
    def opener(self, s3_server: S3Server) -> Opener:
        url = s3_server.store_url("root", page_keys=3, checksum="md5")
        return lambda: open_store(url, clock=SystemClock(), metrics=NoMetrics())


def test_every_store_is_here() -> None:
    assert set(STORES) == {"file", "s3"}
