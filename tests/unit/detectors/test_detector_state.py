"""Snapshots: what is refused by name, what a hostile one can't do, and that yesterday's still load."""

import gzip
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank import detectors
from cutbank.detectors.parameters import Parameters
from cutbank.detectors.state import (
    ARRAYS_MAX,
    FORMAT_VERSION,
    HEADER_BYTES_MAX,
    MAGIC,
    State,
    decode_state,
    encode_state,
)
from cutbank.errors import SnapshotUnusable
from cutbank.testing.detector_contract import uniform_numbers

FIXTURES = Path(__file__).parents[2] / "fixtures" / "detectors"
SMALL = {"dimensions": 2, "seed": 5, "number_of_trees": 3, "sub_sample_size": 16, "time_decay": 100, "shingle_size": 2}


def features(records: int, *, seed: int = 1) -> np.ndarray:
    return np.floor(uniform_numbers(seed=seed, count=2 * records).reshape(records, 2) * 60.0) / 10.0 - 3.0


def snapshot(name: str = "rcf", *, records: int = 60) -> bytes:
    detector = detectors.create(name, **SMALL)
    detector.score_then_learn(features(records))
    return detector.to_bytes()


def sealed(header: bytes, body: bytes = b"", *, version: int = FORMAT_VERSION, magic: bytes = MAGIC) -> bytes:
    data = struct.pack("<8sII", magic, version, len(header)) + header + body
    return data + hashlib.sha256(data).digest()


def header_of(data: bytes) -> dict[str, Any]:
    return json.loads(data[16 : 16 + struct.unpack_from("<I", data, 12)[0]])


def with_header(data: bytes, **changes: Any) -> bytes:
    """The same arrays under another header, properly sealed."""
    start = 16 + struct.unpack_from("<I", data, 12)[0]
    return sealed(json.dumps(header_of(data) | changes).encode(), data[start:-32])


def with_array(data: bytes, name: str, place: tuple[int, ...] | int, value: float) -> bytes:
    """The same state but for one number, properly sealed."""
    state = decode_state(data)
    state.arrays[name][place] = value
    return encode_state(state)


def refused(data: bytes) -> str:
    with pytest.raises(SnapshotUnusable) as error:
        detectors.from_bytes(data)
    return str(error.value)


def test_the_container_gives_back_what_it_was_given() -> None:
    arrays = {
        "a": np.array([[1.5, -0.0], [np.inf, 5e-324]]),
        "b": np.array([-(2**63), 2**63 - 1]),
        "c": np.array([2**64 - 1], np.uint64),
        "d": np.empty((0, 3), np.int16),
        "e": np.frombuffer(b"bytes", np.uint8),
    }
    state = decode_state(encode_state(State("any", 4, Parameters(**SMALL), arrays)))
    assert (state.name, state.algorithm_version, state.parameters) == ("any", 4, Parameters(**SMALL))
    assert list(state.arrays) == list(arrays)
    for name, array in arrays.items():
        assert state.arrays[name].dtype == array.dtype
        assert state.arrays[name].shape == array.shape
        assert state.arrays[name].tobytes() == array.tobytes()
        assert state.arrays[name].flags.writeable


def test_big_endian_arrays_are_written_little_endian() -> None:
    array = np.array([1.0, 2.0])
    one = encode_state(State("any", 1, Parameters(**SMALL), {"a": array}))
    assert encode_state(State("any", 1, Parameters(**SMALL), {"a": array.astype(">f8")})) == one


@pytest.mark.parametrize("length", [0, 1, 15, 16, 47, 48, 200, -33, -32, -1])
def test_a_cut_off_snapshot_is_refused(length: int) -> None:
    assert "cut off" in refused(snapshot()[:length])


def test_anything_appended_is_refused() -> None:
    assert "altered" in refused(snapshot() + b"\0")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_altered_byte_is_refused(data: st.DataObject) -> None:
    altered = bytearray(_SNAPSHOT)
    altered[data.draw(st.integers(0, len(altered) - 1))] ^= data.draw(st.integers(1, 255))
    refused(bytes(altered))


_SNAPSHOT = snapshot()


