"""Readiness and liveness as the parts report them."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.runtime.health import CHECKS_MAX, LATE_S, Health


def test_nothing_reported_is_not_ready_and_says_so() -> None:
    health = Health()
    assert not health.is_ready
    assert health.why_not() == "nothing was reported yet"


def test_ready_when_every_part_is() -> None:
    health = Health()
    health.ready("transport", ok=True)
    health.ready("partition 0", ok=False, why="replaying")
    assert not health.is_ready
    assert health.why_not() == "partition 0: replaying"
    health.ready("partition 0", ok=True)
    assert health.is_ready
    assert health.why_not() == ""


def test_a_part_that_is_gone_no_longer_counts() -> None:
    health = Health()
    health.ready("transport", ok=True)
    health.ready("partition 0", ok=False)
    health.forget("partition 0")
    health.forget("never there")
    assert health.is_ready
    assert list(health.checks) == ["transport"]


def test_turns_are_told_once_each_and_with_the_reason() -> None:
    told: list[tuple[bool, str]] = []
    health = Health(on_change=lambda ready, why: told.append((ready, why)))
    health.ready("store", ok=False, why="down")
    health.ready("store", ok=True)
    health.ready("store", ok=True)
    health.ready("store", ok=False, why="slow")
    health.ready("store", ok=False, why="slower")
    health.forget("store")
    assert told == [(True, ""), (False, "store: slow")]


def test_a_late_loop_does_not_live_until_it_turns_in_time_again() -> None:
    health = Health()
    assert health.live()
    health.beat(LATE_S)
    assert not health.live()
    health.beat(0.0)
    assert health.live()


def test_checks_are_bounded() -> None:
    health = Health()
    for number in range(CHECKS_MAX):
        health.ready(f"partition {number}", ok=True)
    health.ready("partition 0", ok=False)
    with pytest.raises(AssertionError, match="bounded"):
        health.ready("one more", ok=True)


REPORTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([True, False, None])), max_size=30)


@settings(deadline=None)
@given(reports=REPORTS)
def test_readiness_is_the_last_reports_of_all_parts(reports: list[tuple[str, bool | None]]) -> None:
    told: list[bool] = []
    health = Health(on_change=lambda ready, _: told.append(ready))
    last: dict[str, bool] = {}
    for name, ok in reports:
        if ok is None:
            health.forget(name)
            last.pop(name, None)
        else:
            health.ready(name, ok=ok)
            last[name] = ok
        assert health.is_ready == (bool(last) and all(last.values()))
        assert health.is_ready == (told[-1] if told else False)
        assert bool(health.why_not()) != health.is_ready
    assert all(first != second for first, second in pairwise(told))
