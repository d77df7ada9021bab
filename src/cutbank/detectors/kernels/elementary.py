"""The natural logarithm from plain arithmetic: libm's differs between machines in the last bit. Stateless."""

import math

from cutbank.detectors.kernels.compiling import compiled

LN2_HIGH = 6.93147180369123816490e-01
"""ln 2, upper 33 bits: its product with an exponent is exact."""
LN2_LOW = 1.90821492927058770002e-10
"""ln 2 - LN2_HIGH."""
LN2 = 0.6931471805599453
"""ln 2, to the nearest float64."""
SQRT_HALF = 0.7071067811865476

LN_COEFFICIENTS = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
"""Lg1 to Lg7 of fdlibm: a Remez polynomial for (ln(1+s) - ln(1-s)) / s - 2 in s squared."""
_LG1, _LG2, _LG3, _LG4, _LG5, _LG6, _LG7 = LN_COEFFICIENTS


@compiled
def natural_log(x: float) -> float:
    """ln(x), within 1 unit in the last place. x: float64, finite, > 0 (subnormals too).

    Source: Sun's fdlibm, e_log.c: x = 2**k * (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2), then with s = f / (2 + f)
    ln(1 + f) = f - f*f/2 + s * (f*f/2 + R(s*s)). frexp is exact everywhere. Plain twin: plain_elementary.
    """
    mantissa, exponent = math.frexp(x)
    if mantissa < SQRT_HALF:
        mantissa *= 2.0
        exponent -= 1
    f = mantissa - 1.0
    k = float(exponent)
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    even = w * (_LG2 + w * (_LG4 + w * _LG6))
    odd = z * (_LG1 + w * (_LG3 + w * (_LG5 + w * _LG7)))
    half_square = 0.5 * f * f
    return k * LN2_HIGH - ((half_square - (s * (half_square + (even + odd)) + k * LN2_LOW)) - f)