def test_other_magic_and_versions_are_refused_by_name() -> None:
    header = json.dumps(header_of(_SNAPSHOT)).encode()
    assert "magic" in refused(sealed(header, magic=b"GZIPPED\0"))
    assert "format version 2; this program reads 1" in refused(sealed(header, version=2))
    assert "rcf version 9; this program has version 1" in refused(with_header(_SNAPSHOT, algorithm_version=9))
    assert "unknown detector, 'nobody'" in refused(with_header(_SNAPSHOT, detector="nobody"))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"detector":"rcf"}',
        b'{"detector":"rcf","algorithm_version":1,"parameters":{"dimensions":1},"arrays":7}',
        b'{"detector":"rcf","algorithm_version":1,"parameters":{"dimensions":1},"arrays":[["a"]]}',
        b'{"detector":"rcf","algorithm_version":1,"parameters":{"dimensions":1,"more":1},"arrays":[]}',
        b'{"detector":7,"algorithm_version":1,"parameters":{"dimensions":1},"arrays":[]}',
        b'{"detector":"rcf","algorithm_version":true,"parameters":{"dimensions":1},"arrays":[]}',
    ],
)
def test_a_malformed_header_is_refused(header: bytes) -> None:
    assert "can't be read" in refused(sealed(header))


def test_limits_hold_before_anything_is_allocated() -> None:
    huge = [["weight", "<f8", [2**40, 2**40]]]
    assert "its header says" in refused(with_header(_SNAPSHOT, arrays=huge))
    assert "more than" in refused(with_header(_SNAPSHOT, arrays=[["a", "<f8", [0]]] * (ARRAYS_MAX + 1)))
    for entry in (["a", "<f8", [-1]], ["a", "|O", [1]], ["a", "<f8", [True]], [3, "<f8", [1]], ["a", "<f4", [1]]):
        assert "array that can't be read" in refused(with_header(_SNAPSHOT, arrays=[entry]))
    assert "header of" in refused(
        struct.pack("<8sII", MAGIC, 1, 99) + hashlib.sha256(struct.pack("<8sII", MAGIC, 1, 99)).digest()
    )
    assert "header of" in refused(sealed(b" " * (HEADER_BYTES_MAX + 1)))


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("number_of_trees", 0), ("sub_sample_size", 1001), ("time_decay", 16), ("dimensions", 900), ("seed", -1)],
)
def test_parameters_out_of_range_are_refused(parameter: str, value: int) -> None:
    changed = header_of(_SNAPSHOT)["parameters"] | {parameter: value}
    assert "out of range" in refused(with_header(_SNAPSHOT, parameters=changed))


def test_parameters_that_imply_other_arrays_are_refused_without_building_them() -> None:
    changed = header_of(_SNAPSHOT)["parameters"] | {"number_of_trees": 1000, "dimensions": 500, "sub_sample_size": 1000}
    refused(with_header(_SNAPSHOT, parameters=changed | {"time_decay": 10**6}))
    assert "its parameters imply" in refused(
        with_header(_SNAPSHOT, parameters=header_of(_SNAPSHOT)["parameters"] | {"number_of_trees": 4})
    )
    state = decode_state(_SNAPSHOT)
    fewer = {name: array for name, array in state.arrays.items() if name != "mass"}
    assert "other arrays than expected: mass" in refused(
        encode_state(State(state.name, state.algorithm_version, state.parameters, fewer))
    )


FULL = snapshot(records=200)
TREE = decode_state(FULL).arrays
ROOT = int(TREE["root"][1])


@pytest.mark.parametrize(
    ("array", "place", "value", "says"),
    [
        ("size", 1, 17, "more samples than fit"),
        ("size", 1, -1, "more samples than fit"),
        ("size", 1, 3, "mass"),
        ("weight", (1, 3), np.nan, "weight"),
        ("weight", (1, 3), np.inf, "weight"),
        ("weight", (1, 15), 1e9, "heap order"),
        ("sample_leaf", (1, 0), 16, "leaf is out of range"),
        ("sample_leaf", (1, 0), -1, "leaf is out of range"),
        ("mass", (1, int(TREE["sample_leaf"][1, 0])), 9, "mass"),
        ("point", (1, int(TREE["sample_leaf"][1, 0]), 2), np.nan, "point is not finite"),
        ("point", (1, int(TREE["sample_leaf"][1, 0]), 2), 1e301, "point is not finite"),
        ("root", 1, 32, "node is out of range"),
        ("root", 1, -2, "node is out of range"),
        ("root", 1, -1, "hangs nowhere"),
        ("root", 1, 16 + int(TREE["sample_leaf"][1, 0]), "hangs nowhere"),
        ("left", (1, ROOT), 32, "node is out of range"),
        ("left", (1, ROOT), -1, "node is out of range"),
        ("left", (1, ROOT), -32768, "node is out of range"),
        ("right", (1, ROOT), ROOT, "two parents"),
        ("right", (1, ROOT), int(TREE["left"][1, ROOT]), "two parents"),
        ("cut_dimension", (1, ROOT), 4, "dimension is out of range"),
        ("cut_dimension", (1, ROOT), -1, "dimension is out of range"),
        ("cut_value", (1, ROOT), np.nan, "does not part"),
        ("cut_value", (1, ROOT), 1e9, "does not part"),
        ("seen", 0, -1, "count of records"),
        ("seen", 0, 2**60, "count of records"),
        ("shingle", 0, np.nan, "shingle is out of range"),
    ],
)
def test_a_sealed_snapshot_of_no_forest_is_refused(array: str, place: Any, value: float, says: str) -> None:
    assert says in refused(with_array(FULL, array, place, value))


