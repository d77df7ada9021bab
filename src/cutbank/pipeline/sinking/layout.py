"""Lines to data objects: names, order, hashes. Pure: the same claim and records give the same bytes anywhere.

Order within an object: second of ROWTIME, then ANOMALY_SCORE descending, then position, as the SQL's
`ORDER BY STEP(ROWTIME BY INTERVAL '1' SECOND), ANOMALY_SCORE DESC` gave.
Blocking (sorting and hashing megabytes): for a thread.
"""

import hashlib
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from cutbank.pipeline.sinking.claims import MINUTE_MS, MINUTE_MS_MAX, ChainId, DataObject, Layout
from cutbank.records import Position, position_text

ARRIVAL_MS_MAX = MINUTE_MS_MAX + MINUTE_MS - 1
"""The last millisecond of the year 9999, the latest that a folder can be named after."""


def arrival_in_range(arrival_ms: int) -> int:
    """The arrival, or the nearest that has a date: a broker that stamps nonsense does not stop the stream."""
    return min(max(arrival_ms, 0), ARRIVAL_MS_MAX)


def minute_of(arrival_ms: int) -> int:
    """The beginning of the arrival's minute, milliseconds since the epoch."""
    return arrival_ms - arrival_ms % MINUTE_MS


def prefix(layout: Layout, minute_ms: int) -> str:
    """The folders of a data object, with a slash at the end: `2026/11/22/23/`."""
    assert layout.prefix == "yyyy/MM/dd/HH/", "the only prefix of this version"
    return f"{datetime.fromtimestamp(minute_ms // 1000, UTC):%Y/%m/%d/%H/}"


def object_key(chain: ChainId, layout: Layout, *, start: Position, minute_ms: int, ordinal: int) -> str:
    """`<prefix><pipeline>-<stream>-<partition>-<start>-<ordinal>.json`.

    No two claims name one key: `-` is escaped in all parts but the first, so that the name reads from its end.
    """
    stream, partition = (quote(part, safe="").replace("-", "%2D") for part in (chain.stream, chain.partition))
    name = f"{quote(chain.pipeline, safe='')}-{stream}-{partition}-{position_text(start)}-{ordinal}.json"
    return prefix(layout, minute_ms) + name


def arrange(lines: Sequence[bytes], seconds: "array[int]", scores: "array[float]") -> bytes:
    """The lines in the object's order, each ended by a newline. `lines` are in the order of their positions."""
    # Two stable sorts, the minor key first: without a tuple for each line, in a third of the time and memory.
    order = sorted(range(len(lines)), key=scores.__getitem__, reverse=True)
    order.sort(key=seconds.__getitem__)
    ordered = [lines[index] for index in order]
    ordered.append(b"")
    return b"\n".join(ordered)


def describe(key: str, body: bytes, count: int) -> DataObject:
    """What a claim says of an object."""
    return DataObject(key=key, count=count, line_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
