"""A store that asks again: for tools that read for minutes, and should not end with the first slow or lost answer.

Owns no object. Invariant: what is read and listed is what the inner store gives; a listing that breaks off goes on
after the last key that it gave. Writing is passed on as it is: whoever writes has to know what a lost answer means.
Event-loop only; any number of callers.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self, TypeVar

from cutbank.clock import Clock
from cutbank.errors import StoreUnavailable
from cutbank.objects.base import ObjectInfo, ObjectStore
from cutbank.retry import RetryPolicy, retrying

READ = RetryPolicy(attempts_max=8, delay_s_first=0.2, delay_s_max=10.0)
"""Of each read that has failed, and of each stretch of a listing without a key."""

T = TypeVar("T")


class PatientStore:
    """An `ObjectStore` around another one. Its reads raise StoreUnavailable after so many attempts."""

    def __init__(self, store: ObjectStore, *, clock: Clock, rng: random.Random) -> None:
        self._inner = store
        self._clock = clock
        self._rng = rng

    @property
    def url(self) -> str:
        """The inner store's."""
        return self._inner.url

    @property
    def key_bytes_max(self) -> int:
        """The inner store's."""
        return self._inner.key_bytes_max

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._inner.__aexit__(*failure)

    async def read(self, key: str) -> bytes:
        """As the protocol says."""
        try:
            return await self._inner.read(key)
        except StoreUnavailable:
            return await self._again(lambda: self._inner.read(key))

    async def exists(self, key: str) -> bool:
        """As the protocol says."""
        try:
            return await self._inner.exists(key)
        except StoreUnavailable:
            return await self._again(lambda: self._inner.exists(key))

    async def _again(self, ask: Callable[[], Awaitable[T]]) -> T:
        await self._pause(1)
        return await retrying(ask, policy=READ, clock=self._clock, rng=self._rng)

    async def _pause(self, attempt: int) -> None:
        await self._clock.sleep(self._rng.uniform(0.0, READ.delay_s_bound(attempt)))

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """As the protocol says."""
        attempts = 0
        while True:
            try:
                async for info in self._inner.list(prefix, after=after):
                    after, attempts = info.key, 0
                    yield info
            except StoreUnavailable:
                attempts += 1
                if attempts - 1 == READ.attempts_max:
                    raise
                await self._pause(attempts)
            else:
                return

    async def create(self, key: str, body: bytes) -> None:
        """As the protocol says, once."""
        await self._inner.create(key, body)

    async def delete(self, key: str) -> None:
        """As the protocol says, once."""
        await self._inner.delete(key)

    async def probe(self, *, deletes: bool = False) -> None:
        """As the protocol says, once."""
        await self._inner.probe(deletes=deletes)