@given(
    st.sampled_from(["size", "sample_leaf", "root", "left", "right", "cut_dimension", "mass", "cut_value", "point"]),
    st.data(),
)
@settings(max_examples=300, deadline=None)
def test_a_hostile_snapshot_is_refused_or_harmless(array: str, data: st.DataObject) -> None:
    """Whatever one number is changed to: either refused, or a forest that scores on within its arrays."""
    state = decode_state(FULL)
    target = state.arrays[array]
    place = data.draw(st.integers(0, target.size - 1))
    if target.dtype == np.float64:
        target.flat[place] = data.draw(st.floats())
    else:
        target.flat[place] = data.draw(st.integers(-40, 40))
    try:
        detector = detectors.from_bytes(encode_state(state))
    except SnapshotUnusable:
        return
    scores = detector.score_then_learn(features(300, seed=9))
    assert np.isfinite(scores).all()
    # What it has become is a forest still: its own snapshot passes every check.
    detectors.from_bytes(detector.to_bytes())


@pytest.mark.parametrize(
    ("array", "place", "value", "says"),
    [
        ("counter", 0, 250, "count is out of range"),
        ("first_window", 0, 2, "count is out of range"),
        ("learning_mass", (0, 0), -1, "learning_mass is out of range"),
        ("scoring_mass", (9, 510), 251, "scoring_mass is out of range"),
        ("least", 1, np.nan, "not a number"),
        ("cuts_digest", 0, 255, "builds other trees"),
    ],
)
def test_a_sealed_snapshot_of_no_half_space_trees_is_refused(array: str, place: Any, value: float, says: str) -> None:
    data = snapshot("hst")
    if array == "cuts_digest":
        value = 255 - int(decode_state(data).arrays[array][0])
    assert says in refused(with_array(data, array, place, value))


def test_an_ensemble_with_another_array_is_refused() -> None:
    state = decode_state(snapshot("ensemble"))
    arrays = dict(state.arrays) | {"spare": np.zeros(1)}
    assert "other arrays" in refused(encode_state(State(state.name, 1, state.parameters, arrays)))


def test_a_snapshot_of_the_defaults_is_small() -> None:
    detector = detectors.create("rcf", dimensions=2)
    detector.score_then_learn(features(600))
    assert len(detector.to_bytes()) < 2_000_000


@pytest.mark.parametrize("name", ["rcf", "hst", "ensemble"])
def test_yesterdays_snapshot_goes_on_with_yesterdays_scores(name: str) -> None:
    """Frozen by this suite's `snapshot(name, records=300)`; the next scores stand beside it, as float64 in hex."""
    detector = detectors.from_bytes(gzip.decompress((FIXTURES / f"{name}-v1.state.gz").read_bytes()))
    expected = json.loads((FIXTURES / "next-scores.json").read_text())[name]
    scores = detector.score_then_learn(features(20, seed=2) * 1.5)
    assert [score.hex() for score in scores.tolist()] == expected


@pytest.mark.parametrize("name", ["rcf", "hst", "ensemble"])
def test_todays_snapshot_is_the_frozen_one(name: str) -> None:
    """Another format, or another meaning of an array, needs another version: then freeze another fixture beside it."""
    assert snapshot(name, records=300) == gzip.decompress((FIXTURES / f"{name}-v1.state.gz").read_bytes())
