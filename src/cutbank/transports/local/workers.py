"""Threads that own a connection each, so that SQLite never runs on the event loop.

Invariant: calls of one worker run one at a time, in the order in which they were made (urgent ones may overtake what
still waits for a place in the queue); a connection is used by its own thread only. A cancelled call that has begun
runs to its end, its result is dropped, and calls after it wait.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Generic, Protocol, TypeVar

WAITING_MAX = 8
"""Calls in one worker's queue; further callers wait outside, in order. Few, so that an urgent call is soon served."""


class Closable(Protocol):
    """What a worker owns."""

    def close(self) -> None:
        """Called once, on the thread."""
        ...


R = TypeVar("R", bound=Closable)
T = TypeVar("T")


class Worker(Generic[R]):
    """One thread and the resource that it made. Event-loop side; `start` first, `stop` last."""

    def __init__(self, make: Callable[[], R], *, name: str) -> None:
        self._make = make
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._places = asyncio.Semaphore(WAITING_MAX)
        self._resource: R | None = None

    async def start(self) -> None:
        """Make the resource on the thread. Raises what making it raises."""

        def make() -> None:
            self._resource = self._make()

        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, make)
        except BaseException:
            await self.stop()
            raise

    async def run(self, call: Callable[[R], T], *, urgent: bool = False) -> T:
        """Run `call(resource)` on the thread. Urgent calls do not wait for a place in the queue."""
        places: AbstractAsyncContextManager[None] = nullcontext() if urgent else self._places
        async with places:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._call, call)

    def post(self, call: Callable[[R], object]) -> None:
        """Run `call(resource)` after what waits already; nobody waits for it, so it must handle its own errors."""
        self._executor.submit(self._call, call)

    def _call(self, call: Callable[[R], T]) -> T:
        if self._resource is None:
            raise RuntimeError("the transport is closed")
        return call(self._resource)

    async def stop(self) -> None:
        """Let what was begun end, close the resource, end the thread. Not undone by cancellation."""

        def close() -> None:
            resource, self._resource = self._resource, None
            if resource is not None:
                resource.close()

        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, close))
        self._executor.shutdown(wait=True)  # The thread is idle: this returns at once.
