"""What a model's life is kept in: births and snapshots, as bytes, and the keys they lie under.

    <pipeline>/<stream>/birth                                the stream's identity, and where each partition starts
    <pipeline>/<stream>/<partition>/<run>/birth              a run: its spec's hash and its start
    <pipeline>/<stream>/<partition>/<run>/<next, inverted>   a snapshot: the model that has seen all before `next`

A file is: 8 bytes magic, format version (u16), length of the header (u32, both big-endian), the header as JSON, the
detector's own bytes (empty in births), SHA-256 of all before. Values only, no I/O; thread-safe.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from cutbank.detectors import MODEL_BYTES_MAX
from cutbank.errors import SnapshotUnusable
from cutbank.records import (
    Partition,
    Position,
    position_from_inverted,
    position_from_text,
    position_inverted,
    position_text,
)

SNAPSHOT_BYTES_MAX = MODEL_BYTES_MAX + (1 << 20)
"""Largest snapshot, bytes: the largest model and a header. What can't be kept isn't scored with."""

FORMAT_VERSION = 1
"""Of births and snapshots. A reader refuses a newer one."""

_MAGIC = b"CUTBANK\n"
_FRAME = struct.Struct(">8sHI")
_DIGEST_BYTES = hashlib.sha256().digest_size
_RUN_DIGITS = 8
RUN_MAX = 10**_RUN_DIGITS - 1
"""The highest number a run can have."""


@dataclass(frozen=True, slots=True)
class StreamBirth:
    """The first time that a pipeline saw its source stream."""

    pipeline: str
    stream: str
    identity: str
    """The stream's, as the transport tells it: another one under the same name has another."""
    starts: Mapping[str, Position]
    """Where each partition that was there starts, by id. One found later starts at its beginning."""


@dataclass(frozen=True, slots=True)
class Run:
    """One life of a partition's model under one spec."""

    pipeline: str
    partition: Partition
    identity: str
    """The stream's."""
    number: int
    """1 and up; one more than the last of this partition."""
    spec_hash: str


@dataclass(frozen=True, slots=True)
class Birth:
    """The beginning of a run, with an empty model."""

    run: Run
    start: Position
    """The first position that the run sees."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model at rest: everything that a later score, ROWTIME or line depends on."""

    run: Run
    next: Position
    """The first position that the model has not seen."""
    clamp_ms: int
    records: int
    errors: int
    anomalies: int
    threshold: float
    detector: bytes
    """Its `to_bytes`."""


def stream_birth_key(pipeline: str, stream: str) -> str:
    """The key of a stream's birth."""
    return f"{pipeline}/{stream}/birth"


def partition_prefix(pipeline: str, partition: Partition) -> str:
    """What the keys of all runs of a partition start with."""
    return f"{pipeline}/{partition.stream}/{partition.id}/"


def birth_key(pipeline: str, partition: Partition, run: int) -> str:
    """The key of a run's birth."""
    return f"{partition_prefix(pipeline, partition)}{run:0{_RUN_DIGITS}d}/birth"


def snapshot_key(pipeline: str, partition: Partition, run: int, next_position: Position) -> str:
    """The key of a snapshot; within a run the newest sorts first."""
    return f"{partition_prefix(pipeline, partition)}{run:0{_RUN_DIGITS}d}/{position_inverted(next_position)}"


def parse_key(prefix: str, key: str) -> tuple[int, Position | None] | None:
    """What a key under a partition's prefix names: the run, and a snapshot's position or None for a birth.

    None for files that are not ours.
    """
    run, slash, name = key.removeprefix(prefix).partition("/")
    if not (slash and len(run) == _RUN_DIGITS and run.isascii() and run.isdigit()):
        return None
    try:
        return int(run), None if name == "birth" else position_from_inverted(name)
    except ValueError:
        return None


def stream_birth_bytes(birth: StreamBirth) -> bytes:
    """A stream's birth as it is kept."""
    starts = {partition_id: position_text(start) for partition_id, start in birth.starts.items()}
    return _seal(
        {
            "kind": "stream birth",
            "pipeline": birth.pipeline,
            "stream": birth.stream,
            "identity": birth.identity,
            "starts": starts,
        }
    )


