"""The models in one process's memory: one for each live partition, and the last few of partitions handed over.

Owns who may have a model, and the models that lie unused. Invariant: what live and unused models take together, as
computed, is at most `bytes_max`; a model in use is never dropped for another, an unused one always is. A partition
whose model has no room waits, said once as an error and shown by a gauge, until another one is handed over.
Event-loop only.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from cutbank.metrics import Metrics
from cutbank.pipeline.partitions import unless_stopped
from cutbank.pipeline.scoring.model import PartitionModel
from cutbank.records import Partition

log = structlog.get_logger(__name__)


class ModelShelf:
    """Room for models: `room` for one that goes live, `put` and `take` for those that lie unused."""

    def __init__(self, models_max: int, *, bytes_max: int, model_bytes: int, metrics: Metrics) -> None:
        """`models_max`: of unused ones. `model_bytes`: of each model, as computed; 0: none is counted."""
        self._models_max = models_max
        self._bytes_max = bytes_max
        self._model_bytes = model_bytes
        self._metrics = metrics
        self._models: OrderedDict[Partition, PartitionModel] = OrderedDict()
        self._live: set[object] = set()
        """One token for each; not the partition, since a lost lease and the next one may overlap."""
        self._waiting: set[object] = set()
        self._freed = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        """What all models take, live and unused, as computed."""
        return self._model_bytes * (len(self._live) + len(self._models))

    @asynccontextmanager
    async def room(self, partition: Partition, *, stop: asyncio.Event) -> AsyncIterator[None]:
        """Room for this partition's model while it is live: waits for it, or until `stop`."""
        token = object()
        try:
            await self._admit(token, partition, stop)
            yield
        finally:
            self._live.discard(token)
            self._waiting.discard(token)
            self._freed.set()
            self._tell()

    def put(self, model: PartitionModel) -> None:
        """Keep a model that its partition leaves now; the one that lay longest makes room."""
        self._models[model.run.partition] = model
        self._models.move_to_end(model.run.partition)
        while len(self._models) > self._models_max:
            self._models.popitem(last=False)

    def take(self, partition: Partition) -> PartitionModel | None:
        """Whatever is there, which the caller must check; it is no longer kept."""
        return self._models.pop(partition, None)

    async def _admit(self, token: object, partition: Partition, stop: asyncio.Event) -> None:
        while not self._make_room(partition):
            if token not in self._waiting:
                self._waiting.add(token)
                log.error("no room for another model: the partition waits", partition=str(partition), why=self._why())
                self._tell()
            self._freed.clear()
            await unless_stopped(self._freed.wait(), stop)
            if stop.is_set():
                return
        self._waiting.discard(token)
        self._live.add(token)
        self._tell()

    def _make_room(self, partition: Partition) -> bool:
        """Whether one more may go live; unused models of other partitions make room, the oldest first."""
        kept = [other for other in self._models if other != partition]
        spare = self._bytes_max - self._model_bytes * (len(self._live) + 1)
        if spare < 0:
            return False
        while kept and self._model_bytes * len(kept) > spare:
            del self._models[kept.pop(0)]
        return True

    def _why(self) -> str:
        return (
            f"a model takes {self._model_bytes} bytes, {len(self._live)} are live, and models_bytes_max is "
            f"{self._bytes_max}: raise it, start more scorers, or lower number_of_trees, sub_sample_size or "
            "shingle_size in the spec"
        )

    def _tell(self) -> None:
        self._metrics.set("cutbank_models_bytes", self.held_bytes)
        self._metrics.set("cutbank_partitions_waiting", len(self._waiting))
