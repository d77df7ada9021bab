"""A store that asks again gives what the inner store gives, and gives up in the end."""

import random
from collections.abc import AsyncIterator

import pytest

from cutbank.errors import ObjectMissing, StoreUnavailable
from cutbank.objects.base import ObjectInfo
from cutbank.objects.patient import READ, PatientStore
from cutbank.testing.clock import ManualClock
from cutbank.testing.loop import simulate
from cutbank.testing.memory_store import MemoryStore, MemoryStoreHandle

KEYS = [f"k/{number:03}" for number in range(250)]


class Flaky(MemoryStoreHandle):
    """Every so many steps of a listing, and every so many reads, fail."""

    def __init__(self, memory: MemoryStore, *, listed: int, read: int) -> None:
        super().__init__(memory, url="memory://flaky")
        self._listed, self._read = listed, read
        self.calls = 0

    async def read(self, key: str) -> bytes:
        self.calls += 1
        if self.calls % self._read:
            raise StoreUnavailable("slow down")
        return await super().read(key)

    async def exists(self, key: str) -> bool:
        self.calls += 1
        if self.calls % self._read:
            raise StoreUnavailable("slow down")
        return await super().exists(key)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        self.calls += 1
        given = 0
        async for info in super().list(prefix, after=after):
            if given == self._listed:
                raise StoreUnavailable("slow down")
            given += 1
            yield info


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory() -> MemoryStore:
    memory = MemoryStore()
    for key in KEYS:
        memory.create(key, key.encode())
    return memory


def patient(inner: Flaky, clock: ManualClock) -> PatientStore:
    return PatientStore(inner, clock=clock, rng=random.Random(1))


@pytest.mark.parametrize("listed", [1, 7, 100, 249])
def test_a_listing_that_breaks_off_goes_on_where_it_was(memory: MemoryStore, clock: ManualClock, listed: int) -> None:
    inner = Flaky(memory, listed=listed, read=1)

    async def run() -> list[str]:
        return [info.key async for info in patient(inner, clock).list("k/", after=KEYS[9])]

    assert simulate(run(), clock=clock) == KEYS[10:]
    assert inner.calls == -(-240 // listed) or inner.calls == 240 // listed + 1


@pytest.mark.parametrize("good", [1, 2, 8])
def test_reads_are_asked_again(memory: MemoryStore, clock: ManualClock, good: int) -> None:
    async def run() -> tuple[bytes, bool, bool]:
        store = patient(Flaky(memory, listed=9, read=good), clock)
        return await store.read(KEYS[3]), await store.exists(KEYS[3]), await store.exists("no")

    assert simulate(run(), clock=clock) == (KEYS[3].encode(), True, False)


def test_in_the_end_it_is_the_stores_error(memory: MemoryStore, clock: ManualClock) -> None:
    inner = Flaky(memory, listed=0, read=10**9)

    async def run() -> None:
        store = patient(inner, clock)
        for asked in (store.read(KEYS[0]), store.exists(KEYS[0])):
            inner.calls = 0
            with pytest.raises(StoreUnavailable, match="slow down"):
                await asked
            assert inner.calls == 1 + (READ.attempts_max or 0)
        inner.calls = 0
        with pytest.raises(StoreUnavailable, match="slow down"):
            await anext(store.list("k/"))
        assert inner.calls == 1 + (READ.attempts_max or 0)

    simulate(run(), clock=clock)


def test_an_object_that_is_not_there_is_asked_for_once(memory: MemoryStore, clock: ManualClock) -> None:
    inner = Flaky(memory, listed=9, read=1)

    async def run() -> None:
        with pytest.raises(ObjectMissing):
            await patient(inner, clock).read("no")

    simulate(run(), clock=clock)
    assert inner.calls == 1
