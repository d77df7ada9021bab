"""What one partition has scored and not yet begun to publish, joined into one step whenever the log is free.

Owns the pieces in the order they were scored. Invariant: a step is a run of whole pieces that follow each other, from
the oldest on: it publishes all outputs of its records, in order, and commits their end. While one step is under way the
pieces of the next one gather here, so that a record waits for one publish at the most, and the log is asked as seldom
as it is slow. Event-loop only.
"""

from collections import Counter, deque
from collections.abc import Callable

from cutbank.pipeline.scoring.model import Scored
from cutbank.pipeline.scoring.room import Room

PIECES_MAX = 64
"""Most pieces that wait; then no more is scored until a step has taken them, and the batches read grow instead."""


class Backlog:
    """Pieces on their way to be published."""

    def __init__(self, room: Callable[[], Room]) -> None:
        """`room`: how many outputs, and bytes of them, a step may have now; one piece alone may have more."""
        self._room = room
        self._pieces: deque[tuple[Scored, int]] = deque()

    def __len__(self) -> int:
        """How many pieces wait."""
        return len(self._pieces)

    @property
    def full(self) -> bool:
        """Whether what waits would fill a step: nothing more should be scored."""
        return len(self._pieces) >= PIECES_MAX or self._fitting() < len(self._pieces) or self._heavy()

    def put(self, scored: Scored) -> None:
        """One more, which begins where the last one ended."""
        assert not self._pieces or self._pieces[-1][0].end <= scored.start, "in order"
        self._pieces.append((scored, sum(len(output.value) for output in scored.outputs)))

    def take(self) -> Scored:
        """The next step: as many pieces as fit, one at least."""
        pieces = [self._pieces.popleft()[0] for _ in range(self._fitting())]
        return pieces[0] if len(pieces) == 1 else _joined(pieces)

    def _fitting(self) -> int:
        """How many pieces, from the oldest on, one step takes."""
        outputs_max, bytes_max = self._room()
        count = outputs = size = 0
        for scored, size_bytes in self._pieces:
            outputs += len(scored.outputs)
            size += size_bytes
            if count and (outputs > outputs_max or size > bytes_max):
                break
            count += 1
        return count

    def _heavy(self) -> bool:
        outputs_max, bytes_max = self._room()
        outputs = sum(len(scored.outputs) for scored, _ in self._pieces)
        return outputs >= outputs_max or sum(size for _, size in self._pieces) >= bytes_max


def _joined(pieces: list[Scored]) -> Scored:
    return Scored(
        start=pieces[0].start,
        end=pieces[-1].end,
        outputs=[output for piece in pieces for output in piece.outputs],
        records=sum(piece.records for piece in pieces),
        scored=sum(piece.scored for piece in pieces),
        anomalies=sum(piece.anomalies for piece in pieces),
        errors=sum((piece.errors for piece in pieces), Counter()),
        anomaly_arrivals_ms=[arrival_ms for piece in pieces for arrival_ms in piece.anomaly_arrivals_ms],
    )
