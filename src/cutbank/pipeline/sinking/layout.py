"""Data objects: their names, and the order of their lines. Pure.

Order within an object: second of ROWTIME, then ANOMALY_SCORE descending, then position, as the SQL's
`ORDER BY STEP(ROWTIME BY INTERVAL '1' SECOND), ANOMALY_SCORE DESC` gave.
"""

from array import array
from urllib.parse import quote

import numpy as np

from cutbank.errors import UsageError
from cutbank.objects.base import KEY_BYTES_MAX, key_check
from cutbank.pipeline.sinking.claims import MINUTE_MS, MINUTE_MS_MAX, OBJECTS_MAX, ChainId, Layout
from cutbank.pipeline.sinking.prefix import VALUE_BYTES_MAX, folders, layout_check
from cutbank.records import Position, position_text

ARRIVAL_MS_MAX = MINUTE_MS_MAX + MINUTE_MS - 1
"""The last millisecond of the year 9999, the latest that a folder can be named after."""

CHECKED_POSITION = Position((1 << 64) - 1)
"""Names are checked with this position at the start: no log or Kafka offset is longer."""


def arrival_in_range(arrival_ms: int) -> int:
    """The arrival, or the nearest that has a date: a broker that stamps nonsense does not stop the stream."""
    return min(max(arrival_ms, 0), ARRIVAL_MS_MAX)


def minute_of(arrival_ms: int) -> int:
    """The beginning of the arrival's minute, milliseconds since the epoch."""
    return arrival_ms - arrival_ms % MINUTE_MS


def object_key(
    chain: ChainId, layout: Layout, *, start: Position, minute_ms: int, ordinal: int, value: str = ""
) -> str:
    """`<folders><pipeline>-<stream>-<partition>-<start>-<ordinal><ending>`; `value` as for `prefix.folders`.

    No two claims name one key, in whatever zone and folders, also in the hour that a zone's clocks repeat: `-` is
    escaped in all parts but the first, so that the name reads from its end.
    """
    partition = quote(chain.partition, safe="").replace("-", "%2D")
    name = f"{name_beginning(chain.pipeline, chain.stream)}{partition}-{position_text(start)}-{ordinal}{ending(layout)}"
    return folders(layout, minute_ms, value, seed=chain.claim_key(start)) + name


def name_beginning(pipeline: str, stream: str) -> str:
    """How the names of all objects of a stream begin, after their folders."""
    return f"{quote(pipeline, safe='')}-{quote(stream, safe='').replace('-', '%2D')}-"


def ending(layout: Layout) -> str:
    """How an object's name ends: what it holds, then how that is compressed, unless that is inside the file."""
    if layout.format == "parquet":
        return ".parquet"
    packed = {"none": "", "gzip": ".gz", "zstd": ".zst"}[layout.compression]
    return (".csv" if layout.format == "csv" else ".json") + packed


def names_check(chain: ChainId, layout: Layout, *, key_bytes_max: int = KEY_BYTES_MAX) -> None:
    """Whether every object of this chain will have a good key, of so many bytes at most. Raises UsageError."""
    layout_check(layout)
    value = "/".join(["x" * VALUE_BYTES_MAX] * len(layout.partition_keys))
    longest = object_key(
        chain, layout, start=CHECKED_POSITION, minute_ms=MINUTE_MS_MAX, ordinal=OBJECTS_MAX - 1, value=value
    )
    try:
        key_check(longest)
        if (size := len(longest.encode())) > key_bytes_max:
            raise ValueError(f"object key of {size} bytes, more than the {key_bytes_max} that the store's root leaves")
    except ValueError as error:
        raise UsageError(f"{chain}: with the prefix {layout.prefix!r} names get too long: {error}") from None


def order(seconds: "array[int]", scores: "array[float]") -> list[int]:
    """Indices of the lines in the object's order; the lines are in the order of their positions."""
    found: list[int] = np.lexsort((-np.frombuffer(scores), np.frombuffer(seconds, dtype=np.int64))).tolist()
    return found