def stream_birth_from_bytes(body: bytes, *, key: str) -> StreamBirth:
    """The inverse. Raises SnapshotUnusable."""
    header, _ = _open(body, kind="stream birth", key=key)
    try:
        return StreamBirth(
            pipeline=str(header["pipeline"]),
            stream=str(header["stream"]),
            identity=str(header["identity"]),
            starts={str(name): position_from_text(start) for name, start in header["starts"].items()},
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise SnapshotUnusable(f"{key}: its header lacks what a birth has ({error!r})") from None


def birth_bytes(birth: Birth) -> bytes:
    """A run's birth as it is kept."""
    return _seal({"kind": "birth", **_run_header(birth.run), "start": position_text(birth.start)})


def birth_from_bytes(body: bytes, *, key: str) -> Birth:
    """The inverse. Raises SnapshotUnusable."""
    header, _ = _open(body, kind="birth", key=key)
    try:
        return Birth(run=_run_of(header), start=position_from_text(header["start"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise SnapshotUnusable(f"{key}: its header lacks what a birth has ({error!r})") from None


def snapshot_bytes(snapshot: Snapshot) -> bytes:
    """A snapshot as it is kept."""
    header = {
        "kind": "snapshot",
        **_run_header(snapshot.run),
        "next": position_text(snapshot.next),
        "clamp_ms": snapshot.clamp_ms,
        "records": snapshot.records,
        "errors": snapshot.errors,
        "anomalies": snapshot.anomalies,
        "threshold": snapshot.threshold,
    }
    return _seal(header, snapshot.detector)


def snapshot_from_bytes(body: bytes, *, key: str) -> Snapshot:
    """The inverse. Raises SnapshotUnusable."""
    header, detector = _open(body, kind="snapshot", key=key)
    try:
        return Snapshot(
            run=_run_of(header),
            next=position_from_text(header["next"]),
            clamp_ms=int(header["clamp_ms"]),
            records=int(header["records"]),
            errors=int(header["errors"]),
            anomalies=int(header["anomalies"]),
            threshold=float(header["threshold"]),
            detector=detector,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise SnapshotUnusable(f"{key}: its header lacks what a snapshot has ({error!r})") from None


def _run_header(run: Run) -> dict[str, Any]:
    return {
        "pipeline": run.pipeline,
        "stream": run.partition.stream,
        "partition": run.partition.id,
        "identity": run.identity,
        "run": run.number,
        "spec_hash": run.spec_hash,
    }


def _run_of(header: Mapping[str, Any]) -> Run:
    return Run(
        pipeline=str(header["pipeline"]),
        partition=Partition(str(header["stream"]), str(header["partition"])),
        identity=str(header["identity"]),
        number=int(header["run"]),
        spec_hash=str(header["spec_hash"]),
    )


def _seal(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    text = orjson.dumps(header)
    parts = (_FRAME.pack(_MAGIC, FORMAT_VERSION, len(text)), text, body)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    # Joined once: a large model's body is not copied more often than need be.
    return b"".join((*parts, digest.digest()))


def _open(sealed: bytes, *, kind: str, key: str) -> tuple[dict[str, Any], bytes]:
    """Header and body, checked. Raises SnapshotUnusable."""
    if len(sealed) < _FRAME.size + _DIGEST_BYTES:
        raise SnapshotUnusable(f"{key}: cut off, {len(sealed)} bytes")
    magic, version, header_bytes = _FRAME.unpack_from(sealed)
    if magic != _MAGIC:
        raise SnapshotUnusable(f"{key}: not a file of Cutbank's")
    if version != FORMAT_VERSION:
        raise SnapshotUnusable(f"{key}: format version {version}, this Cutbank reads version {FORMAT_VERSION}")
    content, digest = memoryview(sealed)[:-_DIGEST_BYTES], sealed[-_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise SnapshotUnusable(f"{key}: its checksum is wrong, it is corrupt or cut off")
    try:
        header = orjson.loads(content[_FRAME.size : _FRAME.size + header_bytes])
    except orjson.JSONDecodeError:
        raise SnapshotUnusable(f"{key}: its header is no JSON") from None
    if not isinstance(header, dict) or header.get("kind") != kind:
        raise SnapshotUnusable(f"{key}: not a {kind}")
    return header, bytes(content[_FRAME.size + header_bytes :])
