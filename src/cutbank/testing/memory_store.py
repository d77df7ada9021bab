"""An object store in memory: what simulated processes share, with hands for tests that damage it.

Owns the objects. A process works on it through a handle, which is an `ObjectStore` like any other and passes the same
contract suite (`testing.store_contract`). Event-loop only; each call is one atomic step, after the loop has had a turn.
"""

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Self, TypeAlias

from cutbank.errors import AlreadyExists, ObjectMissing
from cutbank.objects.base import KEY_BYTES_MAX, ObjectInfo, key_check

PAGE_KEYS = 100
"""Keys of a listing that are looked up in one step."""

OnCreate: TypeAlias = Callable[[str, bytes], None]
"""Told of an object that has just become durable: key, body."""


class MemoryStore:
    """A store that lives as long as this object. Its methods act at once and are for tests; processes use `open`."""

    def __init__(self, *, name: str = "memory") -> None:
        """`name`: what the handles' URL says, `memory://<name>`."""
        self._name = name
        self._objects: dict[str, bytes] = {}
        self._keys: list[str] = []
        self.on_create: list[OnCreate] = []
        """Called with (key, body) right after an object has become durable; must not raise."""

    @property
    def objects(self) -> Mapping[str, bytes]:
        """All objects by key, in the order of their creation; a view."""
        return MappingProxyType(self._objects)

    def open(self) -> "MemoryStoreHandle":
        """A handle, as one process has it; enter it with `async with`."""
        return MemoryStoreHandle(self, url=f"memory://{self._name}")

    def create(self, key: str, body: bytes) -> None:
        """Put an object unless its key is taken. Raises AlreadyExists."""
        if key_check(key) in self._objects:
            raise AlreadyExists(f"{key} is there already")
        self._objects[key] = bytes(body)
        insort(self._keys, key)
        for tell in self.on_create:
            tell(key, body)

    def overwrite(self, key: str, body: bytes) -> None:
        """Damage: change an object, or put one beside the rules; nobody is told."""
        if key_check(key) not in self._objects:
            insort(self._keys, key)
        self._objects[key] = bytes(body)

    def remove(self, key: str) -> None:
        """Damage: lose an object. Raises ObjectMissing."""
        if key not in self._objects:
            raise ObjectMissing(f"no object {key}")
        del self._objects[key]
        del self._keys[bisect_left(self._keys, key)]

    def page(self, prefix: str, *, after: str) -> list[ObjectInfo]:
        """Up to PAGE_KEYS entries of a listing."""
        # Keys are ASCII, so the order of their characters is that of their bytes.
        first = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
        keys = self._keys[first : first + PAGE_KEYS]
        return [ObjectInfo(key, len(self._objects[key])) for key in keys if key.startswith(prefix)]


class MemoryStoreHandle:
    """Implements `objects.base.ObjectStore`. Made by `MemoryStore.open`; any number on one store."""

    def __init__(self, store: MemoryStore, *, url: str) -> None:
        self._store = store
        self._url = url

    @property
    def url(self) -> str:
        """The same for every handle of a store."""
        return self._url

    @property
    def key_bytes_max(self) -> int:
        """The longest that any store takes."""
        return KEY_BYTES_MAX

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Nothing to close."""

    async def create(self, key: str, body: bytes) -> None:
        """Put the object unless its key is taken. Raises AlreadyExists."""
        key_check(key)
        await asyncio.sleep(0)
        self._store.create(key, body)

    async def read(self, key: str) -> bytes:
        """The whole body. Raises ObjectMissing."""
        key_check(key)
        await asyncio.sleep(0)
        body = self._store.objects.get(key)
        if body is None:
            raise ObjectMissing(f"no object {key}")
        return body

    async def exists(self, key: str) -> bool:
        """Whether the object is there."""
        key_check(key)
        await asyncio.sleep(0)
        return key in self._store.objects

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """As the protocol says, a page at a time."""
        while True:
            await asyncio.sleep(0)
            page = self._store.page(prefix, after=after)
            for info in page:
                yield info
            if len(page) < PAGE_KEYS:
                return
            after = page[-1].key

    async def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        key_check(key)
        await asyncio.sleep(0)
        if key in self._store.objects:
            self._store.remove(key)

    async def probe(self, *, deletes: bool = False) -> None:  # noqa: ARG002  # the protocol's
        """Nothing to find out: it keeps the promises by its make, and a probe's random keys would spoil a replay."""
        await asyncio.sleep(0)
