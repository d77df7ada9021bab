"""What a store refuses for its size: keys, their parts, objects; and what it remembers."""

import os
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import PartitionStopped
from cutbank.metrics import NoMetrics
from cutbank.objects import filesystem
from cutbank.objects.base import KEY_BYTES_MAX, OBJECT_BYTES_MAX, SEGMENT_BYTES_MAX, key_check
from cutbank.objects.filesystem import FileSystemStore


def store_at(root: Path) -> FileSystemStore:
    return FileSystemStore(root, clock=SystemClock(), metrics=NoMetrics())


async def test_the_longest_part_is_taken_and_one_byte_more_is_refused_with_the_figure(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    longest = "x" * SEGMENT_BYTES_MAX
    await store.create(longest, b"1")
    assert await store.read(longest) == b"1"
    with pytest.raises(ValueError, match=r"a part of 256 bytes, more than SEGMENT_BYTES_MAX \(255\)"):
        await store.create(longest + "x", b"2")


def test_the_longest_key_is_taken_and_one_byte_more_is_refused_with_the_figure() -> None:
    longest = ("x" * 127 + "/") * 8
    assert key_check(longest[: KEY_BYTES_MAX - 1]) == longest[:-1]
    assert len(longest[:-1] + "y") == KEY_BYTES_MAX
    key_check(longest[:-1] + "y")
    with pytest.raises(ValueError, match=r"object key of 1025 bytes, more than KEY_BYTES_MAX \(1024\)"):
        key_check(longest[:-1] + "yz")


async def test_an_object_that_is_none_of_ours_by_its_size_is_not_read(tmp_path: Path) -> None:
    """The file is all hole: only its length counts."""
    store = store_at(tmp_path)
    await store.create("a/b", b"1")
    os.truncate(tmp_path / "a/b", OBJECT_BYTES_MAX + 1)
    with pytest.raises(PartitionStopped, match=rf"{OBJECT_BYTES_MAX + 1} bytes, more than OBJECT_BYTES_MAX"):
        await store.read("a/b")


async def test_folders_known_to_be_durable_are_forgotten_when_they_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "DURABLE_FOLDERS_MAX", 3)
    store = store_at(tmp_path)
    for number in range(10):
        await store.create(f"{number}/x", b"%d" % number)
        assert len(store._durable) <= 3
    assert [await store.read(f"{number}/x") for number in range(10)] == [b"%d" % number for number in range(10)]
