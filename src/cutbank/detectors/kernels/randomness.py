"""Random numbers whose stream never changes: SplitMix64, one 64-bit state a tree, kept with the tree.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014); constants of its public-domain
reference code (splitmix64.c, S. Vigna). Every state is good; the period is 2**64.
"""

import numpy as np
from numpy.typing import NDArray

from cutbank.detectors.kernels.compiling import compiled

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31, _SHIFT_12 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(12)
_TO_UNIT = 2.0**-52


@compiled
def next_bits(states: NDArray[np.uint64], index: int) -> np.uint64:
    """The next 64 random bits of generator `index`, whose state moves on. states: uint64 (n,).

    Plain twin: plain_random.
    """
    state = states[index] + _STEP
    states[index] = state
    mixed = (state ^ (state >> _SHIFT_30)) * _MIX_1
    mixed = (mixed ^ (mixed >> _SHIFT_27)) * _MIX_2
    bits: np.uint64 = mixed ^ (mixed >> _SHIFT_31)
    return bits


@compiled
def next_uniform(states: NDArray[np.uint64], index: int) -> float:
    """The next number of generator `index`, uniform on (0, 1): never 0, never 1.

    52 bits and a half: (n + 1/2) / 2**52 is exact for every n. Plain twin: plain_random.
    """
    return (np.float64(next_bits(states, index) >> _SHIFT_12) + 0.5) * _TO_UNIT
