"""What the store in memory has beyond the contract: damage, and observers."""

import pytest

from cutbank.errors import AlreadyExists, ObjectMissing
from cutbank.objects.base import ObjectInfo
from cutbank.testing import ManualClock
from cutbank.testing.loop import simulate
from cutbank.testing.memory_store import PAGE_KEYS, MemoryStore


async def test_damage_is_seen_by_every_handle() -> None:
    store = MemoryStore()
    one, other = store.open(), store.open()
    await one.create("a/b", b"whole")
    store.overwrite("a/b", b"who")
    store.overwrite("a/foreign", b"?")
    assert await other.read("a/b") == b"who"
    assert [info async for info in other.list("a/")] == [ObjectInfo("a/b", 3), ObjectInfo("a/foreign", 1)]
    assert dict(store.objects) == {"a/b": b"who", "a/foreign": b"?"}
    store.remove("a/b")
    assert not await other.exists("a/b")
    assert [info.key async for info in other.list("")] == ["a/foreign"]
    with pytest.raises(ObjectMissing):
        store.remove("a/b")
    with pytest.raises(ValueError, match="object key"):
        store.overwrite("../a", b"")


async def test_observers_are_told_of_what_is_created() -> None:
    store, told = MemoryStore(), []
    store.on_create.append(lambda key, body: told.append((key, body, store.objects[key])))
    handle = store.open()
    await handle.create("a", b"1")
    with pytest.raises(AlreadyExists):
        await handle.create("a", b"2")
    store.overwrite("a", b"3")
    await handle.create("b", b"4")
    assert told == [("a", b"1", b"1"), ("b", b"4", b"4")]


async def test_a_body_is_kept_as_it_was() -> None:
    store, body = MemoryStore(), bytearray(b"first")
    await store.open().create("a", body)
    body[:] = b"other"
    assert store.objects["a"] == b"first"


def test_a_long_listing_sees_what_changes_behind_its_page() -> None:
    store = MemoryStore()
    keys = [f"k/{number:05}" for number in range(3 * PAGE_KEYS)]
    for key in keys:
        store.create(key, b"")

    async def main() -> list[str]:
        seen = []
        async for info in store.open().list("k/"):
            seen.append(info.key)
            if len(seen) == 10:
                store.remove(keys[-1])
                store.create("k/99999", b"")
        return seen

    assert simulate(main(), clock=ManualClock()) == [*keys[:-1], "k/99999"]
