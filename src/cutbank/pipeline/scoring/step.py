"""One publish-and-commit, tried until it is known to be done. Owns what is known of its outcome.

Invariant: after an attempt whose outcome is unknown the partition is fenced before anything else is written, and the
committed position then tells: the step's end (done), its start (again), anything else (given up). Event-loop only.
"""

from cutbank.errors import Fenced, MessageTooLarge, OutcomeUnknown, PartitionStopped, StreamUnavailable
from cutbank.pipeline.scoring.model import PartitionModel, Scored
from cutbank.pipeline.scoring.scene import Scene
from cutbank.pipeline.scoring.state import check_newest_run
from cutbank.records import Position
from cutbank.transports.base import Lease


class Step:
    """One publish-and-commit, tried until it is known to be done."""

    def __init__(
        self, scene: Scene, lease: Lease, model: PartitionModel, scored: Scored, *, committed: Position
    ) -> None:
        self._scene = scene
        self._lease = lease
        self._model = model
        self._scored = scored
        self._committed = committed
        self._unsure = False

    async def attempt(self) -> None:
        """Raises StreamUnavailable to be called again."""
        if self._unsure and await self._done():
            return
        self._unsure = True
        try:
            if self._scored.outputs:
                await self._lease.publish_and_commit(self._scored.outputs, self._scored.end)
            else:
                await self._lease.commit(self._scored.end)
        except OutcomeUnknown as error:
            raise StreamUnavailable(str(error)) from error
        except MessageTooLarge as error:
            raise PartitionStopped(
                f"{self._lease.partition}: an output stream refuses a message that Cutbank's own limit lets pass "
                f"({error}); raise the stream's limit to {error.bytes_max} bytes or more"
            ) from error

    async def _done(self) -> bool:
        """After a fence, the committed position tells: the step's end: done; its start: not; else given up."""
        committed = await self._lease.fence()
        await check_newest_run(self._scene.state, self._model.run)
        if committed == self._scored.end:
            return True
        if committed != self._committed:
            raise Fenced(
                f"{self._lease.partition}: committed position {committed} is neither the start nor the end of the "
                f"step in hand ({self._committed} to {self._scored.end})"
            )
        return False
