"""One run of the demo: starts the services, shows the log, drains in order, recounts. Owns that order.

Draining goes with the stream: the producer stops, the scorer until it has no lag, then it stops, then the sink, which
flushes. Every wait ends: each is given up, with a message, when nothing has moved for `STALL_S`, and at once when a
service says in its log that it has stopped its partition.
Event-loop only. Every task has the one TaskGroup in `run` as parent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cutbank.cli.demo.children import Child
from cutbank.cli.demo.origin import STDIN
from cutbank.cli.demo.piped import PipedProducer
from cutbank.cli.demo.plan import Plan
from cutbank.cli.demo.screens import Screen
from cutbank.cli.demo.view import RUNNING
from cutbank.cli.demo.watching import Watcher
from cutbank.clock import Clock
from cutbank.errors import CutbankError
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.inputs import open_input
from cutbank.transports.base import StreamConfig, Transport

POLL_S = 0.25
"""Seconds between two looks at the log."""

STALL_S = 180.0
"""A wait is given up when nothing has moved for so long: longer than a killed service's lease and restart, and than a
scorer's first start on a busy machine, which compiles its kernels."""

FLUSHES_MAX = 5
"""How often the sink is started and stopped until everything is in objects."""

FLUSH_READ_S = 1.0
"""Seconds that the sink gets to read what the scorer published last, before it is stopped; more with each attempt."""

COUNT_BYTES_MAX = 64 << 20
"""Largest input whose records are counted beforehand, for the progress bar."""

COUNT_RECORDS = 10_000
"""Records read at a time while counting."""


class Producer(Protocol):
    """What makes records: a child process, or a task of this one."""

    name: str
    failure: str | None
    ended: asyncio.Event

    async def supervise(self) -> None:
        """Run it, to its end."""
        ...

    async def stop(self) -> None:
        """Stop it and wait for its end."""
        ...


