"""The logarithm and the generators that scores depend on."""

import math
from decimal import Decimal, getcontext
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.detectors.kernels.elementary import natural_log
from cutbank.detectors.kernels.randomness import next_bits, next_uniform
from reference.plain_elementary import plain_log
from reference.plain_random import PlainRandom


def error_in_ulps(x: float) -> float:
    """How far natural_log is from ln(x) at 60 digits, in units in the last place."""
    getcontext().prec = 60
    exact = Decimal(x).ln()
    got = natural_log(x)
    return float(abs(Decimal(got) - exact) / Decimal(math.ulp(float(exact))))


@settings(deadline=None)  # the first call loads the compiled kernel
@given(st.floats(min_value=5e-324, max_value=1.7976931348623157e308))
def test_logarithm_is_within_one_unit_in_the_last_place(x: float) -> None:
    assert error_in_ulps(x) < 1.0 if x != 1.0 else natural_log(x) == 0.0


@settings(deadline=None)  # the first call loads the compiled kernel
@given(st.floats(min_value=0.7, max_value=1.5).filter(lambda x: x != 1.0))
def test_logarithm_is_as_good_near_one(x: float) -> None:
    assert error_in_ulps(x) < 1.0


@pytest.mark.parametrize(
    "x",
    [5e-324, 2.2250738585072014e-308, 1 - 2**-53, 1 + 2**-52, 2.0, math.e, 0.5**0.5, 2.0**1023, 1.7976931348623157e308],
)
def test_logarithm_at_the_corners(x: float) -> None:
    assert error_in_ulps(x) < 1.0


def test_logarithm_of_powers_of_two_grows() -> None:
    values = [natural_log(2.0**k) for k in range(-1074, 1024)]
    assert values[1074] == 0.0
    assert all(a < b for a, b in pairwise(values))


@settings(deadline=None)  # the first call loads the compiled kernel
@given(st.floats(min_value=5e-324, max_value=1.7976931348623157e308))
def test_logarithm_equals_its_plain_twin(x: float) -> None:
    assert natural_log(x) == plain_log(x)


def test_generator_gives_the_published_numbers() -> None:
    # First outputs of splitmix64.c from state 1234567, as its users publish them.
    states = np.array([1234567], np.uint64)
    assert [int(next_bits(states, 0)) for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@settings(deadline=None)  # the first call loads the compiled kernel
@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_generator_equals_its_plain_twin(state: int) -> None:
    states, twin = np.array([0, state], np.uint64), PlainRandom(state)
    for _ in range(3):
        assert next_uniform(states, 1) == twin.uniform()
    assert int(states[1]) == twin.state
    assert int(states[0]) == 0, "another generator moved"


def test_uniform_numbers_never_reach_their_ends() -> None:
    assert 0.0 < (0 + 0.5) / 2**52
    assert ((2**52 - 1) + 0.5) / 2**52 < 1.0
    states = np.array([9], np.uint64)
    numbers = np.array([next_uniform(states, 0) for _ in range(20_000)])
    assert numbers.min() > 0.0
    assert numbers.max() < 1.0
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(numbers.var() - 1 / 12) < 0.003
