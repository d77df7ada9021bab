"""Values of typed columns: which JSON values are of a column's type, and how they read as JSON again. Pure.

Invariant: a value that `typed` says is told as it was comes out of `shown` as the JSON text that it was read from.
Thread-safe; blocking, for a thread, as it holds the interpreter.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from math import copysign
from typing import Any

import numpy as np

SOURCE_FIELDS = ("pipeline", "stream", "run", "partition", "position", "ordinal")
"""Of the type SOURCE, in this order; run and ordinal are integers, the others text."""

INTEGERS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}
"""Types of whole numbers, and their bits."""

FLOATS = frozenset({"REAL", "FLOAT", "DOUBLE"})

_EXACT_MAX = 1 << 53
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
"""No time is of the hour 24: Python 3.14 and later read T24:00:00 as the next day's beginning, which shows as T00."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def typed(kind: str, values: list[Any], *, plain: bool) -> tuple[list[Any], bool]:
    """Values as their column has them, null where they are not of its type; whether each is told as it was."""
    kinds = set(map(type, values)) - {type(None)}
    if plain and kinds <= {int, float}:
        told = all(value is None or (type(value) is int) is is_whole(value) for value in values)
        return [None if value is None else float(value) for value in values], told
    if kinds <= {_PLAIN.get(kind)} and (kind not in INTEGERS or _in_range(values, INTEGERS[kind])):
        return values, True
    found = list(map(_FITTING[kind], values))
    return found, kind in _READ and found.count(None) == values.count(None)


def _in_range(values: list[int | None], bits: int) -> bool:
    numbers = [value for value in values if value is not None]
    return not numbers or (min(numbers) >= -(1 << bits - 1) and max(numbers) < 1 << bits - 1)


def is_whole(value: Any) -> bool:
    """Whether a number can be written with and without a point, and is the same."""
    if type(value) is float:
        return value.is_integer() and abs(value) < _EXACT_MAX and (value != 0.0 or copysign(1.0, value) > 0)
    return type(value) is int and abs(value) < _EXACT_MAX


def _real(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None


def _integer(value: Any, *, bits: int) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(1 << bits - 1) <= value < 1 << bits - 1 else None


def _of_type(value: Any, *, wanted: type) -> Any:
    return value if type(value) is wanted else None


def _source(value: Any) -> dict[str, Any] | None:
    """An identity as the scorer writes it; None for anything else."""
    if type(value) is not dict or tuple(value) != SOURCE_FIELDS:
        return None
    pipeline, stream, run, partition, position, ordinal = value.values()
    if not type(pipeline) is type(stream) is type(partition) is type(position) is str:
        return None
    whole = all(type(number) is int and _integer(number, bits=64) is not None for number in (run, ordinal))
    return value if whole else None


def _time_ms(value: Any) -> int | None:
    """Milliseconds since the epoch of "2026-11-22T23:00:00.123Z"; None for anything else."""
    return _read_time_ms(value) if type(value) is str else None


@lru_cache(maxsize=4096)
def _read_time_ms(text: str) -> int | None:
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // _MS
    except ValueError:
        return None


_PLAIN: Mapping[str, type] = {
    **dict.fromkeys(FLOATS, float),
    **dict.fromkeys(INTEGERS, int),
    "VARCHAR": str,
    "BOOLEAN": bool,
}
"""The type that JSON's values of a column have, where that is told as it is written."""

_READ = frozenset({"TIMESTAMP", "SOURCE"})
"""Types whose values are told as they are written if they are of the type at all."""

_FITTING: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(FLOATS, _real),
    **{kind: partial(_integer, bits=bits) for kind, bits in INTEGERS.items()},
    "VARCHAR": partial(_of_type, wanted=str),
    "BOOLEAN": partial(_of_type, wanted=bool),
    "TIMESTAMP": _time_ms,
    "SOURCE": _source,
}
"""A value as its column has it, or None."""


def shown(kind: str, values: list[Any], *, plain: bool = False) -> list[Any]:
    """A column's values as a row's JSON has them."""
    if plain and kind in FLOATS:
        return [int(value) if is_whole(value) else value for value in values]
    if kind != "TIMESTAMP" or values.count(None) == len(values):
        return values
    texts = np.datetime_as_string(np.array([value or 0 for value in values], dtype="M8[ms]"), unit="ms").tolist()
    return [None if value is None else f"{text}Z" for value, text in zip(values, texts, strict=True)]