class Session:
    """A run from start to drained."""

    def __init__(
        self, plan: Plan, *, transport: Transport, store: ObjectStore, screen: Screen, stop: asyncio.Event, clock: Clock
    ) -> None:
        self._plan = plan
        self._transport = transport
        self._screen = screen
        self._stop = stop
        self._clock = clock
        self._phase = "starting"
        self._notes: list[str] = []
        self._records_total: int | None = None
        self._done = asyncio.Event()
        self._faults: list[str] = []
        self._parked: set[str] = set()
        self._services: list[Producer] = []
        self._watcher = Watcher(transport, store, plan.spec, clock=clock)

    async def run(self) -> tuple[str, ...]:
        """Until everything is drained and every process has ended; what went wrong, in words."""
        spec = self._plan.spec
        for name in (spec.source, spec.destination, spec.errors, spec.scores, self._plan.labels):
            if name is not None:
                await self._transport.ensure(StreamConfig(name))
        await self._watcher.begin()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            if self._plan.producer.input not in (None, STDIN):
                group.create_task(self._count_input(str(self._plan.producer.input)))
            try:
                await self._work(group)
            finally:
                self._done.set()
        return tuple(self._faults)

    # The order of things.

    async def _work(self, group: asyncio.TaskGroup) -> None:
        scorer, sink = self._child("scorer"), self._child("sink")  # the scorer takes longest to start
        producer = self._producer()
        for service in self._services:
            group.create_task(service.supervise())
        self._phase = RUNNING
        await self._until_over(producer, scorer, sink)
        self._phase = "stopping the producer"
        await producer.stop()
        self._phase = "scoring what is left"
        await self._until_none_left(self._watcher.scorer_lag, scorer, what="records are not scored")
        await scorer.stop()
        self._phase = "writing the last objects"
        await self._flush(group, sink)
        self._phase = "done"
        self._faults.extend(service.failure for service in self._services if service.failure is not None)

    def _producer(self) -> Producer:
        if self._plan.source is None:
            return self._child("producer", ends_by_itself=True)
        piped = PipedProducer(self._plan, transport=self._transport, clock=self._clock)
        self._services.append(piped)
        return piped

    def _child(self, name: str, *, ends_by_itself: bool = False) -> Child:
        child = Child(
            name,
            f"cutbank_{name}",
            environ=self._plan.environs[name],
            log=self._plan.folder.logs / f"{name}.log",
            clock=self._clock,
            note=self._note,
            ends_by_itself=ends_by_itself,
        )
        self._services.append(child)
        return child

    async def _until_over(self, producer: Producer, scorer: Child, sink: Child) -> None:
        """The time is over, the input has ended, somebody asked to stop, or a service will not run."""
        waits: list[Coroutine[Any, Any, object]] = [
            self._stop.wait(),
            producer.ended.wait(),
            scorer.ended.wait(),
            sink.ended.wait(),
            self._until_parked(scorer, sink),
        ]
        if self._plan.seconds is not None:
            waits.append(self._after(self._plan.seconds))
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _after(self, seconds: float) -> bool:
        await self._clock.sleep(seconds - self._watcher.elapsed_s)
        return True

    async def _until_parked(self, *services: Child) -> None:
        while not any(self._is_parked(service) for service in services):
            await self._clock.sleep(POLL_S)

    def _is_parked(self, service: Child) -> bool:
        """Whether the service has stopped its partition for good; a fault with its reason, once."""
        why = service.parked()
        if why is not None and service.name not in self._parked:
            self._parked.add(service.name)
            self._fault(f"the {service.name} has stopped: {why} (see {service.log}); --fresh begins anew")
        return service.name in self._parked

    async def _until_none_left(self, lag: Callable[[], Awaitable[int]], service: Child, *, what: str) -> bool:
        """Wait until there is no lag; False, and a fault, when nothing moves any more or the service has ended."""
        least: int | None = None
        moved_s = self._clock.monotonic_s()
        while True:
            try:
                left = await lag()
            except CutbankError as error:
                if not error.retryable:
                    raise
            else:
                if left == 0:
                    return True
                if least is None or left < least:
                    least, moved_s = left, self._clock.monotonic_s()
            if self._is_parked(service):
                return False
            waited_s = self._clock.monotonic_s() - moved_s
            if service.ended.is_set() or waited_s > STALL_S:
                why = "has ended" if service.ended.is_set() else f"has not moved for {STALL_S:.0f} s"
                count = "some" if least is None else f"{least:,}"
                self._fault(f"{count} {what}: the {service.name} {why}{_words(service)}")
                return False
            await self._clock.sleep(POLL_S)

    async def _flush(self, group: asyncio.TaskGroup, sink: Child) -> None:
        """Stop the sink, which then makes objects of what it has read; again if it was killed or had not read all."""
        left = await self._watcher.sink_lag()
        for attempt in range(1, FLUSHES_MAX + 1):
            await self._clock.sleep(FLUSH_READ_S * attempt)
            await sink.stop()
            before, left = left, await self._watcher.sink_lag()
            if self._is_parked(sink) or left == 0 or sink.failure is not None:
                return
            if attempt < FLUSHES_MAX:
                self._note(
                    f"{left:,} of {before:,} anomalies and errors are in no object yet: the sink is started again"
                )
                sink = self._child("sink")
                group.create_task(sink.supervise())
        self._fault(f"{left:,} anomalies and errors are in no object after {FLUSHES_MAX} attempts{_words(sink)}")

    # What people see meanwhile.

    async def _watch(self) -> None:
        """Show the log until everything is done, and once more then."""
        last = told = False
        while not last:
            last = self._done.is_set()
            if self._stop.is_set() and not told:
                told = True
                self._note("asked to stop: draining first; asked again, it stops at once")
            try:
                self._screen.show(
                    await self._watcher.look(
                        phase=self._phase,
                        total_s=self._plan.seconds,
                        records_total=self._records_total,
                        notes=tuple(self._notes),
                    )
                )
            except CutbankError as error:
                if not error.retryable:
                    raise
            for service in self._services:
                if isinstance(service, Child):
                    service.trim_log()
            if not last:
                await self._clock.sleep(POLL_S)

    async def _count_input(self, path: str) -> None:
        """How many records the input holds, less those that the log has already: for the progress bar alone."""
        if not await asyncio.to_thread(_is_small, path):
            return
        producer = self._plan.producer
        source = open_input(path, input_format=producer.input_format, delimiter=producer.delimiter)
        before = self._watcher.records_before
        try:
            count = 0
            while not self._done.is_set():
                taken = await asyncio.to_thread(source.records, records_max=COUNT_RECORDS, bytes_max=COUNT_BYTES_MAX)
                if not taken:
                    self._records_total = max(count - before, 0)
                    return
                count += len(taken)
        except CutbankError:
            return  # the producer meets it too, and says so
        finally:
            source.close()

    def _note(self, text: str) -> None:
        stamped = f"{datetime.fromtimestamp(self._clock.now_ms() / 1000.0, UTC):%H:%M:%S} {text}"
        self._notes.append(stamped)
        self._screen.note(stamped)

    def _fault(self, text: str) -> None:
        self._faults.append(text)
        self._note(text)


def _words(service: Child) -> str:
    """What a service complained of last, where to read more, and the way out."""
    why = service.complaint()
    return f"{'' if why is None else f': {why}'} (see {service.log}); if it stays so, --fresh begins anew"


def _is_small(path: str) -> bool:
    try:
        return Path(path).is_file() and Path(path).stat().st_size <= COUNT_BYTES_MAX
    except OSError:
        return False
