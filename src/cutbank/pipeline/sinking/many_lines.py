"""Many records read at once: what `lines.LineReader` makes of each, in a third of its time. Pure.

Invariant: where `read_many` answers, every record is one of Cutbank's own, whole and plain, and each column says what
`LineReader.line` says of it, value for value. Whatever is odd in any record of the call (not ours, not JSON, a line
break, a time that no calendar has) gives None: then the caller reads them one by one. So nothing is decided here.
Thread-safe; blocking, for a thread, as it holds the interpreter.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from operator import itemgetter, lt
from typing import Any, Self, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from cutbank.pipeline.sinking.lines import PARTITION_CHARACTERS_MAX, RUN_MAX, Source, second_of
from cutbank.pipeline.sinking.prefix import partition_value, path_value
from cutbank.records import Position, position_from_text

RECORDS_BEST = 256
"""Records that are best read in one call: more parsed ones at a time keep the garbage collector busy."""

PATHS_MAX = 4096
"""Partition values whose form in a path is kept, since neighbours share them; the one used longest ago goes."""

PATH_CHARACTERS_MAX = 256
"""Longest of them, characters; of a longer one the form is made each time."""

_ANOMALY = itemgetter("ANOMALY_SCORE", "ROWTIME", "SOURCE")
_ERROR = itemgetter("ERROR_TIME", "SOURCE")
_SOURCE = itemgetter("pipeline", "stream", "partition", "run", "position", "ordinal")
_NUMBERS = {int, float}
_FLOATS = {float}
_INTEGERS = {int}
_STRINGS = {str}
_POSITION_END = 1 << 64
_ROWTIME_BYTES = 24
_SECOND_BYTES = 19
_FORM = np.frombuffer(b"0000-00-00T00:00:00.000Z", dtype=np.uint8)
_SPAN = np.where(ord("0") == _FORM, 9, 0).astype(np.uint8)
_TO_SECOND = np.uint64(0xFF_FFFF)


@dataclass(frozen=True, slots=True)
class Lines:
    """Records in their order; every column has their number."""

    texts: Sequence[bytes]
    """Their lines, without their ends."""
    bytes: int
    """Of all lines, without their ends."""
    seconds: NDArray[np.int64]
    """Since the epoch."""
    scores: Sequence[float]
    """-inf: none."""
    pipelines: Sequence[str]
    partitions: Sequence[str]
    """Of the sources, each with its stream."""
    runs: Sequence[int]
    positions: Sequence[Position]
    ordinals: Sequence[int]
    alike: bool
    """Whether pipeline, partition and run are the same for all, and the positions increase."""
    values: Sequence[str]
    """Of the partition keys, as they stand in a path; empty where there are no keys."""

    def __len__(self) -> int:
        return len(self.texts)

    def sources(self) -> Iterator[Source]:
        """Every record's identity."""
        return map(Source, self.pipelines, self.partitions, self.runs, self.positions, self.ordinals)

    def source(self, index: int) -> Source:
        """One record's identity."""
        return Source(
            self.pipelines[index],
            self.partitions[index],
            self.runs[index],
            self.positions[index],
            self.ordinals[index],
        )

    def only(self, kept: Sequence[int]) -> Self:
        """The records with these indices."""
        texts = [self.texts[index] for index in kept]
        chosen = {
            name: [getattr(self, name)[index] for index in kept]
            for name in ("scores", "pipelines", "partitions", "runs", "positions", "ordinals")
        }
        return replace(
            self,
            texts=texts,
            bytes=sum(map(len, texts)),
            seconds=self.seconds[list(kept)],
            alike=False,
            values=[self.values[index] for index in kept] if self.values else (),
            **chosen,
        )


def read_many(values: Sequence[bytes], *, partition_keys: Sequence[str] = ()) -> Lines | None:
    """These records, at least one, all at once; None: read them one by one."""
    joined = b"".join(values)
    if b"\n" in joined or b"\r" in joined:
        return None
    try:
        return _anomalies(values, len(joined), partition_keys)
    except (ValueError, TypeError, KeyError, OverflowError):
        # No JSON (a ValueError too), no object, a field that is missing or odd: one by one says which, and what of it.
        return None


def _anomalies(texts: Sequence[bytes], size: int, partition_keys: Sequence[str]) -> Lines | None:
    paths: Sequence[str] = ()
    try:
        if partition_keys:
            rows = list(map(orjson.loads, texts))
            found = list(map(_ANOMALY, rows))
            paths = _paths(rows, partition_keys)
        else:
            # A row dies as soon as its fields are taken.
            found = list(map(_ANOMALY, map(orjson.loads, texts)))
    except KeyError:
        return _errors(texts, size, partition_keys)
    scores, rowtimes, sources = zip(*found, strict=True)
    kinds = set(map(type, scores))
    if not kinds <= _NUMBERS:
        return None
    if kinds != _FLOATS:
        scores = tuple(map(float, scores))
    return _of_sources(texts, size, _seconds(rowtimes), scores, sources, paths)


