"""Positions keep their order in every form that leaves the process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutbank.records import (
    POSITION_BITS,
    Batch,
    Partition,
    Position,
    partition_for,
    position_from_inverted,
    position_from_text,
    position_inverted,
    position_text,
)

any_position = st.one_of(
    st.integers(0, 2**64 - 1),
    st.builds(lambda high, low: high << 64 | low, st.integers(1, 2**187), st.integers(0, 2**64 - 1)),
    st.just(2**POSITION_BITS - 1),
).map(Position)


@given(any_position)
def test_text_and_inverted_forms_round_trip(position: Position) -> None:
    assert position_from_text(position_text(position)) == position
    assert position_from_inverted(position_inverted(position)) == position


@given(any_position, any_position)
def test_the_inverted_form_has_one_width_and_sorts_newest_first(one: Position, other: Position) -> None:
    a, b = position_inverted(one), position_inverted(other)
    assert len(a) == len(b) == 64
    assert (a < b) == (one > other)
    assert a < "birth"  # names in lower case come after every position in a LIST


def test_the_text_form_reads_like_the_brokers_own() -> None:
    assert position_text(Position(42)) == "42"  # Kafka's offset, the local log's counter
    sequence = 49590338271490256608559692538361571095921575989136588898
    assert position_text(Position(sequence << 64 | 3)) == f"{sequence}.3"  # Kinesis


@pytest.mark.parametrize("text", ["", "-1", "1.", ".5", "1.2.3", "٣", "1e3", str(2**64), f"{2**192}.0", f"1.{2**64}"])
def test_what_is_not_a_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        position_from_text(text)


@pytest.mark.parametrize("text", ["", "birth", "F" * 63, "f" * 64, "F" * 64 + "0", "F" * 63 + "-"])
def test_what_is_not_an_inverted_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an inverted position"):
        position_from_inverted(text)


@given(st.lists(st.integers(0, 200), unique=True).map(sorted), st.integers(0, 220))
def test_before_cuts_a_batch_exactly(numbers: list[int], cut: int) -> None:
    positions = [Position(number) for number in numbers]
    batch = Batch(
        partition=Partition("trades", "0"),
        start=Position(0),
        end=Position(201),
        positions=positions,
        arrivals_ms=numbers,
        keys=[None] * len(numbers),
        values=[str(number).encode() for number in numbers],
    )
    part = batch.before(Position(cut))
    assert list(part.values) == [str(number).encode() for number in numbers if number < cut]
    assert list(part.arrivals_ms) == [number for number in numbers if number < cut]
    assert len(part) == len(part.keys)
    assert part.end == min(cut, 201)


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_a_numbered_source_goes_to_its_number_modulo_the_outputs(source: int, outputs: int) -> None:
    ids = [str(number) for number in range(outputs)]
    assert partition_for(str(source), ids) == str(source % outputs)


def test_other_sources_spread_by_a_frozen_hash() -> None:
    ids = ["a", "b", "c"]
    shards = [f"shardId-{number:012d}" for number in range(9)]
    assert {partition_for(shard, ids) for shard in shards} == set(ids)
    assert partition_for("shardId-000000000000", ids) == "b"
