"""The embedded log as a transport: the plain side, and the door to the group side.

Owns the engine and the task that removes what is past retention. Event-loop only.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

import structlog

from cutbank.clock import Clock
from cutbank.errors import CutbankError
from cutbank.metrics import Metrics
from cutbank.records import Batch, Message, Partition, Position
from cutbank.transports.base import Start, StreamConfig, StreamInfo
from cutbank.transports.local import groups, records, streams
from cutbank.transports.local.consumer import LocalConsumer
from cutbank.transports.local.engine import Engine
from cutbank.transports.local.settings import LocalSettings, parse_url

log = structlog.get_logger(__name__)


class LocalTransport:
    """Streams in one SQLite file, shared by any number of processes. Implements `transports.base.Transport`."""

    def __init__(
        self, path: Path, settings: LocalSettings, *, clock: Clock, metrics: Metrics, client_id: str | None = None
    ) -> None:
        self._engine = Engine(path.absolute(), settings, clock)
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._client_id = client_id or "cutbank"
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._engine.open()
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        await self._engine.close()

    async def ensure(self, config: StreamConfig) -> StreamInfo:
        """Make the stream unless it exists. Raises UsageError, StreamUnavailable."""
        streams.check_config(config)
        return await self._engine.write(lambda db: streams.ensure(db, config))

    async def describe(self, stream: str) -> StreamInfo:
        """Raises StreamMissing, StreamUnavailable."""
        return await self._engine.read(lambda db: streams.describe(db, stream))

    async def streams(self) -> tuple[str, ...]:
        """Names of all streams, sorted."""
        return await self._engine.read(streams.names)

    async def delete(self, stream: str) -> None:
        """Remove a stream, its records and its committed positions; for tools and tests. Raises StreamMissing."""
        await self._engine.write(lambda db: streams.delete(db, stream))
        self._keep()

    async def publish(self, messages: Sequence[Message]) -> None:
        """All messages in one transaction, in order per partition.

        A message goes to the partition it names, else to CRC-32(key) modulo the number of partitions, else to the
        next one in turn. Raises MessageTooLarge (`records.VALUE_BYTES_MAX`, `KEY_BYTES_MAX`), StreamMissing,
        StreamUnavailable (all: nothing done), OutcomeUnknown.
        """
        if not messages:
            return
        self._keep()
        await self._engine.append(lambda router, db: router.rows(db, messages), lambda _: None)

    async def read(self, partition: Partition, start: Position, *, records_max: int, bytes_max: int) -> Batch:
        """What lies at and after `start`, now. Raises PositionLost, StreamMissing, StreamUnavailable, LogDamaged."""
        return await self._engine.read(
            lambda db: records.read(
                db, partition, streams.place(db, partition), start, records_max=records_max, bytes_max=bytes_max
            )
        )

    async def position_at(self, partition: Partition, start: Start) -> Position:
        """Resolve a start to a position, now."""
        return await self._engine.read(lambda db: streams.position_at(db, partition, start))

    async def committed(self, group: str, partition: Partition) -> Position | None:
        """A group's committed position, as an onlooker."""
        return await self._engine.read(lambda db: groups.committed(db, group, partition))

    def consumer(self, group: str, streams: Sequence[str]) -> LocalConsumer:
        """A new member of `group`."""
        self._keep()
        return LocalConsumer(
            self._engine, group=group, streams=streams, client_id=self._client_id, metrics=self._metrics
        )

    async def expire(self) -> int:
        """Remove all records past retention now, in short transactions; returns how many. A task here does it too."""
        removed = 0
        while (
            row_id := await self._engine.read(partial(streams.expired_partition, now_ms=self._clock.now_ms()))
        ) is not None:
            removed += await self._engine.write(
                partial(streams.expire_some, row_id=row_id, now_ms=self._clock.now_ms())
            )
        return removed

    def _keep(self) -> None:
        """From the first write or group on, this process removes what is past retention."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_retention(), name="local retention")

    async def _keep_retention(self) -> None:
        while True:
            try:
                await self.expire()
            except CutbankError as error:
                self._metrics.add("cutbank_retries_total", operation="retention")
                log.warning("retention waits", path=str(self._engine.path), why=str(error))
            await self._clock.sleep(self._settings.retention_check_ms / 1000)


def open_local(url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None) -> LocalTransport:
    """The transport that a `local://` URL names, not entered yet. Raises UsageError."""
    path, settings = parse_url(url)
    return LocalTransport(path, settings, clock=clock, metrics=metrics, client_id=client_id)
