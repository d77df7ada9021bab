r"""The bytes of a detector's state: a small container of named arrays. Owns the format; knows no detector.

    magic "CUTBANK\0" | u32 format version | u32 header length | header: JSON, UTF-8 | arrays | SHA-256 of all before

All numbers little-endian. The header names the detector, its algorithm version, its parameters, and the arrays in
order: name, dtype, shape. Arrays lie one after the other, C order, without padding. Nothing in it runs code.
Invariant: nothing is allocated before the lengths add up to what is there. Stateless.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutbank.detectors.parameters import Parameters
from cutbank.errors import SnapshotUnusable, UsageError

MAGIC = b"CUTBANK\0"
FORMAT_VERSION = 1

STATE_BYTES_MAX = 1 << 30
"""Largest state that is written or read, bytes."""
HEADER_BYTES_MAX = 1 << 16
"""Largest header, bytes."""
ARRAYS_MAX = 64
"""Most arrays in a state."""

_FIXED = struct.Struct("<8sII")
_DIGEST_BYTES = 32
_DTYPES = frozenset({"<f8", "<i8", "<i2", "<u8", "|u1"})

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class State:
    """A detector, taken apart."""

    name: str
    algorithm_version: int
    parameters: Parameters
    arrays: Arrays


def encode_state(state: State) -> bytes:
    """The state as bytes: the same state gives the same bytes."""
    arrays = {
        name: np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")) for name, array in state.arrays.items()
    }
    header = json.dumps(
        {
            "detector": state.name,
            "algorithm_version": state.algorithm_version,
            "parameters": asdict(state.parameters),
            "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
        },
        separators=(",", ":"),
    ).encode()
    assert len(header) <= HEADER_BYTES_MAX
    parts = [_FIXED.pack(MAGIC, FORMAT_VERSION, len(header)), header, *(array.tobytes() for array in arrays.values())]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def decode_state(data: bytes) -> State:
    """The inverse of `encode_state`; arrays are fresh and writable. Raises SnapshotUnusable, which says why."""
    if len(data) > STATE_BYTES_MAX:
        raise SnapshotUnusable(f"detector state has {len(data)} bytes, more than {STATE_BYTES_MAX}")
    if len(data) < _FIXED.size + _DIGEST_BYTES:
        raise SnapshotUnusable(f"detector state is cut off: {len(data)} bytes")
    magic, version, header_bytes = _FIXED.unpack_from(data)
    if magic != MAGIC:
        raise SnapshotUnusable("not a detector state: it does not begin with the magic bytes")
    if version != FORMAT_VERSION:
        raise SnapshotUnusable(f"detector state has format version {version}; this program reads {FORMAT_VERSION}")
    body_end = len(data) - _DIGEST_BYTES
    if hashlib.sha256(memoryview(data)[:body_end]).digest() != data[body_end:]:
        raise SnapshotUnusable("detector state is altered or cut off: its checksum differs")
    arrays_start = _FIXED.size + header_bytes
    if header_bytes > HEADER_BYTES_MAX or arrays_start > body_end:
        raise SnapshotUnusable(f"detector state has a header of {header_bytes} bytes")
    return _decode_body(data[_FIXED.size : arrays_start], memoryview(data)[arrays_start:body_end])


def _decode_body(header: bytes, body: memoryview) -> State:
    """A state from its header and the bytes of its arrays."""
    try:
        document = json.loads(header)
        name, algorithm_version = document["detector"], document["algorithm_version"]
        parameters = Parameters(**document["parameters"])
        arrays = _decode_arrays(document["arrays"], body)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SnapshotUnusable(f"detector state has a header that can't be read: {error}") from None
    except UsageError as error:
        raise SnapshotUnusable(f"detector state has parameters out of range: {error}") from None
    if not isinstance(name, str) or type(algorithm_version) is not int:
        raise SnapshotUnusable("detector state has a header that can't be read: no detector, or no version")
    return State(name=name, algorithm_version=algorithm_version, parameters=parameters, arrays=arrays)


def _decode_arrays(entries: list[Any], body: memoryview) -> dict[str, NDArray[Any]]:
    """Arrays by name. Raises SnapshotUnusable, or what unpacking a malformed entry raises."""
    if len(entries) > ARRAYS_MAX:
        raise SnapshotUnusable(f"detector state has {len(entries)} arrays, more than {ARRAYS_MAX}")
    plan: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = []
    for name, dtype, shape in entries:
        sizes = tuple(shape)
        if not isinstance(name, str) or dtype not in _DTYPES or not all(type(n) is int and n >= 0 for n in sizes):
            raise SnapshotUnusable(f"detector state has an array that can't be read: {name!r}, {dtype!r}, {shape!r}")
        plan.append((name, np.dtype(dtype), sizes))
    needed = sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in plan)
    if needed != len(body):
        raise SnapshotUnusable(f"detector state has {len(body)} bytes of arrays; its header says {needed}")
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, dtype, shape in plan:
        count = math.prod(shape)
        flat = np.frombuffer(body, dtype=dtype, count=count, offset=offset)
        arrays[name] = flat.astype(dtype.newbyteorder("="), copy=True).reshape(shape)
        offset += count * dtype.itemsize
    return arrays


def expect_arrays(arrays: Arrays, expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Check names, dtypes and shapes against what the parameters imply. Raises SnapshotUnusable."""
    if set(arrays) != set(expected):
        odd = sorted(set(arrays) ^ set(expected))
        raise SnapshotUnusable(f"detector state has other arrays than expected: {', '.join(odd)}")
    for name, (dtype, shape) in expected.items():
        array = arrays[name]
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise SnapshotUnusable(
                f"detector state: {name} is {array.dtype} {array.shape}; its parameters imply {dtype} {shape}"
            )
