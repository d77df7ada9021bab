"""Twin of kernels/elementary.py: fdlibm's logarithm in plain Python."""

import math
import struct

LG = (
    0x3FE5555555555593,
    0x3FD999999997FA04,
    0x3FD2492494229359,
    0x3FCC71C51D8E78AF,
    0x3FC7466496CB03DE,
    0x3FC39A09D078C69F,
    0x3FC2F112DF3E5244,
)
"""Lg1 to Lg7 as fdlibm prints their bits; LN2_HIGH and LN2_LOW likewise."""
LN2_HIGH, LN2_LOW = 0x3FE62E42FEE00000, 0x3DEA39EF35793C76


def from_bits(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def plain_log(x: float) -> float:
    g1, g2, g3, g4, g5, g6, g7 = (from_bits(bits) for bits in LG)
    m, k = math.frexp(x)
    while m < math.sqrt(0.5):
        m, k = m * 2, k - 1
    f = m - 1
    s = f / (2 + f)
    z = s * s
    w = z * z
    remainder = w * (g2 + w * (g4 + w * g6)) + z * (g1 + w * (g3 + w * (g5 + w * g7)))
    # a + b and b + a are the same float64, so the order of these two does not matter.
    half = 0.5 * f * f
    return k * from_bits(LN2_HIGH) - ((half - (s * (half + remainder) + k * from_bits(LN2_LOW))) - f)


def plain_log2(x: float) -> float:
    return plain_log(x) / math.log(2)
