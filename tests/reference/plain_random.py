"""Twin of kernels/randomness.py: SplitMix64 in Python's unbounded integers."""

MASK = 2**64 - 1


class PlainRandom:
    def __init__(self, state: int) -> None:
        self.state = state

    def bits(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        return ((self.bits() >> 12) + 0.5) / 2**52
