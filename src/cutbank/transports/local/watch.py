"""Wakes who waits for news in the file: one thread a transport, whatever the number of receivers and groups.

The thread looks at `PRAGMA data_version`, which changes when another connection commits, often after news and less
often when all is quiet; then it compares the counters that somebody waits for. It holds no transaction between looks
and sleeps while nobody waits.

Invariant: a watched counter that differs from the value seen, before or after `changed` was called, wakes the waiter.
`changed` and `close` are called on the event loop; the rest runs on the thread.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import structlog

from cutbank.errors import CutbankError
from cutbank.transports.local.database import Reader

log = structlog.get_logger(__name__)

POLL_S_MIN = 0.002
"""Pause between two looks right after news, seconds."""

_SLOWER = 1.25

Topic: TypeAlias = tuple[Literal["partition", "group"], int | str]
"""A counter: a partition's next position (by row id), or a group's generation (by name)."""

_COUNTERS = {
    "partition": "SELECT next_position FROM partitions WHERE id = ? AND stream_id IS NOT NULL",
    "group": "SELECT generation FROM groups WHERE name = ?",
}


@dataclass(slots=True, eq=False)
class _Waiter:
    topic: Topic
    seen: int | None
    future: "asyncio.Future[None]"
    fresh: bool = True


class Watcher:
    """Watches counters for one transport; `close` it before the event loop ends."""

    def __init__(self, make: Callable[[], Reader], *, poll_s: float) -> None:
        self._make = make
        self._poll_s = max(poll_s, POLL_S_MIN)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiters: set[_Waiter] = set()
        self._nudged = threading.Event()
        self._closing = False
        self._ended = self._loop.create_future()
        # Daemon: a process that dies without closing its transport need not wait for this thread.
        self._thread = threading.Thread(target=self._watch, name="cutbank-local-watch", daemon=True)
        self._thread.start()

    def changed(self, topic: Topic, *, seen: int | None) -> "asyncio.Future[None]":
        """A future that is done once the counter is not `seen` any more; cancel it to stop waiting."""
        future: asyncio.Future[None] = self._loop.create_future()
        waiter = _Waiter(topic, seen, future)
        with self._lock:
            self._waiters.add(waiter)
        future.add_done_callback(lambda _: self._forget(waiter))
        self._nudged.set()
        return future

    def nudge(self) -> None:
        """Look now: this process has just written."""
        if self._waiters:
            self._nudged.set()

    def _forget(self, waiter: _Waiter) -> None:
        with self._lock:
            self._waiters.discard(waiter)

    async def close(self) -> None:
        """End the thread; everybody who still waits is woken."""
        self._closing = True
        self._nudged.set()
        await asyncio.shield(self._ended)
        self._thread.join()  # It has said that it is done: this returns at once.
        with self._lock:
            waiters = list(self._waiters)
        self._wake(waiters)

    def _watch(self) -> None:
        reader: Reader | None = None
        version, pause_s = -1, POLL_S_MIN
        while not self._closing:
            self._nudged.wait(pause_s if self._waiters else None)
            self._nudged.clear()
            try:
                if reader is None:
                    reader, version = self._make(), -1
                (now,) = reader.db.execute("PRAGMA data_version").fetchone()
                found = self._news(reader, every=now != version)
                pause_s = POLL_S_MIN if now != version else min(pause_s * _SLOWER, self._poll_s)
                version = now
            except (sqlite3.Error, CutbankError) as error:
                # Whoever waits looks for himself and gets the error in full.
                log.warning("the log can't be watched", why=str(error))
                with self._lock:
                    found = list(self._waiters)
                pause_s = self._poll_s
                if reader is not None:
                    reader.close()
                    reader = None
            if found:
                self._call_soon(self._wake, found)
        if reader is not None:
            reader.close()
        self._call_soon(self._ended.set_result, None)

    def _news(self, reader: Reader, *, every: bool) -> list[_Waiter]:
        """Waiters whose counter has moved: among all, or only among those that nobody has looked for yet."""
        with self._lock:
            waiters = [waiter for waiter in self._waiters if every or waiter.fresh]
        counters: dict[Topic, int | None] = {}
        for topic in {waiter.topic for waiter in waiters}:
            row = reader.db.execute(_COUNTERS[topic[0]], (topic[1],)).fetchone()
            counters[topic] = None if row is None else row[0]
        for waiter in waiters:
            waiter.fresh = False
        return [waiter for waiter in waiters if counters[waiter.topic] != waiter.seen]

    def _call_soon(self, call: Callable[[Any], None], argument: object) -> None:
        """Run `call` on the event loop."""
        try:
            self._loop.call_soon_threadsafe(call, argument)
        except RuntimeError:  # The loop ended without closing the transport.
            self._closing = True

    @staticmethod
    def _wake(waiters: list[_Waiter]) -> None:
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_result(None)
