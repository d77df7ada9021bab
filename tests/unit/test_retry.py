"""Retries end, pause within their bounds, and try only what says that it may be tried again."""

import asyncio
import contextlib
import gc
import random
import weakref

import pytest

from cutbank.errors import AlreadyExists, CutbankError, Fenced, OutcomeUnknown, StoreUnavailable, StreamUnavailable
from cutbank.retry import RetryPolicy, retrying
from cutbank.testing import ManualClock


class PausesRecorded(ManualClock):
    """A manual clock that lets every pause pass at once and keeps how long it was."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses_s: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        self.pauses_s.append(delay_s)


async def test_it_tries_until_it_works_and_tells_each_failure() -> None:
    clock, told = PausesRecorded(), []
    failures = iter([StreamUnavailable("busy"), StoreUnavailable("slow")])

    async def call() -> str:
        if (failure := next(failures, None)) is not None:
            raise failure
        return "done"

    result = await retrying(
        call,
        policy=RetryPolicy(),
        clock=clock,
        rng=random.Random(1),
        on_retry=lambda error, attempt: told.append((str(error), attempt)),
    )
    assert result == "done"
    assert told == [("busy", 1), ("slow", 2)]
    assert len(clock.pauses_s) == 2


@pytest.mark.parametrize("error", [Fenced("x"), OutcomeUnknown("x"), AlreadyExists("x"), ValueError("x")])
async def test_what_is_not_retryable_passes_at_once(error: Exception) -> None:
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        await retrying(call, policy=RetryPolicy(), clock=PausesRecorded(), rng=random.Random(1))
    assert calls == 1


async def test_the_last_error_is_raised_when_the_attempts_are_used_up() -> None:
    clock = PausesRecorded()
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise StoreUnavailable(f"failure {calls}")

    with pytest.raises(StoreUnavailable, match="failure 5"):
        await retrying(call, policy=RetryPolicy(attempts_max=5), clock=clock, rng=random.Random(1))
    assert calls == 5
    assert len(clock.pauses_s) == 4


async def test_pauses_lie_under_a_bound_that_doubles_up_to_its_limit() -> None:
    policy = RetryPolicy(attempts_max=40, delay_s_first=0.1, delay_s_max=2.0)
    clock = PausesRecorded()

    async def call() -> None:
        raise StoreUnavailable("down")

    with pytest.raises(CutbankError):
        await retrying(call, policy=policy, clock=clock, rng=random.Random(3))
    bounds = [min(2.0, 0.1 * 2**number) for number in range(39)]
    assert all(0.0 <= pause <= bound for pause, bound in zip(clock.pauses_s, bounds, strict=True))
    assert max(clock.pauses_s) > 1.0  # jitter over the whole range, not near zero
    assert policy.delay_s_bound(10**6) == 2.0  # no overflow after an outage of any length


async def test_a_policy_without_end_goes_on_until_cancelled() -> None:
    clock = ManualClock()
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise StoreUnavailable("down")

    policy = RetryPolicy(attempts_max=None, delay_s_max=1.0)
    task = asyncio.create_task(retrying(call, policy=policy, clock=clock, rng=random.Random(5)))
    await clock.advance(500.0)
    assert calls > 500
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("error", [StoreUnavailable, Fenced, ValueError, asyncio.CancelledError])
async def test_what_was_to_be_sent_is_let_go_with_the_last_error(error: type[BaseException]) -> None:
    """At once, not when the garbage collector looks: it counts objects, not bytes, and a snapshot may have many."""

    class Body:
        pass

    async def send(body: Body) -> None:
        seen.append(weakref.ref(body))
        raise error("x")

    async def fail() -> None:
        body = Body()
        policy = RetryPolicy(attempts_max=3)
        await retrying(lambda: send(body), policy=policy, clock=PausesRecorded(), rng=random.Random(1))

    seen: list[weakref.ref[Body]] = []
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(CutbankError, ValueError, asyncio.CancelledError):
            await fail()
        assert seen
        assert [reference() for reference in seen] == [None] * len(seen)
    finally:
        gc.enable()
