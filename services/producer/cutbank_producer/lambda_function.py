"""`stock_trades_producer` as the Lambda function that it was: the same producer, one invocation at a time.

Reads the environment, ignores the event, and stops in time: nothing is begun within STOP_BEFORE_S of the invocation's
end (within a quarter of it, where it is short), and what is in flight then is cut off at CUT_OFF_BEFORE_S. Each call
makes its own event loop, as a warm container calls again. Imports no service runtime: no server, command or kernels.
"""

import asyncio
import json
import math
import os
import random
from typing import Any, Protocol

from cutbank.clock import SystemClock
from cutbank.errors import OutcomeUnknown
from cutbank.metrics import NoMetrics
from cutbank.transports import open_transport
from cutbank_producer.producing import Produced, produce
from cutbank_producer.settings import ProducerSettings

STOP_BEFORE_S = 5.0
"""No batch begins later than this before the invocation's end, seconds: time for the one in flight."""

STOP_BEFORE_SHARE = 0.25
"""Of a short invocation (Lambda's default is 3 s), at most this share is kept back."""

CUT_OFF_SHARE = 0.2
"""Of what is kept back, this share remains when a batch in flight is cut off: time to answer."""


class LambdaContext(Protocol):
    """What is used of the context that Lambda passes."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is killed."""
        ...


def lambda_handler(event: Any, context: LambdaContext | None) -> dict[str, Any]:  # noqa: ARG001  # Lambda passes the event
    """Produce; {"statusCode": 200, "body": JSON text with what was acknowledged: records, labels, why it ended}.

    Without a context (called by hand) only the duration ends it. Raises UsageError for wrong settings, and what
    `produce` raises: the invocation then counts as failed.
    """
    settings = ProducerSettings.load(os.environ)
    produced = asyncio.run(_produce(settings, context))
    body = {"records": produced.records, "labels": produced.labels, "why": produced.why}
    return {"statusCode": 200, "body": json.dumps(body)}


async def _produce(settings: ProducerSettings, context: LambdaContext | None) -> Produced:
    remaining_s = _remaining_s(context)
    kept_s = min(STOP_BEFORE_S, STOP_BEFORE_SHARE * remaining_s)
    cut_off_s = None if context is None else remaining_s - CUT_OFF_SHARE * kept_s
    clock = SystemClock()
    try:
        async with (
            asyncio.timeout(cut_off_s),
            open_transport(settings.transport_url, clock=clock, metrics=NoMetrics()) as transport,
        ):
            return await produce(
                settings,
                transport=transport,
                clock=clock,
                metrics=NoMetrics(),
                rng=random.Random(),
                stop=asyncio.Event(),
                left_s=lambda: _remaining_s(context) - kept_s,
            )
    except TimeoutError:
        raise OutcomeUnknown("the invocation's time ran out with a batch in flight; it may be in the stream") from None


def _remaining_s(context: LambdaContext | None) -> float:
    return math.inf if context is None else context.get_remaining_time_in_millis() / 1000.0
