"""Births and snapshots as bytes: they read back whole, and nothing damaged, foreign or from the future is believed."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.errors import SnapshotUnusable
from cutbank.objects.base import key_check
from cutbank.pipeline.scoring.snapshots import (
    FORMAT_VERSION,
    Birth,
    Run,
    Snapshot,
    StreamBirth,
    birth_bytes,
    birth_from_bytes,
    birth_key,
    parse_key,
    partition_prefix,
    snapshot_bytes,
    snapshot_from_bytes,
    snapshot_key,
    stream_birth_bytes,
    stream_birth_from_bytes,
    stream_birth_key,
)
from cutbank.records import Partition, Position
from scoring_stage import P0

GOLDEN = Path(__file__).parents[2] / "golden"
RUN = Run(pipeline="p", partition=P0, identity="c0ffee", number=3, spec_hash="5pec")
SHARD = Partition("trades", "shardId-000000000007")
BIRTH = Birth(run=RUN, start=Position(49590338271490256608559692538361571095921575989136588898 << 64 | 7))
SNAPSHOT = Snapshot(
    run=RUN,
    next=Position(123),
    clamp_ms=1_795_388_400_123,
    records=120,
    errors=3,
    anomalies=4,
    threshold=0.1,
    detector=bytes(range(256)),
)
STREAM_BIRTH = StreamBirth(
    pipeline="p", stream="trades", identity="c0ffee", starts={"0": Position(0), "1": BIRTH.start}
)


def test_everything_reads_back() -> None:
    assert birth_from_bytes(birth_bytes(BIRTH), key="k") == BIRTH
    assert snapshot_from_bytes(snapshot_bytes(SNAPSHOT), key="k") == SNAPSHOT
    assert stream_birth_from_bytes(stream_birth_bytes(STREAM_BIRTH), key="k") == STREAM_BIRTH


def test_yesterdays_files_still_read() -> None:
    assert birth_from_bytes((GOLDEN / "birth_v1.bin").read_bytes(), key="k") == BIRTH
    assert snapshot_from_bytes((GOLDEN / "snapshot_v1.bin").read_bytes(), key="k") == SNAPSHOT
    assert stream_birth_from_bytes((GOLDEN / "stream_birth_v1.bin").read_bytes(), key="k") == STREAM_BIRTH


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_one_changed_bit_anywhere_is_found(data: st.DataObject) -> None:
    body = bytearray(snapshot_bytes(SNAPSHOT))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SnapshotUnusable, match="the/key"):
        snapshot_from_bytes(bytes(body), key="the/key")


@given(st.integers(0, 2000))
@settings(max_examples=200, deadline=None)
def test_a_cut_anywhere_is_found(size: int) -> None:
    body = snapshot_bytes(SNAPSHOT)
    with pytest.raises(SnapshotUnusable):
        snapshot_from_bytes(body[: size % len(body)], key="k")


def test_a_newer_format_says_so() -> None:
    body = bytearray(birth_bytes(BIRTH))
    body[9] = FORMAT_VERSION + 1
    with pytest.raises(SnapshotUnusable, match=f"format version {FORMAT_VERSION + 1}"):
        birth_from_bytes(bytes(body), key="k")


def test_another_kind_of_file_is_not_taken_for_it() -> None:
    with pytest.raises(SnapshotUnusable, match="not a snapshot"):
        snapshot_from_bytes(birth_bytes(BIRTH), key="k")
    with pytest.raises(SnapshotUnusable, match="not a birth"):
        birth_from_bytes(stream_birth_bytes(STREAM_BIRTH), key="k")
    with pytest.raises(SnapshotUnusable, match="not a file of Cutbank's"):
        birth_from_bytes(b"x" * 100, key="k")


class TestKeys:
    def test_are_as_frozen(self) -> None:
        assert stream_birth_key("p", "trades") == "p/trades/birth"
        assert birth_key("p", P0, 3) == "p/trades/0/00000003/birth"
        assert snapshot_key("p", P0, 3, Position(1)) == "p/trades/0/00000003/" + "F" * 63 + "E"

    @pytest.mark.parametrize("partition", [P0, SHARD])
    def test_are_keys_that_every_store_takes(self, partition: Partition) -> None:
        name = "a" * 100
        for key in (
            stream_birth_key(name, name),
            birth_key(name, partition, 1),
            snapshot_key(name, Partition(name, partition.id), 99_999_999, BIRTH.start),
        ):
            assert key_check(key) == key

    def test_read_back(self) -> None:
        prefix = partition_prefix("p", SHARD)
        assert parse_key(prefix, birth_key("p", SHARD, 3)) == (3, None)
        assert parse_key(prefix, snapshot_key("p", SHARD, 12, BIRTH.start)) == (12, BIRTH.start)

    @pytest.mark.parametrize("name", ["birth", "x/birth", "0000001/birth", "00000001/other", "00000001/FF", "00000001"])
    def test_other_files_are_not_ours(self, name: str) -> None:
        prefix = partition_prefix("p", P0)
        assert parse_key(prefix, prefix + name) is None

    def test_of_a_run_sort_the_newest_first_and_the_birth_last(self) -> None:
        keys = [snapshot_key("p", P0, 1, Position(position)) for position in (900, 90, 9)]
        assert sorted([birth_key("p", P0, 1), *keys[::-1]]) == [*keys, birth_key("p", P0, 1)]

    def test_partition_1_does_not_see_partition_10(self) -> None:
        assert not birth_key("p", Partition("trades", "10"), 1).startswith(
            partition_prefix("p", Partition("trades", "1"))
        )
