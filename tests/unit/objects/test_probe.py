"""The probe refuses stores that would lose or double anomalies."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import StoreRefused, StoreUnavailable
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectInfo
from cutbank.objects.filesystem import FileSystemStore
from cutbank.objects.probe import probe_store


class Store(FileSystemStore):
    def __init__(self, root: Path) -> None:
        super().__init__(root, clock=SystemClock(), metrics=NoMetrics())


class Overwriting(Store):
    """As an S3 clone that ignores If-None-Match."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._one_by_one = asyncio.Lock()

    async def create(self, key: str, body: bytes) -> None:
        async with self._one_by_one:
            await self.delete(key)
            await super().create(key, body)


class Mixing(Store):
    async def read(self, key: str) -> bytes:
        return b"another's"


class ListingLate(Store):
    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        for info in ():
            yield info


class Keeping(Store):
    async def delete(self, key: str) -> None:
        raise StoreRefused("no permission to delete")


class Unlistable(Store):
    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        raise StoreRefused("no permission to list")
        yield ObjectInfo("", 0)


class Busy(Store):
    async def create(self, key: str, body: bytes) -> None:
        raise StoreUnavailable("slow down")


async def test_a_store_that_ignores_create_only_puts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="create-only puts: 8 of 8"):
        await probe_store(Overwriting(tmp_path))


@pytest.mark.parametrize(
    ("kind", "why"), [(Mixing, "body"), (ListingLate, "listed"), (Unlistable, "permission to list")]
)
async def test_a_broken_promise_is_named(tmp_path: Path, kind: type[Store], why: str) -> None:
    with pytest.raises(StoreRefused, match=why):
        await probe_store(kind(tmp_path))
    assert [info async for info in Store(tmp_path).list("")] == []


async def test_the_right_to_delete_is_not_needed(tmp_path: Path) -> None:
    await probe_store(Keeping(tmp_path))


async def test_a_busy_store_is_not_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await probe_store(Busy(tmp_path))
