"""Reads who an anomaly is from the end of its line, as the scorer writes it: many lines at once, as bytes. Pure.

    …,"ANOMALY_SCORE":1.25,"ROWTIME":"2026-11-22T23:00:00.123Z","SOURCE":{"pipeline":…,"position":"123","ordinal":0}}

Invariant: where `read_tails` answers, each value is the one that `sinking.lines.LineReader` gives. Every line is parsed
as JSON first, and of a whole JSON object that ends in these bytes nothing else can be meant: were the first of them
inside a string, its name would stand outside of one, which is no JSON; the last brace closes the object, so the members
before it are the object's own; and of two members of one name the last one counts. Whatever does not end so gives None,
and `sinking.many_lines` reads it, in more time. Thread-safe; blocking, as it holds the interpreter.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from cutbank.pipeline.sinking.lines import PARTITION_CHARACTERS_MAX, RUN_MAX, second_of

ENDS_MAX = 8
"""Different ends that are told apart among the lines of one call: of so many source partitions, runs and lengths."""

ENDS_KEPT = 256
"""Different ends that are kept, since neighbours share them; the one used longest ago is made anew."""

_SCORE = itemgetter("ANOMALY_SCORE")
_NUMBERS = frozenset({int, float})
_ROWTIME = b"0000-00-00T00:00:00.000Z"
_ROWTIME_AT = len(b',"ROWTIME":"')
_SECOND_CHARACTERS = 19
_TO_SECOND = np.uint64(0xFF_FFFF)
_ZERO, _TEN, _ZERO_BYTE = np.uint64(ord("0")), np.uint64(10), np.uint8(ord("0"))
_END = re.compile(
    rb',"ROWTIME":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","SOURCE":\{"pipeline":"([^"\\]*)","stream":"([^"\\]*)",'
    rb'"run":(\d{1,19}),"partition":"([^"\\]*)","position":"(\d{1,19})","ordinal":(\d{1,19})\}\}'
)


class _End(NamedTuple):
    """The end that lines of one source partition and run have in common, and where they differ in digits."""

    pipeline: str
    partition: str
    run: int
    ordinal: int
    low: NDArray[np.uint8]
    """Each byte, or of a digit the least."""
    span: NDArray[np.uint8]
    """How far a byte may lie above it."""
    digits: slice
    """Of the position; 19 at most, which fit 64 bits."""


@dataclass(frozen=True, slots=True)
class Tails:
    """The lines of one call, in their order."""

    scores: Sequence[float]
    seconds: NDArray[np.int64]
    """Since the epoch."""
    names: NDArray[np.int64]
    """Of the source partitions, as the caller numbers them."""
    runs: NDArray[np.int64]
    positions: NDArray[np.uint64]
    ordinals: NDArray[np.int64]


def read_tails(texts: Sequence[bytes], number: Callable[[str, str], int]) -> Tails | None:
    """These lines, at least one, without their ends; None: read them in another way.

    `number` gives the number of a pipeline's source partition; it may be asked for some although None is the answer.
    """
    try:
        # A row dies as soon as its score is taken.
        scores = list(map(_SCORE, map(orjson.loads, texts)))
        if not set(map(type, scores)) <= _NUMBERS:
            return None
        return _read(texts, scores, number)
    except (ValueError, TypeError, KeyError):
        return None  # no JSON (a ValueError too), no object, no score, a time that no calendar has


def _read(texts: Sequence[bytes], scores: Sequence[float], number: Callable[[str, str], int]) -> Tails | None:
    count = len(texts)
    columns = [np.empty(count, dtype=np.int64) for _ in range(4)]
    seconds, names, runs, ordinals = columns
    positions = np.empty(count, dtype=np.uint64)
    found = Tails(scores, seconds, names, runs, positions, ordinals)
    left: NDArray[np.int64] | None = None  # all of them
    for tried in range(ENDS_MAX):
        chosen = texts if left is None else [texts[index] for index in left.tolist()]
        end = _end_of(chosen[0])
        table = None if end is None else _table(end, chosen)
        if end is None or table is None:
            return None
        fits = table - end.low <= end.span  # bytes: what lies below wraps around
        rows: Any = slice(None) if fits.all() else fits.all(axis=1)
        into = rows if left is None else left[rows]
        seconds[into] = _seconds(table[rows, _ROWTIME_AT : _ROWTIME_AT + len(_ROWTIME)])
        positions[into] = _numbers(table[rows, end.digits])
        names[into], runs[into], ordinals[into] = number(end.pipeline, end.partition), end.run, end.ordinal
        if isinstance(rows, slice):
            return found
        left = np.flatnonzero(~rows) if left is None else left[~rows]
        if tried == 1 and (count - len(left)) * ENDS_MAX < 2 * count:
            return None  # two ends are so few of the lines that there must be too many
    return None


def _end_of(text: bytes) -> _End | None:
    """The end of a line; None: it is not as the scorer writes it."""
    match = _END.fullmatch(text, text.rfind(b',"ROWTIME":"'))
    if match is None:
        return None
    pipeline, stream, run, partition, position, ordinal = match.groups()
    return _end(pipeline, stream, run, partition, len(position), ordinal)


@lru_cache(maxsize=ENDS_KEPT)
def _end(pipeline: bytes, stream: bytes, run: bytes, partition: bytes, digits: int, ordinal: bytes) -> _End | None:
    before = b',"SOURCE":{"pipeline":"%s","stream":"%s","run":%s,"partition":"%s","position":"' % (
        pipeline,
        stream,
        run,
        partition,
    )
    first = _ROWTIME_AT + len(_ROWTIME) + 1 + len(before)
    after = b'","ordinal":%s}}' % ordinal
    low = b',"ROWTIME":"' + _ROWTIME + b'"' + before + b"0" * digits + after
    span = np.zeros(len(low), dtype=np.uint8)
    span[first : first + digits] = 9
    span[_ROWTIME_AT : _ROWTIME_AT + len(_ROWTIME)] = [9 if byte == ord("0") else 0 for byte in _ROWTIME]
    whole = f"{stream.decode()}/{partition.decode()}"
    if len(whole) > PARTITION_CHARACTERS_MAX or max(int(run), int(ordinal)) > RUN_MAX:
        return None
    return _End(
        pipeline.decode(),
        whole,
        int(run),
        int(ordinal),
        np.frombuffer(low, dtype=np.uint8),
        span,
        slice(first, first + digits),
    )


def _table(end: _End, texts: Sequence[bytes]) -> NDArray[np.uint8] | None:
    """The ends of these lines, a row each; None: a line is shorter than that."""
    width = len(end.low)
    joined = b"".join([text[-width:] for text in texts])
    if len(joined) != width * len(texts):
        return None
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(texts), width)


def _seconds(rowtimes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Seconds of texts like "2026-11-22T23:00:00.123Z", a row each. Raises ValueError."""
    rowtimes = np.ascontiguousarray(rowtimes)
    # Neighbours share their second: each run of equal ones is read once. Eight characters are one number.
    one, two, three = rowtimes.view("<u8").reshape(-1, 3).T
    three = three & _TO_SECOND
    changes = np.flatnonzero((one[1:] != one[:-1]) | (two[1:] != two[:-1]) | (three[1:] != three[:-1])) + 1
    firsts = [0, *changes.tolist()]
    texts = [rowtimes[first, :_SECOND_CHARACTERS].tobytes().decode() for first in firsts]
    return np.repeat(np.array([second_of(text) for text in texts]), np.diff(firsts, append=len(rowtimes)))


def _numbers(digits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The numbers that rows of digits are."""
    values = digits[:, 0].astype(np.uint64) - _ZERO
    for column in digits.T[1:]:
        values = values * _TEN + (column - _ZERO_BYTE)
    return values
