"""Numeric kernels: free functions that numba compiles. They own no state; the arrays they work on are given to them.

Invariant: what feeds a score is plain IEEE arithmetic (+ - * / and comparison) in an order that is written down here:
no numpy reduction, no libm log or exp, no fastmath, no fused multiply-add. So a score is the same on every machine.
They release the GIL and take no locks: one task per model. Each has a plain Python twin in tests/reference.
"""
