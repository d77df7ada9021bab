"""Waiting that ends when it should: calls raced against events, and store calls repeated until they succeed.

The sink never drops what a store does not take: it asks again, with jitter, for as long as it runs. A stop ends the
waiting, not a call that is under way. Event-loop only.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from cutbank.clock import Clock
from cutbank.errors import CutbankError, StoreUnavailable
from cutbank.metrics import Metrics
from cutbank.pipeline.sinking.outage import StoreWatch
from cutbank.retry import RetryPolicy, retrying

T = TypeVar("T")

STORE = RetryPolicy(attempts_max=None, delay_s_first=0.1, delay_s_max=5.0)
"""The store's calls: without end, since the sink holds its position and reads nothing more meanwhile."""


class Interrupted(CutbankError):
    """Something else was asked for while this waited: nothing is wrong, and nothing was lost."""


async def unless(call: Coroutine[Any, Any, T], *events: asyncio.Event) -> T:
    """The call's result. Raises Interrupted when an event is set first: the call is cancelled, its end waited for."""
    task = asyncio.ensure_future(call)
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait({task, *waits}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (task, *waits):
            each.cancel()
        await asyncio.wait({task, *waits})
    if task.cancelled():
        raise Interrupted("interrupted")
    # A call that was done all the same, in spite of the cancelling, is not lost.
    return task.result()


async def together(calls: Sequence[Callable[[], Awaitable[T]]], *, at_once: int) -> list[T]:
    """The calls' results in their order, at most so many under way at a time.

    Raises what a call raises (the first, and rather not Interrupted), once the others are cancelled and over.
    """
    if len(calls) == 1:
        return [await calls[0]()]
    results: dict[int, T] = {}
    pending = iter(enumerate(calls))

    async def work() -> None:
        for index, call in pending:
            results[index] = await call()

    workers = [asyncio.ensure_future(work()) for _ in range(min(at_once, len(calls)))]
    try:
        if workers:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for each in workers:
            each.cancel()
        if workers:
            await asyncio.wait(workers)
    errors = [error for each in workers if not each.cancelled() and (error := each.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Interrupted)):
        raise error
    return [results[index] for index in range(len(calls))]


class Patience:
    """Repeats the store's calls while it is unavailable, until they succeed, fail for good, or `stop` is set."""

    def __init__(
        self,
        *,
        clock: Clock,
        rng: random.Random,
        metrics: Metrics,
        stop: asyncio.Event,
        watch: StoreWatch | None = None,
    ) -> None:
        """`watch`: what all partitions of a process know of their store."""
        self._watch = watch or StoreWatch(clock=clock, metrics=metrics)
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._stop = stop

    def now_ms(self) -> int:
        """The clock's."""
        return self._clock.now_ms()

    def monotonic_s(self) -> float:
        """The clock's."""
        return self._clock.monotonic_s()

    async def sleep(self, delay_s: float) -> None:
        """The clock's, ended early by a stop."""
        with suppress(Interrupted):
            await unless(_sleep(self._clock, delay_s), self._stop)

    async def store(self, call: Callable[[], Awaitable[T]], *, operation: str) -> T:
        """The call's result. Raises Interrupted, and what the call raises but StoreUnavailable."""

        async def attempt() -> T:
            try:
                found = await call()
            except StoreUnavailable as error:
                self._watch.failed(operation, error)
                if self._stop.is_set():
                    raise Interrupted(f"stopped while the store was unavailable: {error}") from error
                raise
            except CutbankError:
                self._watch.answered()
                raise
            self._watch.answered()
            return found

        def tell(_error: BaseException, _attempt: int) -> None:
            self._metrics.add("cutbank_retries_total", operation=operation)

        return await retrying(attempt, policy=STORE, clock=self, rng=self._rng, on_retry=tell)


async def _sleep(clock: Clock, delay_s: float) -> None:
    await clock.sleep(delay_s)