def _errors(texts: Sequence[bytes], size: int, partition_keys: Sequence[str]) -> Lines | None:
    """Error records: ERROR_TIME stands for ROWTIME, and there is no score."""
    rows = list(map(orjson.loads, texts))
    if any("ROWTIME" in row or "ANOMALY_SCORE" in row for row in rows):
        return None
    times, sources = zip(*map(_ERROR, rows), strict=True)
    paths = _paths(rows, partition_keys) if partition_keys else ()
    return _of_sources(texts, size, _seconds(times), [-inf] * len(texts), sources, paths)


def _of_sources(
    texts: Sequence[bytes],
    size: int,
    seconds: NDArray[np.int64] | None,
    scores: Sequence[float],
    sources: Sequence[Any],
    paths: Sequence[str],
) -> Lines | None:
    if seconds is None:
        return None
    count = len(texts)
    pipelines, streams, ids, runs, places, ordinals = zip(*map(_SOURCE, sources), strict=True)
    if not (_counts(runs) and _counts(ordinals)):
        return None
    if all(type(each[0]) is str and each.count(each[0]) == count for each in (pipelines, streams, ids)):
        alike, partitions = runs.count(runs[0]) == count, [f"{streams[0]}/{ids[0]}"] * count
    elif all(set(map(type, each)) == _STRINGS for each in (pipelines, streams, ids)):
        alike, partitions = False, list(map("{}/{}".format, streams, ids))
    else:
        return None
    if max(map(len, partitions)) > PARTITION_CHARACTERS_MAX:
        return None
    positions = _positions(places)
    return Lines(
        texts=texts,
        bytes=size,
        seconds=seconds,
        scores=scores,
        pipelines=pipelines,
        partitions=partitions,
        runs=runs,
        positions=positions,
        ordinals=ordinals,
        alike=alike and all(map(lt, positions, positions[1:])),
        values=paths,
    )


def _counts(numbers: Sequence[Any]) -> bool:
    """Whether these are integers (a boolean is none) from 0 to `RUN_MAX`."""
    if set(map(type, numbers)) != _INTEGERS:
        return False
    different = set(numbers)
    return bool(min(different) >= 0 and max(different) <= RUN_MAX)


def _seconds(times: Sequence[Any]) -> NDArray[np.int64] | None:
    """Seconds of texts like "2026-11-22T23:00:00.123Z"; None: one is none. Raises ValueError, TypeError for others."""
    if set(map(len, times)) != {_ROWTIME_BYTES}:
        return None
    table = np.frombuffer("".join(times).encode("ascii"), dtype=np.uint8)
    if not (table.reshape(-1, _ROWTIME_BYTES) - _FORM <= _SPAN).all():  # bytes: what lies before "0" wraps around
        return None
    # Neighbours share their second: each run of equal ones is read once. Eight characters are one number.
    one, two, three = table.view("<u8").reshape(-1, 3).T
    three = three & _TO_SECOND
    changes = np.flatnonzero((one[1:] != one[:-1]) | (two[1:] != two[:-1]) | (three[1:] != three[:-1])) + 1
    firsts = [0, *changes.tolist()]
    seconds = np.array([second_of(times[first][:_SECOND_BYTES]) for first in firsts], dtype=np.int64)
    return np.repeat(seconds, np.diff(firsts, append=len(times)))


def _positions(texts: Sequence[Any]) -> Sequence[Position]:
    """As `position_from_text` reads each. Raises ValueError, TypeError."""
    joined = "".join(texts)
    if joined.isascii() and joined.isdigit() and "" not in texts:
        numbers = list(map(int, texts))
        if max(numbers) < _POSITION_END:
            return cast("Sequence[Position]", numbers)
    return list(map(position_from_text, texts))


def _paths(rows: Sequence[Any], keys: Sequence[str]) -> Sequence[str]:
    """`prefix.partition_value` of each row, which is an object."""
    parts: list[Sequence[str]] = []
    for key in keys:
        try:
            found = list(map(itemgetter(key), rows))
        except KeyError:
            # A dotted name, or a record without this field.
            return [partition_value(row, keys) for row in rows]
        if set(map(type, found)) == _STRINGS and max(map(len, found)) <= PATH_CHARACTERS_MAX:
            parts.append(list(map(_path_of_text, found)))
        else:
            parts.append(list(map(path_value, found)))
    return parts[0] if len(parts) == 1 else list(map("/".join, zip(*parts, strict=True)))


_path_of_text = lru_cache(maxsize=PATHS_MAX)(path_value)
