"""The iterator over a consumer's events, the same for every transport. Event-loop only."""

from collections.abc import Awaitable, Callable
from typing import Self

from cutbank.transports.base import GroupEvent


class Events:
    """Ends where `next_event` gives None. Stopping early leaves the consumer as it is."""

    def __init__(self, next_event: Callable[[], Awaitable[GroupEvent | None]]) -> None:
        self._next_event = next_event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GroupEvent:
        event = await self._next_event()
        if event is None:
            raise StopAsyncIteration
        return event
