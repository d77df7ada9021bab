"""A detector for tests of pipelines: cheap, and its score depends on every record before.

Where a real detector would smooth a lost, doubled or swapped record over, this one's scores all differ from there on.
No asyncio; belongs to one partition and one task, like every detector.
"""

import struct
import zlib
from typing import Self

import numpy as np

from cutbank.detectors.base import Features, Scores
from cutbank.errors import SnapshotUnusable
from cutbank.pipeline.scoring.model import DetectorSource

_STATE = struct.Struct(">4sIdIQ")
_CHECKSUM = struct.Struct(">I")
_MAGIC = b"chn1"


class ChainDetector:
    """Scores are links of a chain of CRC-32 over the bytes of all features so far.

    The CRC of the rest is a bijection of the CRC so far, so two chains that differ once differ at every later record.
    Scores lie in [share, 1 + share) evenly, so a share of the records is over 1.
    """

    def __init__(self, *, dimensions: int, share: float = 0.1, link: int = 0, records: int = 0) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share is {share}, not within 0 to 1")
        self._dimensions = dimensions
        self._share = share
        self._link = link
        self.records = records
        """How many records it has learnt."""

    @property
    def name(self) -> str:
        """`chain`; not in the registry."""
        return "chain"

    @property
    def algorithm_version(self) -> int:
        """Changes only when a score would."""
        return 1

    @property
    def dimensions(self) -> int:
        """Number of features a record has."""
        return self._dimensions

    def score_then_learn(self, features: Features) -> Scores:
        """See `Detector`. A record's score is the link that it makes itself."""
        if features.ndim != 2 or features.shape[1] != self._dimensions or features.dtype != np.float64:
            raise ValueError(f"features are float64 (n, {self._dimensions}), not {features.dtype} {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError("a feature is not finite")
        links = np.empty(len(features), dtype=np.float64)
        row_bytes = self._dimensions * 8
        data = memoryview(np.ascontiguousarray(features, dtype="<f8").tobytes())
        link = self._link
        for row in range(len(features)):
            link = zlib.crc32(data[row * row_bytes : (row + 1) * row_bytes], link)
            links[row] = link
        self._link = link
        self.records += len(features)
        return links / 2.0**32 + self._share

    def to_bytes(self) -> bytes:
        """The whole state, with a checksum."""
        body = _STATE.pack(_MAGIC, self._dimensions, self._share, self._link, self.records)
        return body + _CHECKSUM.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        """The inverse. Raises SnapshotUnusable."""
        body, checksum = state[: _STATE.size], state[_STATE.size :]
        if checksum != _CHECKSUM.pack(zlib.crc32(body)) or not body.startswith(_MAGIC):
            raise SnapshotUnusable("not the state of a chain detector, or corrupt")
        _, dimensions, share, link, records = _STATE.unpack(body)
        return cls(dimensions=dimensions, share=share, link=link, records=records)


def chain_detectors(*, dimensions: int, share: float = 0.1) -> DetectorSource:
    """Chain detectors for `run_scorer(…, detectors=…)`."""
    return DetectorSource(
        algorithm_version=1,
        create=lambda: ChainDetector(dimensions=dimensions, share=share),
        restore=ChainDetector.from_bytes,
    )
