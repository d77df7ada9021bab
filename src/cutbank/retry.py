"""Retries: which errors, how long between, how many. One policy object over tenacity, on the given clock.

Only errors that say `retryable` are tried again; everything else passes at once. Every policy has an end, or says
by name that it has none (`attempts_max=None`), which only the sink's and scorer's outer loops may.
"""

import random
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_never

from cutbank.clock import Clock
from cutbank.errors import CutbankError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter (each pause is uniform between 0 and the bound).

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    attempts_max: int | None = 8
    """How often at most; None: for as long as the caller is not cancelled."""
    delay_s_first: float = 0.05
    """Bound of the first pause, seconds; doubles with each attempt."""
    delay_s_max: float = 5.0
    """Bound of every later pause, seconds."""

    def delay_s_bound(self, attempt: int) -> float:
        """The bound of the pause after the `attempt`-th failure, counted from 1."""
        return float(min(self.delay_s_max, self.delay_s_first * 2.0 ** min(attempt - 1, 60)))


async def retrying(
    call: Callable[[], Awaitable[T]],
    *,
    policy: RetryPolicy,
    clock: Clock,
    rng: random.Random,
    on_retry: Callable[[BaseException, int], None] | None = None,
) -> T:
    """Call until it succeeds, fails for good or the policy ends; then its own error is raised.

    `on_retry(error, attempt)` is told before each pause. Cancellation passes through at once.
    """

    def pause(state: RetryCallState) -> float:
        return rng.uniform(0.0, policy.delay_s_bound(state.attempt_number))

    def tell(state: RetryCallState) -> None:
        if on_retry is not None and state.outcome is not None and (error := state.outcome.exception()):
            on_retry(error, state.attempt_number)

    async def once() -> T:
        # Not `call` itself: tenacity awaits only what it knows to be a coroutine function, so no lambda.
        return await call()

    attempts = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, CutbankError) and error.retryable),
        stop=stop_never if policy.attempts_max is None else stop_after_attempt(policy.attempts_max),
        wait=pause,
        sleep=clock.sleep,
        before_sleep=tell,
        reraise=True,
    )
    try:
        return await attempts(once)
    except BaseException as error:
        # tenacity keeps the last error in a frame that the error's traceback keeps: a circle, which would hold what
        # was to be sent (a snapshot, an object) until the garbage collector looks, and it counts no bytes.
        traceback.clear_frames(error.__traceback__)
        raise
