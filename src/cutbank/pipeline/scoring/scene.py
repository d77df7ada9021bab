"""What the scorers of one process share. Owns nothing of it. Event-loop only, but for what runs in its threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from cutbank.clock import Clock
from cutbank.metrics import Metrics
from cutbank.pipeline.scoring.config import ScorerConfig
from cutbank.pipeline.scoring.model import DetectorSource
from cutbank.pipeline.scoring.room import Rooms
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.spec import PipelineSpec
from cutbank.transports.base import Transport

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scene:
    """What the scorers of one process share."""

    transport: Transport
    state: StateRoom
    spec: PipelineSpec
    spec_hash: str
    config: ScorerConfig
    detectors: DetectorSource
    clock: Clock
    metrics: Metrics
    threads: Executor
    rooms: Rooms

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run CPU-bound work off the event loop. If cancelled, the work still ends, unseen."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, call)
