"""What waits to be published is joined into steps: whole, in order, within the limits."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutbank.pipeline.scoring.backlog import PIECES_MAX, Backlog
from cutbank.pipeline.scoring.model import Scored
from cutbank.pipeline.scoring.room import Room
from cutbank.records import Position
from cutbank.transports.base import Output


def piece(start: int, end: int, *values: bytes) -> Scored:
    return Scored(
        start=Position(start),
        end=Position(end),
        outputs=[Output("anomalies", value) for value in values],
        records=end - start,
        scored=end - start - 1,
        anomalies=len(values),
        errors=Counter(empty=1),
        anomaly_arrivals_ms=list(range(start, start + len(values))),
    )


def test_a_piece_alone_is_a_step_as_it_is() -> None:
    backlog = Backlog(lambda: Room(2, 10))
    one = piece(0, 5, b"a", b"b", b"c")
    backlog.put(one)
    assert backlog.full
    assert backlog.take() is one
    assert not backlog


def test_a_step_is_all_that_waits_from_the_first_start_to_the_last_end() -> None:
    backlog = Backlog(lambda: Room(10, 100))
    backlog.put(piece(3, 5, b"a"))
    backlog.put(piece(5, 9))
    backlog.put(piece(11, 15, b"b", b"c"))
    assert not backlog.full
    step = backlog.take()
    assert (step.start, step.end) == (3, 15)
    assert [output.value for output in step.outputs] == [b"a", b"b", b"c"]
    assert (step.records, step.scored, step.anomalies, step.errors) == (10, 7, 3, Counter(empty=3))
    assert step.anomaly_arrivals_ms == [3, 11, 12]
    assert not backlog


@pytest.mark.parametrize(("outputs_max", "bytes_max"), [(3, 100), (100, 6)])
def test_over_the_limit_is_left_for_the_next_step(outputs_max: int, bytes_max: int) -> None:
    backlog = Backlog(lambda: Room(outputs_max, bytes_max))
    full, ends = [], []
    for number in range(2):
        backlog.put(piece(number, number + 1, b"aa", b"bb"))
        full.append(backlog.full)
    assert full == [False, True], "one that does not fit is there already: no more is scored"
    while backlog:
        ends.append(backlog.take().end)
        full.append(backlog.full)
    assert ends == [1, 2]
    assert full[2:] == [False, False]


def test_pieces_without_outputs_are_bounded_too() -> None:
    backlog = Backlog(lambda: Room(10, 100))
    for number in range(PIECES_MAX):
        assert not backlog.full
        backlog.put(piece(number, number + 1))
    assert backlog.full
    assert backlog.take().end == PIECES_MAX


@given(
    st.lists(st.lists(st.binary(max_size=4), max_size=4), max_size=20),
    st.integers(1, 6),
    st.integers(1, 12),
)
def test_nothing_is_left_out_repeated_or_turned_around(pieces: list[list[bytes]], outputs_max: int, size: int) -> None:
    backlog = Backlog(lambda: Room(outputs_max, size))
    for number, values in enumerate(pieces):
        backlog.put(piece(number, number + 1, *values))
    steps = []
    while backlog:
        steps.append(backlog.take())
    assert [output.value for step in steps for output in step.outputs] == [value for one in pieces for value in one]
    ends = [0, *(step.end for step in steps)]
    assert [step.start for step in steps] == ends[:-1]
    for step in steps:
        outputs = [output.value for output in step.outputs]
        within = len(outputs) <= outputs_max and sum(map(len, outputs)) <= size
        assert within or step.end == step.start + 1
